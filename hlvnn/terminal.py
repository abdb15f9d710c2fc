"""What the terminal shows while a sweep runs, and the leaderboard at its end."""

from __future__ import annotations

import io
import logging
import math
import sys
import time
from types import TracebackType
from typing import IO, TYPE_CHECKING, Literal, Self, TextIO

import pandas as pd
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hlvnn.columns import VAL_GROUP_P10, VAL_GROUP_WORST, best_of, on_test
from hlvnn.errors import silence
from hlvnn.records.outcomes import OVER, PLACED, Status
from hlvnn.words import Settings, duration, is_missing, number, shown, text

if TYPE_CHECKING:  # of sweeps: with them comes Optuna, which a single run does not need
    from hlvnn.records.board import Board, Entry
    from hlvnn.search_space import Space

logger = logging.getLogger("hlvnn")

REFRESH_SECONDS = 0.5
WIDE = 140
"""Columns of a terminal in which the leaderboard gives each drawn setting a column."""
TOP = 20
"""Trials on the leaderboard."""
ROWS_AROUND = 12
"""Lines of the terminal that are not rows of the live table."""


PLAIN_WIDTH = 200
"""Columns of output that does not go to a terminal."""


class _Console(Console):
    """A console that nobody need read to the end: a sweep goes on when its output is closed."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        silence()


class _Handler(logging.StreamHandler[TextIO]):
    """Tells the terminal what a run logs, for as long as somebody reads it."""

    def handleError(self, record: logging.LogRecord) -> None:
        if isinstance(sys.exc_info()[1], BrokenPipeError):
            silence()
        else:
            super().handleError(record)


def plain_console(file: IO[str] | None = None, width: int | None = None) -> Console:
    """Return a console that shows names as they are: `age[/yr]` and `:x:` are no markup to it.

    Whatever is printed holds names that users gave: columns, groups, studies, folders. width: None
    is the terminal's, or `PLAIN_WIDTH` where there is none. Into a file nothing is coloured.
    """
    colours: Literal["auto"] | None = "auto" if file is None else None
    console = _Console(file=file, width=width, markup=False, emoji=False, color_system=colours)
    if width is None and not console.is_terminal:
        console.width = PLAIN_WIDTH
    return console


class LiveDisplay:
    """A live table where the output is a terminal; elsewhere a line for each event."""

    def __init__(self, board: Board, console: Console) -> None:
        self.board = board
        self.console = console
        self.live: Live | None = None
        self.shown = 0.0

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.live = Live(console=self.console, auto_refresh=False, transient=True)
            self.live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.live is not None:
            self.live.stop()

    def event(self, text: str, lasting: bool = False) -> None:
        if self.live is None or lasting:
            clock = f"{time.monotonic() - self.board.started:6.1f} s"
            self.console.print(f"[{clock}] {text}", markup=False, highlight=False, soft_wrap=True)
        self.refresh(at_once=True)

    def refresh(self, at_once: bool = False) -> None:
        now = time.monotonic()
        if self.live is not None and (at_once or now - self.shown >= REFRESH_SECONDS):
            self.shown = now
            self.live.update(live_view(self.board, self.console.height), refresh=True)


def live_view(board: Board, height: int) -> RenderableType:
    """Return the live table: the running trials, then the best, as many as the terminal holds."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("trial", "status", "epoch", board.space.metric, "best", "worst group"):
        table.add_column(name, justify="left" if name == "status" else "right", no_wrap=True)
    table.add_column("drawn", no_wrap=True, overflow="ellipsis")
    for entry in _most_telling(board, max(4, height - ROWS_AROUND)):
        table.add_row(
            str(entry.number),
            Text(_said(entry.status), style=entry.status.facts.style),
            f"{entry.epoch}/{entry.num_epochs}",
            number(entry.metric),
            number(entry.best),
            number(entry.worst_group),
            Text(entry.settings),
        )
    return Group(table, Text(summary(board)))


def summary(board: Board) -> str:
    """Return one line: trials by status, time passed and left, the best so far."""
    counts = {
        status: len(board.having(status)) for status in Status if status != Status.NOT_STARTED
    }
    over = len(board.having(*OVER))
    named = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    left = board.seconds_left()
    parts = [
        f"{over} of {board.num_trials} trials over ({named or 'none begun'})",
        f"{duration(time.monotonic() - board.started)} so far",
        f"about {duration(left)} left" if left is not None else "time left not yet known",
    ]
    best = board.best
    if best is not None:
        parts.append(f"best {board.space.metric} {number(best.best)} (trial {best.number})")
    return "; ".join(parts)


def leaderboard(
    ranked: pd.DataFrame, space: Space, drawn: dict[int, Settings], width: int = WIDE
) -> RenderableType:
    """Return the leaderboard of a ranked table of trials (see `table.ranked`).

    drawn: what each trial drew, by its number; shown in columns of their own where the terminal is
    wide enough.
    """
    more = f", the best {TOP} of {len(ranked)}" if len(ranked) > TOP else ""
    table = Table(header_style="bold")
    measured = {"val": space.metric, **{metric: metric for metric, _ in space.others}}
    measured |= {
        title: column
        for title, column in {"p10": VAL_GROUP_P10, "worst": VAL_GROUP_WORST}.items()
        if column not in measured
    }
    measured["test"] = on_test(space.metric)
    measured = {title: best_of(column) for title, column in measured.items()}
    measured = {title: column for title, column in measured.items() if column in ranked}
    for title in ("rank", "trial", "epochs", *measured):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("status", no_wrap=True)
    names = list(dict.fromkeys(name for settings in drawn.values() for name in settings))
    for name in names if width >= WIDE else ["drawn"]:
        table.add_column(name)
    for rank, row in ranked.head(TOP).iterrows():
        placed = row["status"] in PLACED and not is_missing(row.get(best_of(space.metric)))
        settings = drawn.get(row["trial"], {})
        cells = [_cell(settings.get(name)) for name in names]
        table.add_row(
            str(int(str(rank)) + 1) if placed else "–",
            str(row["trial"]),
            str(row["epochs"]),
            *(number(row[column]) for column in measured.values()),
            Text(row["status"], style=Status(row["status"]).facts.style),
            *(cells if width >= WIDE else [shown(settings)]),
        )
    return Group(Text(f"{space.name}: trials by {space.metric}{more}", style="bold"), table)


def front(ranked: pd.DataFrame, space: Space) -> list[str]:
    """Return the lines that tell the Pareto front of several objectives: a trial each."""
    from hlvnn.records.trials_table import PARETO

    if PARETO not in ranked:
        return []
    told = ", ".join(f"{metric} ({mode})" for metric, mode in space.objectives)
    lines = [f"Pareto front of {told}:"]
    for _, row in ranked[ranked[PARETO]].sort_values(best_of(space.metric)).iterrows():
        values = (f"{metric} {number(row[best_of(metric)])}" for metric, _ in space.objectives)
        lines.append(f"  trial {row['trial']}: {', '.join(values)}")
    return lines


def _most_telling(board: Board, count: int) -> list[Entry]:
    running = board.having(Status.RUNNING)
    others = [entry for entry in board.entries.values() if entry.status != Status.RUNNING]
    sign = -1 if board.space.mode == "max" else 1
    others.sort(key=lambda entry: math.inf if entry.best is None else sign * entry.best)
    return [*running, *others][:count]


def _said(status: Status) -> str:
    return "waiting" if status == Status.NOT_STARTED else str(status)


def _cell(value: object) -> str:
    return "" if value is None else text(value)


WIDTH = 100


def text_of(table: Table) -> str:
    """Return a rich table as plain text."""
    buffer = io.StringIO()
    plain_console(buffer, WIDTH).print(table)
    return buffer.getvalue().rstrip("\n")


def to_terminal() -> None:
    """Show what a run tells on standard output."""
    handler = _Handler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
