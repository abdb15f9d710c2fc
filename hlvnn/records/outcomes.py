"""How each trial ended: `outcome.json` in its folder, written by the sweep's driver alone.

A trial without one has not ended: it is running, or the driver was killed before it ended.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import pandas as pd

from hlvnn import files
from hlvnn.config import Config, validated

OUTCOME = "outcome.json"
"""In a trial's folder: how it ended."""
ERROR = "error.txt"
"""The traceback of a trial that failed, written where it failed."""
HUNG = "hung.txt"
"""Where each thread of a trial was that hung for longer than --trial-timeout."""


@dataclass(frozen=True)
class Facts:
    """What is true of every trial with a status."""

    meaning: str
    """What it says of a trial, in words; {cutters} are what ends trials early in its sweep."""
    fate: str
    """The same as a verb: "a trial that …"."""
    style: str
    """Its look in a terminal, as rich names it."""
    hue: str
    """Its colour in figures, by a name of `analysis.figures.style.HUES`."""
    is_over: bool = True
    """Whether it has ended; `Outcome.is_open` says whether --resume goes on with a trial."""
    is_placed: bool = False
    """Whether it takes a place on the leaderboard."""
    is_ill: bool = False
    """Whether something went wrong: told among the failures, with the end of its traceback."""
    is_lost: bool = False
    """Whether it counts as the worst value there is, for the searcher too."""
    teaches: bool = True
    """Whether it tells a searcher (also that of another sweep) anything."""
    is_crossed: bool = False
    """Whether its curve ends in a cross: it had more epochs to come."""


class Status(StrEnum):
    """How a trial ended, or that it has not. What follows from a status stands in its `facts`."""

    COMPLETED = "completed"
    STOPPED = "stopped"
    DIVERGED = "diverged"
    OUT_OF_MEMORY = "out of memory"
    FAILED = "failed"
    NOT_STARTED = "not started"
    RUNNING = "running"

    @property
    def facts(self) -> Facts:
        """What is true of every trial with this status."""
        return FACTS[self]


FACTS = {
    Status.COMPLETED: Facts(
        "trained for all its epochs, or ended by its own patience",
        "completed",
        style="green",
        hue="blue",
        is_placed=True,
    ),
    Status.STOPPED: Facts(
        "cut short, by {cutters} or the driver's end",
        "was stopped",
        style="yellow",
        hue="light",
        is_placed=True,
        is_crossed=True,
    ),
    Status.DIVERGED: Facts(
        "its loss was no longer a number",
        "diverged",
        style="magenta",
        hue="purple",
        is_ill=True,
        is_lost=True,
        is_crossed=True,
    ),
    Status.OUT_OF_MEMORY: Facts(
        "it needed more memory than there was, and was not tried again",
        "ran out of memory",
        style="magenta",
        hue="brown",
        is_ill=True,
        is_lost=True,
        is_crossed=True,
    ),
    Status.FAILED: Facts(
        "it raised an error, or its process died, more often than --max-failures",
        "failed",
        style="red",
        hue="red",
        is_ill=True,
        teaches=False,
        is_crossed=True,
    ),
    Status.NOT_STARTED: Facts(
        "drawn or asked for, and never run",
        "never ran",
        style="dim",
        hue="grey",
        is_over=False,
        teaches=False,
    ),
    Status.RUNNING: Facts(
        "running when this was written",
        "runs",
        style="bold",
        hue="green",
        is_over=False,
        teaches=False,
    ),
}

PLACED = tuple(status for status in Status if status.facts.is_placed)
"""Statuses that take a place on the leaderboard."""
OVER = tuple(status for status in Status if status.facts.is_over)
"""Statuses of trials that have ended."""
ILL = tuple(status for status in Status if status.facts.is_ill)
"""Statuses of trials in which something went wrong."""


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
    ran_on: str = ""
    """Device it was trained on there: cpu, or the name of a GPU."""

    @property
    def is_open(self) -> bool:
        """Whether --resume takes the trial up: it was cut short, or never ran, or still runs."""
        return self.unfinished or not self.status.facts.is_over


def open_ones(trials: pd.DataFrame) -> pd.Series[bool]:
    """Return which trials of a table --resume takes up: see `Outcome.is_open`."""
    return trials["unfinished"].astype(bool) | ~trials["status"].isin(OVER)


TRIAL = "trial_"
"""What the folder of a trial begins with."""


def trial_folders(sweep: Path) -> dict[int, Path]:
    """Return the trials' folders that there are, by number."""
    found = (path for path in sorted(sweep.glob(f"{TRIAL}[0-9]*")) if path.is_dir())
    return {int(path.name.removeprefix(TRIAL)): path for path in found}


def trial_folder(sweep: Path, number: int) -> Path:
    """Return the folder of a sweep's trial."""
    return sweep / f"{TRIAL}{number:04d}"


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
