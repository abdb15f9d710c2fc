"""One driver at a time: where files can be locked, and where they cannot."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hlvnn.errors import RunError
from hlvnn.records import locks, sweep_folder
from hlvnn.records.sweep_folder import HEARTBEAT, LOCK, has_driver, locking
from tests.helpers import ROOT, wait_until

HOLDER = """
import fcntl, sys, time
from pathlib import Path
from hlvnn.records import locks, sweep_folder

def refuse(*args):
    raise OSError(38, "Function not implemented")

fcntl.flock = refuse
locks.BEAT_SECONDS = 0.1
with sweep_folder.locking(Path(sys.argv[1])):
    print("holds", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have files that cannot be locked, as on Lustre without -o flock; and little patience."""

    def refuse(*args: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(locks, "STALE_SECONDS", 2.0)


def test_which_folders_have_locks_is_seen(tmp_path: Path) -> None:
    assert locks.has_locks(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_locks")
def test_without_locks_a_live_driver_is_seen_and_kept_from_another(tmp_path: Path) -> None:
    assert not locks.has_locks(tmp_path)
    sweep = tmp_path / "sweep"
    command = [sys.executable, "-c", HOLDER, str(sweep)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"holds\n"
        assert has_driver(sweep)
        message = f"is being worked on by process {holder.pid} on "
        with pytest.raises(RunError, match=message), locking(sweep):
            pass
        holder.kill()
    began = time.monotonic()
    with locking(sweep):  # once its heart has not beaten for long enough
        assert time.monotonic() - began > 1
        assert has_driver(sweep)
    assert not has_driver(sweep)
    assert sorted(path.name for path in sweep.iterdir()) == [LOCK]


@pytest.mark.usefixtures("no_locks")
def test_one_of_several_takes_over_what_a_killed_driver_left(tmp_path: Path) -> None:
    (tmp_path / HEARTBEAT).write_text("process 1 on a node that is gone, x\n", encoding="utf-8")
    old = time.time() - 100
    os.utime(tmp_path / HEARTBEAT, (old, old))
    assert not has_driver(tmp_path)
    held, refused = [], []
    over = threading.Event()

    def work() -> None:
        try:
            with locking(tmp_path):
                held.append(1)
                over.wait(60)
        except RunError:
            refused.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(held) + len(refused) == 4)
    over.set()
    for thread in threads:
        thread.join()
    assert len(held) == 1


@pytest.mark.usefixtures("no_locks")
def test_a_driver_that_lost_its_lock_ends(tmp_path: Path, capsys) -> None:
    told: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
    try:
        with locking(tmp_path):
            (tmp_path / HEARTBEAT).write_text("process 2 elsewhere, y\n", encoding="utf-8")
            wait_until(lambda: told)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "was taken over; this process ends" in capsys.readouterr().err
    assert (tmp_path / HEARTBEAT).read_text(encoding="utf-8").startswith("process 2")


def test_what_a_driver_leaves_that_ends_as_it_begins_is_known() -> None:
    assert {LOCK, HEARTBEAT, sweep_folder.SPACE_COPY} <= set(sweep_folder.FIRST)
