"""Sweeps side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from hlvnn.analysis.loading import load_sweep
from hlvnn.analysis.pairs import at_equal_epochs
from hlvnn.analysis.results import Results
from hlvnn.columns import DATA_HASH, best_of, on_test
from hlvnn.records.outcomes import Status


def compare(sweeps: Sequence[Results | Path | str]) -> pd.DataFrame:
    """Return a row per sweep, to set them side by side.

    Columns sweep (its folder's name), space, description, metric, mode, trials, a column per status
    with its count, seconds (of all trials), best_trial, structure, best (the metric), best_test
    (the same measure on test rows, at the epoch that validation chose), pooled_trial, pooled and
    pooled_test (of the best trial without latents), gain (best over pooled on validation, positive
    = better, each at its chosen epoch among the first gain_epochs, which both have trained, so that
    it need not be the difference of the columns best and pooled; over gain_over, the better of the
    sweep's pooled references where it has some, else the pooled trial), data_hash, same_data
    (whether its data are the first sweep's) and same_metric: numbers are comparable only where both
    are true.
    """
    rows = []
    for given in sweeps:
        one = given if isinstance(given, Results) else load_sweep(given)
        rows.append(_summary(one))
    frame = pd.DataFrame(rows)
    if len(frame):
        frame["same_data"] = frame[DATA_HASH].eq(frame[DATA_HASH].iloc[0])
        frame["same_metric"] = frame["metric"].eq(frame["metric"].iloc[0])
    return frame


def _summary(one: Results) -> dict[str, Any]:
    counts = one.table["status"].value_counts()
    column, test = best_of(one.metric), best_of(on_test(one.metric))
    row: dict[str, Any] = {
        "sweep": one.name,
        "space": "" if one.record is None else one.record.space,
        "description": "" if one.record is None else one.record.description,
        "metric": one.metric,
        "mode": one.mode,
        "trials": len(one.table),
        **{str(status): int(counts.get(status, 0)) for status in Status},
        "seconds": float(one.table.get("seconds", pd.Series(dtype=float)).sum()),
    }
    for prefix, trial in (("best", one.best_trial), ("pooled", one.pooled_trial)):
        found = None if trial is None else one.row(trial)
        row[f"{prefix}_trial"] = trial
        if prefix == "best":
            row["structure"] = None if found is None else found["structure"]
        row[prefix] = float("nan") if found is None else found[column]
        row[f"{prefix}_test"] = float("nan") if found is None else found.get(test, float("nan"))
    row |= {"gain": float("nan"), "gain_epochs": None, "gain_over": None}
    best = one.best_trial
    pooled = None if best is None else next(iter(one.baselines(best)), one.pooled_trial)
    if best is not None and pooled is not None:
        fair = at_equal_epochs(one, best, pooled)
        row["gain_over"] = one.called(pooled)
        mine, theirs = (measured[one.metric] for measured in fair.rows)
        row |= {"gain": (mine - theirs) * (1 if one.mode == "max" else -1)}
        row |= {"gain_epochs": fair.within}
    hashes = one.table[DATA_HASH].dropna().unique()
    row[DATA_HASH] = hashes[0] if len(hashes) == 1 else None
    return row
