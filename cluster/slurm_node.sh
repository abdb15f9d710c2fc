#!/bin/bash
# Ray on one node of a SLURM job, until it is told to end: slurm_node.sh head|worker PORT [WRAPPER …]
# slurm_job.sh starts it by srun, with RAY_ADDRESS, the token and HLVNN_NODES in its environment.
# SIGUSR1: the job is over. SIGTERM: SLURM takes the node away. WRAPPER: words before each command,
# of a container.
set -euo pipefail
role=$1 port=$2
shift 2
place=${HLVNN_TMP:-/tmp}

# Folders of this user's jobs that were killed here: nobody holds their lock.
if command -v flock >/dev/null; then
    for left in "$place"/hlvnn.*.????; do
        [[ -O $left && ! -L $left && -f $left/owner ]] || continue
        [[ -n $(find "$left/owner" -mmin +1) ]] || continue # a new one's lock may be yet to come
        ! flock -n "$left/owner" true || rm -rf "$left"
    done
fi

# This user's alone: mktemp makes it of mode 0700. Ray gives its own folder, with the code that it
# runs and its logs, to everybody, so it lies inside. Short, for Ray puts sockets there.
folder=$(mktemp -d "$place/hlvnn.$SLURM_JOB_ID.XXXX")
exec 9>"$folder/owner"
! command -v flock >/dev/null || flock 9
options=(--temp-dir "$folder/r" --disable-usage-stats --block)
# A sweep sends next to nothing through Ray's object store, which would take a third of the memory.
options+=(--object-store-memory "${HLVNN_OBJECT_STORE:-500000000}")
if [[ $role == head ]]; then
    options+=(--head --node-ip-address "${RAY_ADDRESS%:*}" --port "$port")
    if [[ -n ${HLVNN_DASHBOARD:-} ]]; then # HOST:PORT, asked for; 127.0.0.1:8265 is for an SSH tunnel
        options+=(--include-dashboard true)
        options+=(--dashboard-host "${HLVNN_DASHBOARD%:*}" --dashboard-port "${HLVNN_DASHBOARD##*:}")
    else
        options+=(--include-dashboard false)
    fi
else
    # the address of this node from which the head is reached: it may have several
    here=$("$@" python -c '
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
    asked.connect((sys.argv[1], 1))
    print(asked.getsockname()[0])' "${RAY_ADDRESS%:*}" 2>/dev/null) || here=
    options+=(--address "$RAY_ADDRESS" ${here:+--node-ip-address "$here"})
fi
if [[ $role == head && ${HLVNN_HEAD:-} == alone ]]; then # no trial beside the driver
    options+=(--num-cpus 0 --num-gpus 0)
elif [[ $HLVNN_NODES == shared ]]; then
    # Ports that are not named are any free ones: two jobs cannot clash.
    options+=(--num-cpus "${SLURM_CPUS_ON_NODE:-1}" --num-gpus "${SLURM_GPUS_ON_NODE:-0}")
fi

# When it is told to end, Ray would wait for its head for 30 seconds, which SLURM may not give it.
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0
address=$RAY_ADDRESS
unset RAY_ADDRESS # `ray start --head` refuses to start where it is set
ended=
trap 'ended=0; kill -TERM "$ray" 2>/dev/null || true' USR1
trap 'ended=143; kill -TERM "$ray" 2>/dev/null || true' TERM INT
mkdir "$folder/t" # trials' own temporary files
TMPDIR="$folder/t" "$@" ray start "${options[@]}" 9>&- &
ray=$!
status=0
wait "$ray" || status=$?
while kill -0 "$ray" 2>/dev/null; do # a signal ended the wait, not Ray
    status=0
    wait "$ray" || status=$?
done
logs=("$folder"/r/session_2*/logs)
if [[ -d ${logs[0]} && (-z $ended || -d ${HLVNN_KEPT_LOGS:-}) && -n ${HLVNN_KEPT_LOGS:-} ]]; then
    (
        umask 077 # they name paths, settings and nodes
        mkdir -p "$HLVNN_KEPT_LOGS/$(hostname)"
        find "${logs[0]}" -maxdepth 1 -type f -size -20M -size +0 \
            -exec cp {} "$HLVNN_KEPT_LOGS/$(hostname)/" \; 2>/dev/null
    ) || true
fi
for _ in 1 2 3 4 5; do # a process of Ray's may still write
    ! rm -rf "$folder" 2>/dev/null || break
    sleep 0.5
done
# Told not to kill it, SLURM goes on with a job whose first node is lost, and with it the script of the
# sweep: the other nodes would idle until its time is over. The first of them puts the job back.
head_answers() {
    timeout 5 bash -c ': <>"/dev/tcp/$0/$1"' "${address%:*}" "$port" 2>/dev/null
}
if [[ $role == worker ]]; then
    until [[ -n $ended ]] || head_answers; do
        mapfile -t left < <(scontrol show job -o "$SLURM_JOB_ID" 2>/dev/null |
            sed -n 's/.* NodeList=\([^ ]*\) .*/\1/p' | xargs -r scontrol show hostnames)
        [[ ${#left[@]} -gt 0 ]] || break # SLURM has given the whole job up
        if [[ " ${left[*]} " != *" $HLVNN_HEAD_NODE "* ]]; then
            [[ ${left[0]} == "${SLURMD_NODENAME:-}" ]] || break
            scontrol requeue "$SLURM_JOB_ID" || true
            break
        fi
        sleep 10 # until SLURM has seen it, too (SlurmdTimeout)
    done
fi
exit "${ended:-$status}"
