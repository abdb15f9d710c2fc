"""A Ray on this machine that nobody else can use: its own folder, its own token, loopback only.

Ray gives its temporary folder, the code in it and its logs the mode 0777, listens on every
interface, and writes the token of a new cluster into the home folder for everybody to read: whoever
is on the machine could change code that this user runs next. So its folder lies inside a private
one, its token too, and it is given the address of the loopback interface.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]

from hlvnn.errors import RunError
from hlvnn.sweep import access, ray_patch

SOCKET_BYTES = 107 if sys.platform == "linux" else 103
"""Bytes of the longest path of a Unix socket."""
SESSION, TOKEN, OWNER = "r", "token", "owner"
"""In the private folder: what Ray is given, its token, and what its owner keeps locked."""
BELOW = len(f"/{SESSION}/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store.12")
"""Bytes of Ray's longest socket's path below the private folder."""
PREFIX = "hlvnn-own-"
NAME_BYTES = len(f"/{PREFIX}12345678")
SHORT_PLACES = ("/tmp", "/var/tmp", "/dev/shm")
"""Where a short folder may be."""
NEW_SECONDS = 60.0
LOOPBACK = "127.0.0.1"


@contextmanager
def private() -> Iterator[dict[str, Any]]:
    """Yield what `ray.init` is to be told, within which it is to be called; clean up at the end.

    Raises `RunError` where there is no place for it.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(_folder())
        if os.environ.get(access.MODE, "").lower() != access.DISABLED:
            stack.enter_context(_token(folder / TOKEN))
        (folder / SESSION).mkdir()
        stack.enter_context(ray_patch.on_loopback())
        yield {"_temp_dir": str(folder / SESSION), "_node_ip_address": LOOPBACK}


@contextmanager
def _folder() -> Iterator[Path]:
    place = temporary_place()
    _sweep_up(place)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))  # of mode 0700
    try:
        with (folder / OWNER).open("w", encoding="utf-8") as owner:
            with suppress(OSError):  # no locks there: it is not swept up if this process is killed
                fcntl.flock(owner, fcntl.LOCK_EX)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def temporary_place() -> Path:
    """Return the folder in which a private one is made for Ray.

    That of TMPDIR, where a socket's path below it is not too long and no other user could put
    another folder in its place. Raises `RunError` where there is none.
    """
    usual = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    for name in (usual, *SHORT_PLACES):
        place = Path(name)
        if len(os.fsencode(place.absolute())) + NAME_BYTES + BELOW > SOCKET_BYTES:
            continue
        if place.is_dir() and os.access(place, os.W_OK | os.X_OK) and is_safe(place):
            return place.absolute()
    raise RunError(
        f"TMPDIR={usual} is no folder for Ray, nor is any of {', '.join(SHORT_PLACES)}: it must be "
        f"there and writable, short (a socket's path has {SOCKET_BYTES} bytes), and no other user "
        "may be able to rename what is in it (chmod +t); set TMPDIR to such a folder"
    )


def is_safe(place: Path) -> bool:
    """Return whether no other user can rename this user's files in a folder."""
    found = place.stat()
    shared = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return found.st_uid in (0, os.geteuid()) and (not shared or bool(found.st_mode & stat.S_ISVTX))


def _sweep_up(place: Path) -> None:
    """Remove the folders of this user's drivers that were killed: whose lock is free."""
    for folder in place.glob(f"{PREFIX}*"):
        with suppress(OSError):
            found = folder.lstat()
            is_new = time.time() - found.st_mtime < NEW_SECONDS  # its lock may be yet to come
            if found.st_uid != os.geteuid() or not stat.S_ISDIR(found.st_mode) or is_new:
                continue
            with (folder / OWNER).open(encoding="utf-8") as owner:
                fcntl.flock(owner, fcntl.LOCK_SH | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _token(path: Path) -> Iterator[None]:
    """Have Ray use a new token, which only this user can read, whatever the environment says."""
    before = {name: os.environ.pop(name, None) for name in access.SECRETS}
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    os.environ[access.TOKEN_PATH] = str(path)
    AuthenticationTokenLoader.instance().reset_cache()  # of a Ray before this one
    try:
        yield
    finally:
        del os.environ[access.TOKEN_PATH]
        os.environ.update({name: value for name, value in before.items() if value is not None})
        AuthenticationTokenLoader.instance().reset_cache()
