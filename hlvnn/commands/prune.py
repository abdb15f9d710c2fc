"""What of old sweeps takes room and serves nobody any more.

    python -m hlvnn.analysis prune results/digits            # lists
    python -m hlvnn.analysis prune results/digits --yes      # deletes what it lists

Of sweeps on which no driver works: the weights of ended trials that are not among the best, and
Ray's own state. Of tests (results/tests): whole runs. Tables, configurations, logs and journals
stay, as do promoted runs, single runs, and trials that --resume would go on with.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tyro
from pydantic import Field
from rich.table import Table

from hlvnn.analysis.listing import size_of
from hlvnn.analysis.loading import load_sweep
from hlvnn.analysis.promote import SOTA
from hlvnn.errors import HlvnnError, RunError
from hlvnn.records.outcomes import Status
from hlvnn.records.run_folder import HYPERPARAMS
from hlvnn.records.sweep_folder import SWEEP, has_driver
from hlvnn.records.weight_files import WEIGHTS
from hlvnn.storage import Place, folder_here
from hlvnn.strict import Config
from hlvnn.terminal import text_of
from hlvnn.words import shown_bytes

logger = logging.getLogger("hlvnn")

RAY_FOLDER = "ray"
"""Ray's own state in a sweep's folder, which nobody reads once the sweep has ended."""
TESTS = "tests"
"""Folder of runs with --testing."""
DEPTH = 3
"""How deep below the given folder sweeps are looked for."""


@dataclass(frozen=True)
class Waste:
    """One file or folder that could go."""

    path: Path
    bytes: int
    why: str


class PruneOptions(Config):
    """List what of old sweeps could go; with --yes, delete it."""

    path: tyro.conf.Positional[Place]
    """A sweep, the folder of a data set's sweeps, or the root of the results."""
    keep: int = Field(3, ge=0)
    """Trials of each sweep, the best ones, that keep their weights."""
    yes: bool = False
    """Delete what is listed."""


def prune(options: PruneOptions) -> None:
    """List, or delete."""
    folder = folder_here(options.path, "pruning deletes from")
    if not folder.is_dir():
        raise RunError(f"{folder}: no such folder")
    found, left_alone = waste(folder, options.keep)
    for sentence in left_alone:
        logger.info("left alone: %s", sentence)
    if not found:
        logger.info("nothing in %s could go", options.path)
        return
    logger.info(_listed(found))
    total = shown_bytes(sum(one.bytes for one in found))
    if not options.yes:
        logger.info("%s could go; nothing was deleted. To delete it, add --yes", total)
        return
    for one in found:
        try:
            shutil.rmtree(one.path) if one.path.is_dir() else one.path.unlink(missing_ok=True)
        except OSError as error:
            raise RunError(f"{one.path}: cannot be deleted ({error}); the rest is left") from error
    logger.info("%s deleted", total)


def waste(path: Path, keep: int) -> tuple[list[Waste], list[str]]:
    """Return what could go below a folder, and which sweeps are left alone for what reason."""
    found: list[Waste] = []
    left_alone: list[str] = []
    for sweep in _sweeps(path):
        if has_driver(sweep):
            left_alone.append(f"{sweep}: it runs")
            continue
        try:
            found += _of_sweep(sweep, keep)
        except HlvnnError as error:
            left_alone.append(f"{sweep}: {error}")
    for tests in (path, path / TESTS):
        if tests.name == TESTS and tests.is_dir():
            runs = sorted(file.parent for file in tests.glob(f"*/{HYPERPARAMS}"))
            found += [Waste(run, size_of(run), "a test run") for run in runs]
    return found, left_alone


def _sweeps(path: Path, depth: int = DEPTH) -> Iterator[Path]:
    """Yield the sweeps at and below a folder; links are not followed, promoted runs not entered."""
    if (path / SWEEP).exists():
        yield path
    elif depth:
        for below in sorted(path.iterdir()):
            if below.is_dir() and not below.is_symlink() and below.name not in (SOTA, TESTS):
                yield from _sweeps(below, depth - 1)


def _of_sweep(sweep: Path, keep: int) -> Iterator[Waste]:
    results = load_sweep(sweep)
    kept = set(results.placed["trial"].head(keep))
    for row in results.table.to_dict("records"):
        if row["trial"] in kept or row["unfinished"] or not isinstance(row["folder"], str):
            continue
        facts = Status(row["status"]).facts
        why = (
            f"weights of a trial that {facts.fate}"
            if facts.is_ill
            else f"not among the best {keep}"
        )
        for name in WEIGHTS:
            file = Path(row["folder"]) / name
            if file.is_file() and not file.is_symlink():
                yield Waste(file, file.stat().st_size, why)
    ray = sweep / RAY_FOLDER
    if ray.is_dir() and not ray.is_symlink():
        yield Waste(ray, size_of(ray), "Ray's own state, of which nothing is read back")


def _listed(found: list[Waste]) -> str:
    table = Table(box=None)
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("what", overflow="fold")
    table.add_column("why", overflow="fold")
    for one in found:
        table.add_row(shown_bytes(one.bytes), str(one.path), one.why)
    return text_of(table)
