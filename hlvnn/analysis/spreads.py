"""How a measure is spread over groups, an epoch at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd

from hlvnn.columns import BETTER_HIGH, WORST_DECILE

WORST = 0.1
"""The share of groups that `spread` calls the weakest."""
QUANTILES = {"p10": 0.1, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p90": 0.9}


def several(numbers: int | Iterable[int] | None) -> list[int] | None:
    """Return numbers as a list, also where there is one only; None stays."""
    if numbers is None:
        return None
    return [int(numbers)] if isinstance(numbers, int | np.integer) else [int(n) for n in numbers]


def listed(numbers: Iterable[int], what: str) -> str:
    """Return how many there are, and the first and the last."""
    there = sorted(numbers)
    if not there:
        return f"there are no {what}"
    return f"there are {len(there)} {what}, from {there[0]} to {there[-1]}"


def spreads(frame: pd.DataFrame, measure: str) -> Iterator[dict[str, float]]:
    """Yield a row per epoch, without its trial; groups that lack the measure are left out."""
    sign = 1.0 if measure in BETTER_HIGH else -1.0
    for epoch, part in frame.groupby("epoch", sort=True):
        values = np.sort(sign * part[measure].dropna().to_numpy(np.float64))  # the weakest first
        if not len(values):  # of two classes no group has rows of both
            continue
        weakest = max(1, round(WORST * len(values)))
        quantiles = np.quantile(values, list(QUANTILES.values()))
        row = {
            "epoch": int(str(epoch)),
            "groups": len(values),
            "mean": values.mean(),
            "worst": values[0],
            WORST_DECILE: values[:weakest].mean(),
            **dict(zip(QUANTILES, quantiles, strict=True)),
            "best": values[-1],
        }
        yield {k: v if k in ("epoch", "groups") else sign * float(v) for k, v in row.items()}
