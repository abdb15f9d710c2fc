"""One process at a time: by a lock of the system, or a heartbeat where a file system has no locks.

Lustre without `-o flock` and some NFS refuse flock (`OSError` 38, 95, 37). There the holder writes
into a file every few seconds; a file that has stayed the same for longer is nobody's. What that
does not promise: a holder that is halted for as long (a suspended machine, a server that hangs)
may lose it to another, which it sees at its next beat, and ends.
"""

from __future__ import annotations

import fcntl
import os
import platform
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

BEAT_SECONDS = 5.0
STALE_SECONDS = 45.0
"""How long the file of a heartbeat stays as it is until its holder is taken to be gone."""


class HeldError(Exception):
    """Somebody else holds it; the message says who."""


def me() -> str:
    """Return what others are told of this process."""
    return f"process {os.getpid()} on {platform.node()}"


def has_locks(folder: Path) -> bool:
    """Return whether files of a folder can be locked."""
    probe = folder / f".{uuid.uuid4().hex}"
    try:
        with probe.open("w", encoding="utf-8") as file:
            return _locks(file.fileno(), fcntl.LOCK_EX)
    finally:
        probe.unlink(missing_ok=True)


@contextmanager
def holding(lock: Path, heartbeat: Path) -> Iterator[None]:
    """Hold a lock, which is free when this process ends, however it ends; raise `HeldError`.

    heartbeat: the file of the heartbeat, where `lock` cannot be locked.
    """
    with lock.open("a+", encoding="utf-8") as file:
        try:
            is_locked = _locks(file.fileno(), fcntl.LOCK_EX)
        except BlockingIOError:
            file.seek(0)
            raise HeldError(file.read().strip() or "another process") from None
        file.truncate(0)
        file.write(f"{me()}\n")
        file.flush()
        if is_locked:
            yield
            return
    with beating(heartbeat):
        yield


def is_held(lock: Path, heartbeat: Path) -> bool:
    """Return whether somebody holds a lock now."""
    try:
        with lock.open(encoding="utf-8") as file:
            if _locks(file.fileno(), fcntl.LOCK_SH):
                return False
    except BlockingIOError:
        return True
    except OSError:
        return False
    try:
        return _age(heartbeat) < STALE_SECONDS
    except OSError:
        return False


def _locks(file: int, how: int) -> bool:
    """Lock an open file, or return False where there are no locks; `BlockingIOError` if held."""
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


@contextmanager
def beating(path: Path) -> Iterator[None]:
    """Hold a lock by a heartbeat."""
    mine = f"{me()}, {uuid.uuid4().hex}\n"
    _take(path, mine)
    over = threading.Event()
    beats = threading.Thread(target=_beat, args=(path, mine, over), daemon=True)
    beats.start()
    try:
        yield
    finally:
        over.set()
        beats.join()
        with suppress(OSError):
            if path.read_text(encoding="utf-8") == mine:
                path.unlink()


def _take(path: Path, mine: str) -> None:
    """Make the file of a heartbeat, once nobody's heart beats there."""
    while True:
        try:  # in one step, on a network too
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "w") as file:
                file.write(mine)
            return
        except FileExistsError:
            pass
        with suppress(FileNotFoundError):  # it ends just now
            _see_it_is_stale(path)
            gone = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
            path.rename(gone)  # only one of several can
            gone.unlink()


def _see_it_is_stale(path: Path) -> None:
    """Watch a heartbeat's file until it is stale; raise `HeldError` once it beats."""
    until = time.monotonic() + STALE_SECONDS
    seen = path.stat().st_mtime_ns
    while time.monotonic() < until and _age(path) < STALE_SECONDS:
        if path.stat().st_mtime_ns != seen:
            raise HeldError(path.read_text(encoding="utf-8").partition(",")[0])
        time.sleep(BEAT_SECONDS / 5)


def _age(path: Path) -> float:
    """Return the seconds since a file was written, by the clock of its file system."""
    probe = path.with_name(f".{uuid.uuid4().hex}")
    probe.touch()
    try:
        return probe.stat().st_mtime - path.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _beat(path: Path, mine: str, over: threading.Event) -> None:
    while not over.wait(BEAT_SECONDS):
        with suppress(OSError):  # storage is away: the others see nothing either
            if path.read_text(encoding="utf-8") != mine:
                print(f"error: {path} was taken over; this process ends", file=sys.stderr)
                os.kill(os.getpid(), signal.SIGTERM)
                return
            os.utime(path)
