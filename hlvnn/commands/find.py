"""Runs and sweeps by the words of their descriptions.

    python -m hlvnn.analysis find second latent

A run is found by its description and name; a sweep by these and by the opening of its study. A
sweep's trials share its description and are not listed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.table import Table

from hlvnn import files, search_space
from hlvnn.analysis.listing import IN_RUN, IN_SWEEP, below
from hlvnn.errors import RunError
from hlvnn.records.run_folder import HYPERPARAMS
from hlvnn.records.sweep_folder import SPACE_COPY, SWEEP
from hlvnn.strict import Config
from hlvnn.terminal import text_of

logger = logging.getLogger("hlvnn")


class FindOptions(Config):
    """Find runs and sweeps by words of their descriptions."""

    words: tyro.conf.Positional[tuple[str, ...]]
    """Words that all occur, whatever the case."""
    results: Path = Path("results")
    """Root of the results."""


@dataclass(frozen=True)
class Found:
    """A run or sweep."""

    folder: Path
    kind: str
    started: str
    description: str
    words: str
    """What is searched."""


def find(options: FindOptions) -> None:
    """Print what is found."""
    if not options.results.is_dir():
        raise RunError(f"--results {options.results}: no such folder")
    wanted = [word.lower() for word in options.words]
    every = list(described(options.results))
    found = [one for one in every if all(word in one.words.lower() for word in wanted)]
    found.sort(key=lambda one: one.started, reverse=True)
    if not found:
        logger.info(
            "none of %d runs and sweeps in %s is described by %s",
            *(len(every), options.results, " ".join(options.words)),
        )
        return
    table = Table(box=None)
    for column in ("folder", "what", "started", "description"):
        table.add_column(column, overflow="fold")
    for one in found:
        table.add_row(str(one.folder), one.kind, one.started[:10], one.description)
    logger.info(text_of(table))


def described(root: Path) -> Iterator[Found]:
    """Yield every run and sweep below a folder; what cannot be read is left out."""
    for folder, kind in below(root):
        if kind == IN_SWEEP:
            yield from _sweep(folder)
        elif kind == IN_RUN:
            yield from _run(folder)


def _read(path: Path) -> dict[str, Any]:
    try:
        record = files.read_json(path)
    except RunError as error:
        logger.warning("left out: %s", error)
        return {}
    return record if isinstance(record, dict) else {}


def _run(folder: Path) -> Iterator[Found]:
    record = _read(folder / HYPERPARAMS)
    config = record.get("config")
    if isinstance(config, dict):
        text = str(config.get("description", ""))
        words = f"{folder.name} {text}"
        yield Found(folder, IN_RUN, str(record.get("started", "")), text, words)


def _sweep(folder: Path) -> Iterator[Found]:
    record = _read(folder / SWEEP)
    options, starts = record.get("options"), record.get("starts")
    if isinstance(options, dict):
        opening = search_space.opening(folder / SPACE_COPY)
        text = str(options.get("description", "")) or opening.split("\n")[0]
        started = str(starts[0].get("time", "")) if isinstance(starts, list) and starts else ""
        yield Found(folder, IN_SWEEP, started, text, f"{folder.name} {text} {opening}")
