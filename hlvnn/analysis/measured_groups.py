"""Groups as several trials measured them, and what trials of one setting differ by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hlvnn.analysis.group_tables import GroupTables
from hlvnn.columns import BETTER_HIGH, SCORED, TEST, VAL
from hlvnn.errors import RunError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """Groups under trials: by split `values` [T, G], more is better, and rows [G]."""

    trials: list[int]
    gids: NDArray[np.int64]
    values: dict[str, Floats]
    rows: dict[str, Floats]

    def of(self, trials: Sequence[int]) -> dict[str, Floats]:
        """Return the values of some trials, by split."""
        places = [self.trials.index(trial) for trial in trials]
        return {split: values[places] for split, values in self.values.items()}


def read_measured(
    groups: GroupTables, chosen: dict[int, int], level: str | None, measure: str
) -> Measured:
    """Read a measure of the groups of a level, each trial at its epoch of `chosen`.

    Groups count in a split where all trials have scored them. Raises `RunError` where none are.
    """
    names = None if level is None else [level]
    frame = groups.at_epochs(chosen, ["trial", "gid", "split", "n", measure], names)
    trials = list(chosen)
    sign = 1.0 if measure in BETTER_HIGH else -1.0
    gids = np.sort(frame["gid"].unique()).astype(np.int64)
    values: dict[str, Floats] = {}
    rows: dict[str, Floats] = {}
    place = pd.Series(range(len(trials)), trials)
    for split in (TEST, VAL):
        part = frame[frame["split"] == split]
        if not len(part):
            continue
        at = place[part["trial"]].to_numpy(), np.searchsorted(gids, part["gid"])
        table = np.full((len(trials), len(gids)), np.nan)
        table[at] = sign * part[measure].to_numpy(np.float64)
        known = ~np.isnan(table).any(axis=0)
        table[:, ~known] = np.nan
        count = np.zeros(len(gids))
        count[at[1]] = part["n"].to_numpy(np.float64)
        values[split], rows[split] = table, np.where(known, count, 0.0)
    if not values:
        raise RunError(f"effects: no {' or '.join(SCORED)} rows of groups can be read")
    return Measured(trials, gids, values, rows)


def between_trials(cells: list[dict[str, Floats]]) -> tuple[float, int]:
    """Return the variance of trials' means over groups within a value, and its degrees."""
    total, degrees = 0.0, 0
    for cell in cells:
        values = next(iter(cell.values()))
        if len(values) > 1:
            means = np.nanmean(values, axis=1)
            total += float(np.square(means - means.mean()).sum())
            degrees += len(means) - 1
    return (total / degrees if degrees else 0.0), degrees


def of_trainings(cells: list[dict[str, Floats]]) -> float:
    """Return the variance of what a training does to a group beyond its value and the rows.

    By what the two splits' residuals have in common; NaN where no value has two trials, or there is
    one split.
    """
    total, degrees = 0.0, 0
    for cell in cells:
        if len(cell) < 2:
            return float("nan")
        first, second = cell.values()
        both = ~np.isnan(first).any(axis=0) & ~np.isnan(second).any(axis=0)
        if len(first) < 2 or both.sum() < 2:
            continue
        parts = []
        for values in (first[:, both], second[:, both]):
            rest = values - values.mean(axis=1, keepdims=True)
            parts.append(rest - rest.mean(axis=0, keepdims=True))
        total += float((parts[0] * parts[1]).sum())
        degrees += (len(first) - 1) * (int(both.sum()) - 1)
    return max(0.0, total / degrees) if degrees else float("nan")
