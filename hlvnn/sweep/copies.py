"""The driver's copy of a sweep that lives behind an address, and the trial's copy of its folder."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from hlvnn.errors import RunError
from hlvnn.files import expanded
from hlvnn.patience import Patience
from hlvnn.records import outcomes, run_folder
from hlvnn.records.sweep_folder import HEARTBEAT, LOCK
from hlvnn.storage import Remote, Sent, files_below, is_address

LOCAL = (LOCK, HEARTBEAT)
"""Files that concern this machine alone."""
LAST = (run_folder.PREVIOUS, run_folder.CHECKPOINT)
"""Files that are uploaded when all that they rest on has been."""
TRIAL = (run_folder.METRICS, run_folder.RESULT, outcomes.ERROR)
"""What the driver reads of a trial's folder."""
EVERY_SECONDS = 2.0
"""How often what changed is uploaded while the sweep runs."""


class Mirror:
    """Uploads what the driver writes into `sweep`, and fetches what it reads of the trials.

    With `remote` None the sweep's folder is on this machine, and there is nothing to do.
    """

    def __init__(self, sweep: Path, remote: Remote | None, patience: Patience) -> None:
        self.sweep, self.remote, self.patience = sweep, remote, patience
        self.sent: Sent = {}
        self.last = 0.0
        self.away = False

    def push(self) -> None:
        """Upload what changed; wait where storage fails."""
        if self.remote is not None:
            self.patience.patiently(self._push, str(self.remote))

    def push_now_and_then(self) -> None:
        """Upload what changed if the last time is a while ago; do not wait where storage fails."""
        if self.remote is None or time.monotonic() - self.last < EVERY_SECONDS:
            return
        try:
            self._push()
            self.away = False
        except OSError as error:
            if not self.away:
                self.patience.tell(f"{self.remote}: {error}; the sweep goes on and uploads later")
            self.away = True
            self.last = time.monotonic() + 5 * EVERY_SECONDS

    def fetch(self, number: int) -> None:
        """Fetch what the driver reads of a trial."""
        if self.remote is None:
            return
        folder = outcomes.trial_folder(self.sweep, number)
        remote = self.remote / folder.name
        self.patience.patiently(lambda: remote.pull(folder, TRIAL), str(remote))

    def _push(self) -> None:
        assert self.remote is not None
        written = [path for path in self.sweep.iterdir() if path.is_file() and path.name[0] != "."]
        names = [path.name for path in written if path.name not in LOCAL]
        ended = {f"{path.parent.name}/{path.name}" for path in self._outcomes()}
        forgotten = {name for name in self.sent if name.endswith(f"/{outcomes.OUTCOME}")}
        self.remote.push(self.sweep, self.sent, [*names, *sorted(ended | forgotten)])
        self.last = time.monotonic()

    def _outcomes(self) -> list[Path]:
        return list(self.sweep.glob(f"{outcomes.TRIAL}*/{outcomes.OUTCOME}"))


def fetch_sweep(remote: Remote) -> Path:
    """Return a new working folder of a sweep, with all of it that a driver reads."""
    sweep = Path(tempfile.mkdtemp(prefix="hlvnn-sweep-")) / "sweep"
    sweep.mkdir()
    wanted = (*TRIAL, outcomes.OUTCOME)
    names = [name for name in remote.names() if "/" not in name or name.split("/", 1)[1] in wanted]
    remote.pull(sweep, names)
    return sweep


def open_sweep(place: str) -> tuple[Path, Remote | None]:
    """Return a sweep's folder, and its address where the folder is a copy made by this process."""
    if not is_address(place):
        return expanded(Path(place)).resolve(), None
    return _copy_of(place)


@contextmanager
def reading(place: str) -> Iterator[Path]:
    """Yield a sweep's folder, or what a driver reads of it as a copy that is gone afterwards."""
    sweep, remote = open_sweep(place)
    try:
        yield sweep
    finally:
        if remote is not None:
            _copy_of.cache_clear()
            shutil.rmtree(sweep.parent, ignore_errors=True)


@cache
def _copy_of(address: str) -> tuple[Path, Remote]:
    remote = Remote.at(address)
    try:
        return fetch_sweep(remote), remote
    except OSError as error:
        raise RunError(f"{remote}: cannot be read: {error}") from error


class TrialCopy:
    """A trial's folder on the machine that runs it: fetched, and uploaded after every epoch."""

    def __init__(self, remote: Remote, patience: Patience) -> None:
        self.remote, self.patience = remote, patience
        self.folder = Path(tempfile.mkdtemp(prefix="hlvnn-trial-")) / "trial"
        self.sent = patience.patiently(lambda: remote.pull(self.folder), str(remote))
        self.sent.pop(run_folder.WRITER, None)  # an earlier process's

    def push(self) -> None:
        """Upload what changed; raise `RunError` when another process has taken the trial over."""
        self.patience.patiently(self._push, str(self.remote))

    def _push(self) -> None:
        mine = self.folder / run_folder.WRITER
        if run_folder.WRITER in self.sent and mine.exists():
            now = self.remote.read(run_folder.WRITER)
            if now != mine.read_bytes():
                raise RunError(f"{self.remote} was taken over by another process; this one ends")
        names = [*files_below(self.folder, LAST), *self.sent]
        self.remote.push(self.folder, self.sent, list(dict.fromkeys(names)))

    def close(self) -> None:
        """Upload what is left, if storage lets, and remove the copy."""
        with suppress(OSError, RunError):  # what is there is whole, and can be gone on from
            self._push()
        shutil.rmtree(self.folder.parent, ignore_errors=True)
