#!/bin/bash
# The first process of a node, in namespaces of its own: node.sh KIT NAME PATH ...
# Gives the node its name, users, hosts, /tmp and /dev/shm, and makes each PATH (an interpreter, a
# virtual environment) readable although it may lie below a folder that only root can enter, or
# below the /tmp that is covered. COVER lists such folders.
set -euo pipefail
kit=$1 name=$2
shift 2
here=$kit/nodes/$name

hostname "$name"
mount --make-rprivate /
mount --bind "$here/etc" /etc
number=0
for path in "$@"; do
    mkdir -p "$here/keep/$number"
    mount --bind "$path" "$here/keep/$number"
    number=$((number + 1))
done
mount -t tmpfs -o "size=${SHM:-2g},mode=1777" tmpfs /dev/shm
mount --bind "$here/tmp" /tmp
for top in ${COVER:-}; do
    mount -t tmpfs -o mode=755 tmpfs "$top"
done
number=0
for path in "$@"; do
    mkdir -p "$path"
    mount --bind "$here/keep/$number" "$path"
    number=$((number + 1))
done
mount -t proc proc /proc
# An init: it reaps, and when it is killed everything in the node is.
exec /usr/bin/python3 -S -c '
import os, time
print("up", flush=True)
while True:
    try:
        os.wait()
    except ChildProcessError:
        time.sleep(0.2)
'
