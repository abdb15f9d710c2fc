"""How each trial ended: `outcome.json` in its folder, written by the sweep's driver alone.

A trial without one has not ended: it is running, or the driver was killed before it ended.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from hlvnn import files
from hlvnn.config import Config, validated

OUTCOME = "outcome.json"
ERROR = "error.txt"
"""The traceback of a trial that failed, written where it failed."""


HUNG = "hung.txt"
"""Where each thread of a trial was that hung for longer than --trial-timeout."""


class Status(StrEnum):
    """How a trial ended, or that it has not."""

    COMPLETED = "completed"
    """It trained for all its epochs, or ended by its own --patience."""
    STOPPED = "stopped"
    """ASHA, the time budget, an interrupt or the driver's end cut it short: `reason` says which."""
    DIVERGED = "diverged"
    """Its loss became NaN or infinite."""
    OUT_OF_MEMORY = "out of memory"
    """It needed more memory than it had; it is not tried again."""
    FAILED = "failed"
    """It raised an error, or its process died, more often than --max-failures."""
    NOT_STARTED = "not started"
    """It was drawn, or only asked for, and never ran."""
    RUNNING = "running"
    """It runs now."""


class Outcome(Config):
    """How one trial ended."""

    trial: int
    """The trial's number in its sweep."""
    status: Status
    """How it ended."""
    reason: str = ""
    """Why it ended so, in words."""
    error: str = ""
    """Last line of the error of a failed trial."""
    unfinished: bool = False
    """Whether --resume goes on with it."""
    wall_seconds: float = 0.0
    """Seconds between its (last) start and its end, as the driver saw them."""
    starts: int = 1
    """Times it was started by the driver that saw it end."""
    cpus: float = 0.0
    """CPUs it had."""
    gpus: float = 0.0
    """GPUs it had."""
    node: str = ""
    """Machine it ended on."""


def trial_folder(sweep: Path, number: int) -> Path:
    """Return the folder of a sweep's trial."""
    return sweep / f"trial_{number:04d}"


def write(sweep: Path, outcome: Outcome) -> None:
    """Write a trial's outcome, whole or not at all."""
    folder = trial_folder(sweep, outcome.trial)
    folder.mkdir(exist_ok=True)  # without the sweep's folder storage is away: none is made up
    files.write_json(folder / OUTCOME, outcome.model_dump(mode="json"))


def read(sweep: Path, number: int) -> Outcome | None:
    """Return how a trial ended, or None if it has not. Raises `RunError` for a damaged file."""
    path = trial_folder(sweep, number) / OUTCOME
    if not path.exists():
        return None
    return validated(Outcome, files.read_json(path), str(path))


def forget(sweep: Path, number: int) -> None:
    """Remove a trial's outcome, because it runs again."""
    (trial_folder(sweep, number) / OUTCOME).unlink(missing_ok=True)
