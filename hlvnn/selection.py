"""The chosen epoch of a run: one rule, for weights, tables, patience, searcher and reports alike.

It is the epoch with the best value of one metric, a sweep's (first) METRIC or a single run's
--select-on; among equals the one with the lower validation loss, then the earlier. An epoch that
diverged, or whose metric is not a number, is never chosen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from hlvnn.columns import (
    BETTER_HIGH,
    BETTER_LOW,
    DIVERGED,
    GROUP_MEASURES,
    VAL_LOSS,
    is_validation,
    measure_of,
)

R = TypeVar("R", bound=Mapping[Any, Any])

MAX, MIN = "max", "min"


@dataclass(frozen=True)
class Selection:
    """By what the chosen epoch is chosen: a column of metrics.csv, and "max" or "min"."""

    metric: str
    mode: str

    def order(self, row: Mapping[Any, Any]) -> tuple[float, float] | None:
        """Return what rows are compared by, less is better; None for one that is never chosen."""
        value, loss = (float(row.get(name, math.nan)) for name in (self.metric, VAL_LOSS))
        if not math.isfinite(value) or row.get(DIVERGED):
            return None
        return -value if self.mode == MAX else value, math.inf if math.isnan(loss) else loss

    def is_better(self, row: Mapping[Any, Any], than: Mapping[Any, Any] | None) -> bool:
        """Whether a later epoch's row is chosen in place of an earlier one's, if there is one."""
        mine = self.order(row)
        theirs = None if than is None else self.order(than)
        return mine is not None and (theirs is None or mine < theirs)

    def chosen(self, rows: Iterable[R]) -> R | None:
        """Return the row of the chosen epoch among the rows of a run, in their order, or None."""
        found: R | None = None
        for row in rows:
            if self.is_better(row, found):
                found = row
        return found

    def chosen_of(self, frame: pd.DataFrame) -> dict[str, float] | None:
        """Return the chosen epoch's row of a table of metrics, as `chosen` does."""
        if self.metric not in frame:
            return None
        value = frame[self.metric].to_numpy(dtype=float)
        sign = -1.0 if self.mode == MAX else 1.0
        loss = frame[VAL_LOSS].to_numpy(dtype=float) if VAL_LOSS in frame else np.zeros(len(value))
        sound = np.isfinite(value)
        if DIVERGED in frame:
            sound &= ~(frame[DIVERGED].to_numpy(dtype=float) > 0)
        if not sound.any():
            return None
        order = np.lexsort((np.where(np.isnan(loss), np.inf, loss), sign * value, ~sound))
        row = frame.iloc[int(order[0])]  # lexsort is stable: of equals the earlier
        return {str(name): float(value) for name, value in row.items()}


def mode_of(metric: str, is_class: bool) -> str | None:
    """Return whether a validation column is better high ("max") or low ("min"); None: not known.

    is_class: whether the target is a class, so that groups are measured by their accuracy.
    """
    if not is_validation(metric):
        return None
    measure = measure_of(metric)
    if measure.endswith(GROUP_MEASURES):
        return MAX if is_class else MIN
    last = measure.rpartition("_")[2]
    return MAX if last in BETTER_HIGH else MIN if last in BETTER_LOW else None
