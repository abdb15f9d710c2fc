"""A sweep's folder: its files by name, `sweep.json` and how it is read, and who works on it."""

from __future__ import annotations

import fcntl
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hlvnn import files
from hlvnn.errors import RunError
from hlvnn.storage import shown_path
from hlvnn.words import Settings

SWEEP = "sweep.json"
"""The sweep's options, its search space's digest, metric and mode, versions and starts."""
RECORDED = {"options": dict, "space": dict, "fixed": dict, "starts": list}
SPACE_COPY = "search_space.py"
"""Copy of the search space, to read; it is never run."""
README = "README.md"
"""What the sweep is about, for whoever opens its folder."""
LOCK = "driver.lock"
"""Held by the driver that works on the sweep."""


@contextmanager
def locked(sweep: Path) -> Iterator[None]:
    """Hold the sweep's lock, which the system frees when this process ends, however it ends.

    Raises `RunError` when another driver holds it.
    """
    sweep.mkdir(parents=True, exist_ok=True)
    with (sweep / LOCK).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise RunError(
                f"{shown_path(sweep)} is being worked on by {holder}; wait for it, or end it first"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        yield


def read_raw(sweep: Path) -> dict[str, Any]:
    """Return `sweep.json` as it is; `RunError` where it is missing or damaged."""
    if not (sweep / SWEEP).exists():
        raise RunError(
            f"{shown_path(sweep)} is not a sweep: {SWEEP} is missing; give the folder that holds "
            "it, RESULTS_DIR/DATASET/SWEEP"
        )
    record = files.read_json(sweep / SWEEP)
    whole = isinstance(record, dict) and all(
        isinstance(record.get(name), kind) for name, kind in RECORDED.items()
    )
    if not whole or not isinstance(record["space"].get("sha256"), str):
        raise RunError(
            f"{shown_path(sweep / SWEEP)}: damaged: expected {', '.join(RECORDED)} in it; restore "
            "it from a copy"
        )
    return record


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
