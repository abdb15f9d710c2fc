"""What the parts of a running sweep share: its plan, its records, and what it shows."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich.console import Console

from hlvnn.patience import Patience
from hlvnn.records import journal, outcomes
from hlvnn.records.board import Board
from hlvnn.records.journal import Journal
from hlvnn.records.trials_table import TrialsTable
from hlvnn.search_space import Space
from hlvnn.sweep.copies import Mirror
from hlvnn.sweep.ending import Ending
from hlvnn.sweep.options import SweepConfig
from hlvnn.sweep.plan import Plan
from hlvnn.terminal import LiveDisplay


@dataclass(frozen=True)
class Context:
    """One driver's work on a sweep. Its parts change as the sweep runs; which they are does not."""

    plan: Plan
    console: Console
    display: LiveDisplay
    """Shows the board while the sweep runs."""
    patience: Patience
    """Waits where storage fails."""
    mirror: Mirror
    """Keeps the sweep's address, if it has one, as its folder here is."""
    journal: Journal
    table: TrialsTable
    ending: Ending
    board: Board

    @classmethod
    def of(cls, plan: Plan, slots: int, console: Console) -> Context:
        """Begin the journal of a planned sweep whose folder is there, or open the one it has.

        slots: trials that run at a time.
        """
        options, space = plan.options, plan.space
        patience = Patience(options.storage_patience)
        mirror = Mirror(plan.sweep, plan.remote, patience)
        if (plan.sweep / journal.JOURNAL).exists():
            study = Journal.open(plan.sweep, patience)
        else:
            modes = (mode for _, mode in space.objectives)
            study = Journal.create(plan.sweep, *modes, patience=patience)
        ending = Ending(options.time_budget, options.max_failed_trials)
        board = Board(space, options.num_trials, slots)
        return cls(
            plan=plan,
            console=console,
            display=LiveDisplay(board, console),
            patience=patience,
            mirror=mirror,
            journal=study,
            table=TrialsTable(plan.sweep, space, plan.remote),
            ending=ending,
            board=board,
        )

    @property
    def options(self) -> SweepConfig:
        """The sweep's options."""
        return self.plan.options

    @property
    def space(self) -> Space:
        """What the trials are drawn from."""
        return self.plan.space

    @property
    def sweep(self) -> Path:
        """The sweep's folder on this machine."""
        return self.plan.sweep

    def folder(self, number: int) -> Path:
        """Return a trial's folder."""
        return outcomes.trial_folder(self.sweep, number)

    def print(self, text: str) -> None:
        """Print a line as it is."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Print a line with the time, from whichever thread."""
        self.print(f"[{time.monotonic() - self.board.started:6.1f} s] {text}")

    def save_table(self, alive: bool) -> pd.DataFrame:
        """Write trials.parquet; alive: whether the sweep goes on."""
        return self.table.write(self.journal.draws(), self.options.num_trials, alive)
