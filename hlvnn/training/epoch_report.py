"""What an epoch of a fit tells, and what a checkpoint keeps of the epochs so far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from hlvnn.columns import DIVERGED
from hlvnn.inference.metrics import RowScores
from hlvnn.selection import Selection

Checkpoint = dict[str, Any]

SELECTION = "selection"
"""Entry of a checkpoint: by what the epoch of best.pt is chosen; absent in older ones."""


@dataclass(frozen=True)
class EpochReport:
    """What an evaluated epoch tells: a row for `metrics.csv` and the per-group tables.

    groups: columns epoch, level, gid, split, n, acc, f1 (or mse), loss.
    """

    row: dict[str, float]
    groups: pd.DataFrame
    chosen: dict[str, float] | None = None
    """The row of the chosen epoch so far (see `hlvnn.selection`), None before there is one."""
    scores: dict[str, RowScores] = field(default_factory=dict)
    """Of each split that was scored, what the model did on each row."""

    @property
    def is_best(self) -> bool:
        """Whether it is the chosen epoch so far."""
        return self.chosen is self.row

    @property
    def epoch(self) -> int:
        return int(self.row["epoch"])

    @property
    def diverged(self) -> bool:
        return bool(self.row[DIVERGED])


Report = Callable[[EpochReport, Callable[[], Checkpoint]], None]


@dataclass
class State:
    """What a checkpoint keeps beside weights, optimisers and random streams."""

    epoch: int = 0
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    chosen: dict[str, float] | None = None
    """The chosen epoch's row; it follows from the history, as do the epochs since."""
    waited: int = 0

    def note(self, row: dict[str, float], selection: Selection) -> bool:
        """Take a row into the history and choose again; return whether the row is chosen."""
        self.history.append(row)
        is_better = selection.is_better(row, self.chosen)
        self.chosen, self.waited = (row, 0) if is_better else (self.chosen, self.waited + 1)
        return is_better

    def is_out_of(self, patience: int | None) -> bool:
        """Whether so many evaluations came without a better one."""
        return patience is not None and self.waited >= patience
