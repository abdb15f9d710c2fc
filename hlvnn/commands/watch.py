"""Somebody else's sweep while it runs, as its own driver shows it, read from its folder.

python -m hlvnn.analysis watch results/femnist/SWEEP
"""

from __future__ import annotations

import time
from datetime import datetime

import pandas as pd
import tyro
from pydantic import Field
from rich.console import Console
from rich.live import Live

from hlvnn.analysis.loading import load_sweep
from hlvnn.analysis.results import Results
from hlvnn.columns import VAL_GROUP_WORST, best_of, final_of
from hlvnn.errors import ConfigError
from hlvnn.records.board import Board, Entry
from hlvnn.records.outcomes import Status
from hlvnn.records.sweep_folder import SPACE_COPY
from hlvnn.search_space import Space
from hlvnn.storage import Place, folder_here
from hlvnn.strict import Config
from hlvnn.terminal import live_view, plain_console
from hlvnn.words import Settings, shown

SHARE_OF_TIME = 5
"""Reading a large sweep takes at most one part in so many of the time."""
PLAIN = 200, 40
"""Columns and lines of output that does not go to a terminal."""


class WatchOptions(Config):
    """Show a sweep that runs, until it ends; nothing in its folder is touched."""

    sweep: tyro.conf.Positional[Place]
    """Folder of the sweep."""
    every: float = Field(5.0, gt=0)
    """Seconds between looks, more where reading takes long."""
    once: bool = False
    """Look once. (So it is where the output does not go to a terminal.)"""


def watch(options: WatchOptions, console: Console | None = None) -> None:
    """Show the sweep until no driver works on it."""
    console = console or plain_console()
    folder = folder_here(options.sweep, "watching needs")
    results = load_sweep(folder)
    if not console.is_terminal or options.once:
        width, height = console.size if console.is_terminal else PLAIN
        console.print(live_view(board_of(results), height), width=width)
    else:
        with Live(console=console, auto_refresh=False) as live:
            while True:
                live.update(live_view(board_of(results), console.height), refresh=True)
                if not results.alive:
                    break
                began = time.monotonic()
                results = load_sweep(folder)
                took = time.monotonic() - began
                time.sleep(max(options.every, SHARE_OF_TIME * took))
    if not results.alive:
        console.print(f"no driver works on {options.sweep}", markup=False, highlight=False)


def board_of(results: Results) -> Board:
    """Return what the sweep's driver would know of it."""
    record = results.record
    assert record is not None
    copy = results.path / SPACE_COPY
    space = Space(record.space, copy, record.base, record.metric, record.mode, _never_drawn)
    board = Board(space, len(results.table), slots=0)
    board.started = time.monotonic() - _seconds_since(record.starts)
    whole = len(record.starts) == 1  # otherwise what this driver did itself is not known
    for row in results.table.to_dict("records"):
        number = int(row["trial"])
        draw = results.drawn.draws.get(number)
        entry = Entry(number, shown(draw.drawn) if draw is not None else "", 0)
        entry.status = Status(row["status"])
        entry.epoch = int(row["epochs"])
        entry.num_epochs = int(_number(row.get("num_epochs")) or entry.epoch)
        entry.metric = _number(row.get(final_of(results.metric)))
        entry.best = _number(row.get(best_of(results.metric)))
        entry.worst_group = _number(row.get(final_of(VAL_GROUP_WORST)))
        entry.starts = int(whole and entry.epoch > 0)
        if draw is not None or entry.status != Status.NOT_STARTED:
            board.entries[number] = entry
    return board


def _number(value: object) -> float | None:
    return None if value is None or pd.isna(value) else float(value)  # type: ignore[call-overload,arg-type]


def _seconds_since(starts: list[dict[str, str]]) -> float:
    """Return the seconds since the last start; 0 where it is not known."""
    try:
        began = datetime.fromisoformat(starts[-1]["time"])
        return max(0.0, (datetime.now().astimezone() - began).total_seconds())
    except (IndexError, KeyError, TypeError, ValueError):
        return 0.0


def _never_drawn(trial: object) -> Settings:
    raise ConfigError("a sweep that is watched draws no trials")
