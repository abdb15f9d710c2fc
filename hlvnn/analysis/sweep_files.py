"""What a sweep's folder says of the sweep as a whole. Reads only: no lock taken, nothing mended."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial

from hlvnn import files
from hlvnn.errors import RunError
from hlvnn.spaces import Settings
from hlvnn.sweep.journal import JOURNAL, Draw, Journal
from hlvnn.sweep.plan import LOCK, SWEEP

DAMAGED = (ValueError, KeyError, TypeError, OSError, RunError)
"""What reading a damaged journal raises, beside Optuna's own."""


@dataclass(frozen=True)
class Record:
    """What `sweep.json` holds, as far as readers need it."""

    space: str
    metric: str
    mode: str
    base: Settings
    fixed: Settings
    options: Settings
    objectives: tuple[tuple[str, str], ...]
    starts: list[dict[str, Any]]

    @property
    def description(self) -> str:
        return str(self.options.get("description", ""))

    @property
    def num_trials(self) -> int:
        return int(self.options.get("num_trials", 0))


def read_record(sweep: Path) -> Record:
    """Read `sweep.json`; `RunError` where it is missing or is not a sweep's."""
    path = sweep / SWEEP
    if not path.exists():
        raise RunError(
            f"{sweep} is not a sweep: {SWEEP} is missing; give the folder that holds it, "
            "RESULTS_DIR/DATASET/SWEEP (or use load_runs for a folder of single runs)"
        )
    record = files.read_json(path)
    try:
        space = record["space"]
        found = Record(
            str(space["name"]),
            str(space["metric"]),
            str(space["mode"]),
            dict(space.get("base", {})),
            dict(record.get("fixed", {})),
            dict(record["options"]),
            _objectives(space),
            list(record.get("starts", [])),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{path}: expected options and space (with name, metric, mode) in it; restore it from "
            "a copy"
        ) from error
    for _, mode in found.objectives:
        if mode not in ("min", "max"):
            raise RunError(f"{path}: mode must be min or max, got {mode!r}")
    return found


def _objectives(space: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return every metric with its mode, the one that chooses the best trial first."""
    pairs = [(space["metric"], space["mode"]), *space.get("others", [])]
    return tuple((str(metric), str(mode)) for metric, mode in pairs)


def has_driver(sweep: Path) -> bool:
    """Whether a driver works on the sweep now, as the system's locks know.

    A driver on another machine is seen only where the file system shares its locks.
    """
    try:
        with (sweep / LOCK).open(encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


class _ReadOnly(BaseJournalBackend):
    """A journal that is read up to its last whole line, even while a driver writes it."""

    def __init__(self, path: Path) -> None:
        text = path.read_bytes()
        whole = text[: text.rfind(b"\n") + 1].splitlines()
        self.logs: list[dict[str, Any]] = [json.loads(line) for line in whole]

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        return self.logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        raise RunError("a sweep that is read is not written to")


@dataclass
class Drawn:
    """What the sweep's journal knows: each trial as it was drawn, and as Optuna knows it."""

    draws: dict[int, Draw] = field(default_factory=dict)
    optuna: dict[int, FrozenTrial] = field(default_factory=dict)


def read_journal(sweep: Path, problems: list[str]) -> Drawn:
    """Read the journal. What is wrong with it is added to `problems`, and the rest goes on."""
    path = sweep / JOURNAL
    if not path.exists():
        problems.append(f"{JOURNAL} is missing: trials that never began are not known by settings")
        return Drawn()
    try:
        journal = Journal(JournalStorage(_ReadOnly(path)))
        return Drawn(journal.draws(), journal.latest())
    except (*DAMAGED, optuna.exceptions.OptunaError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        problems.append(f"{JOURNAL} cannot be read ({said}): draws are taken from the trials")
        return Drawn()
