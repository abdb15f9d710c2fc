"""A sweep's folder: its files by name, `sweep.json` and how it is read, and who works on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from hlvnn import files
from hlvnn.errors import RunError
from hlvnn.records import locks
from hlvnn.records.group_file import GROUPS
from hlvnn.storage import shown_path
from hlvnn.words import Settings

T = TypeVar("T")

SWEEP = "sweep.json"
"""The sweep's options, its search space's digest, metric and mode, versions and starts."""
SPACE_COPY = "search_space.py"
"""Copy of the search space, to read; it is never run."""
README = "README.md"
"""What the sweep is about, for whoever opens its folder."""
LOCK = "driver.lock"
"""Held by the driver that works on the sweep."""
HEARTBEAT = "driver.alive"
"""Written again and again by the driver that works on the sweep, where files cannot be locked."""
RAY_LOGS = "ray_logs.zip"
"""Ray's own logs, of a sweep that failed."""
FIRST = (LOCK, HEARTBEAT, SPACE_COPY, README, GROUPS)
"""What there is before there is SWEEP: of a driver that ended as it began."""


@contextmanager
def locking(sweep: Path) -> Iterator[None]:
    """Hold the sweep's lock, which is free when this process ends, however it ends.

    Raises `RunError` when another driver holds it.
    """
    sweep.mkdir(parents=True, exist_ok=True)
    try:
        with locks.holding(sweep / LOCK, sweep / HEARTBEAT):
            yield
    except locks.HeldError as error:
        raise RunError(
            f"{shown_path(sweep)} is being worked on by {error}; wait for it, or end it first"
        ) from None


@dataclass(frozen=True)
class Record:
    """What `sweep.json` holds.

    space, sha256: name and digest of the search space's file; objectives: each metric with its
    mode ("max" or "min"), the one that chooses the best trial first; base: the space's BASE as
    text; fixed: the settings that are the same for all trials; options: those of the last start;
    starts: time, host and versions of each.
    """

    space: str
    sha256: str
    objectives: tuple[tuple[str, str], ...]
    base: Settings
    fixed: Settings
    options: Settings
    starts: list[dict[str, Any]]

    @property
    def metric(self) -> str:
        return self.objectives[0][0]

    @property
    def mode(self) -> str:
        return self.objectives[0][1]

    @property
    def description(self) -> str:
        return str(self.options.get("description", ""))

    @property
    def num_trials(self) -> int:
        return int(self.options.get("num_trials", 0))


def write_record(sweep: Path, record: Record) -> None:
    """Write `sweep.json`, whole or not at all."""
    (metric, mode), *others = record.objectives
    space = {"name": record.space, "sha256": record.sha256, "metric": metric, "mode": mode}
    whole = {
        "starts": record.starts,
        "fixed": record.fixed,
        "options": record.options,
        "space": {**space, "others": others, "base": record.base},
    }
    files.write_json(sweep / SWEEP, whole)


def read_record(sweep: Path) -> Record:
    """Read `sweep.json`; `RunError` where it is missing, damaged or not a sweep's."""
    path = sweep / SWEEP
    if not path.exists():
        raise RunError(
            f"{shown_path(sweep)} is not a sweep: {SWEEP} is missing; give the folder that holds "
            "it, RESULTS_DIR/DATASET/SWEEP (or use load_runs for a folder of single runs)"
        )
    whole = files.read_json(path)
    try:
        space = whole["space"]
        pairs = [(space["metric"], space["mode"]), *space.get("others", [])]
        found = Record(
            space=_expect(space["name"], str),
            sha256=_expect(space["sha256"], str),
            objectives=tuple((_expect(metric, str), _expect(mode, str)) for metric, mode in pairs),
            base=_expect(space.get("base", {}), dict),
            fixed=_expect(whole["fixed"], dict),
            options=_expect(whole["options"], dict),
            starts=_expect(whole["starts"], list),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(
            f"{shown_path(path)}: damaged: expected options, fixed, starts and space (with name, "
            "sha256, metric, mode) in it; restore it from a copy"
        ) from error
    for _, mode in found.objectives:
        if mode not in ("min", "max"):
            raise RunError(f"{shown_path(path)}: damaged: mode must be min or max, got {mode!r}")
    return found


def _expect(value: Any, kind: type[T]) -> T:
    if not isinstance(value, kind):
        raise TypeError(f"expected {kind.__name__}")
    return value


def has_driver(sweep: Path) -> bool:
    """Whether a driver works on the sweep now, as the system's locks or its heartbeat tell.

    A driver on another machine is seen only where the file system shares its locks, or has none.
    """
    return locks.is_held(sweep / LOCK, sweep / HEARTBEAT)
