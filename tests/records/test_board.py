"""The board of a running sweep estimates the time left, readably."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from rich.console import Console

from hlvnn import search_space
from hlvnn.records.board import Board, Entry
from hlvnn.records.outcomes import Outcome, Status
from hlvnn.terminal import live_view
from hlvnn.words import duration


def test_the_board_estimates_the_time_left(here: Path) -> None:
    board = Board(search_space.load("study"), num_trials=4, slots=2)
    assert board.seconds_left() is None
    board.started = time.monotonic() - 30
    for number in range(3):
        board.entries[number] = Entry(number, "lr=0.1", 3)
        board.began(number)
    for number, epochs in ((0, 3), (1, 1), (2, 1)):
        for epoch in range(1, epochs + 1):
            told = {"epoch": epoch, "num_epochs": 3, "val_acc": 0.1 * epoch, "diverged": 0}
            board.told(number, told)
    board.ended(Outcome(trial=0, status=Status.COMPLETED))
    board.ended(Outcome(trial=1, status=Status.STOPPED))
    # 5 epochs in 30 s; ended trials had 2 each: 1 is left of trial 2, and 2 of trial 3
    assert board.seconds_left() == pytest.approx(18, abs=0.5)
    assert board.best is board.entries[0]
    board.deadline = time.monotonic() + 5
    assert board.seconds_left() == pytest.approx(5, abs=0.5)
    console = Console(width=100, file=None, record=True, quiet=True)
    console.print(live_view(board, 24))


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        *((1.25, "1.2 s"), (45.4, "45 s"), (59.7, "1 min 00 s"), (185, "3 min 05 s")),
        *((3600, "1 h 00 min"), (7384, "2 h 03 min"), (7199, "2 h 00 min")),
    ],
)
def test_durations_are_readable(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown
