"""Metrics for every group of every level at once, by counting, never by looping over groups."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class RowScores:
    """What a model did on each row of a split.

    loss: [N] float64, −log of the predictive probability (density) of y; y, prediction: [N], class
    indices (int64) or values in y's units (float64); groups: [N, L] int, lowest level first, −1
    where the row's group is unknown.
    """

    loss: Floats
    y: NDArray[np.generic]
    prediction: NDArray[np.generic]
    groups: NDArray[np.integer]
    num_classes: int | None


def group_sums(group: NDArray[np.integer], num_groups: int, weight: Floats | None = None) -> Floats:
    """Return Σ of `weight` (or the count of rows) over the rows of each group, [G]."""
    return np.bincount(group, weights=weight, minlength=num_groups).astype(np.float64)


def weighted_f1(
    y: NDArray[np.integer],
    prediction: NDArray[np.integer],
    num_classes: int,
    group: NDArray[np.integer],
    num_groups: int,
) -> Floats:
    """Return each group's F1 averaged over classes by their support, [G].

    A class that is neither present nor predicted counts nothing, as in
    `sklearn.metrics.f1_score(average="weighted", zero_division=0)`. Groups without rows give NaN.
    """
    base = group.astype(np.int64) * num_classes
    true_keys, predicted_keys = base + y, base + prediction
    keys = np.unique(np.concatenate([true_keys, predicted_keys]))  # the pairs that occur
    support = group_sums(np.searchsorted(keys, true_keys), len(keys))
    predicted = group_sums(np.searchsorted(keys, predicted_keys), len(keys))
    hit = y == prediction
    hits = group_sums(np.searchsorted(keys, true_keys[hit]), len(keys))
    f1 = 2 * hits / (support + predicted)
    of_group = keys // num_classes
    rows = group_sums(of_group, num_groups, support)
    with np.errstate(invalid="ignore"):
        return group_sums(of_group, num_groups, f1 * support) / rows


def group_table(scores: RowScores, level: int, num_groups: int) -> pd.DataFrame:
    """Return one row per group with rows in the split: gid, n, then acc, f1 (or mse), loss."""
    group = scores.groups[:, level].astype(np.int64)
    known = group >= 0
    group, loss = group[known], scores.loss[known]
    y, prediction = scores.y[known], scores.prediction[known]
    rows = group_sums(group, num_groups)
    present = np.flatnonzero(rows)
    count = rows[present]
    columns: dict[str, NDArray[np.generic]] = {
        "gid": present.astype(np.int32),
        "n": count.astype(np.int64),
    }
    if scores.num_classes is not None:
        hit = (y == prediction).astype(np.float64)
        columns["acc"] = group_sums(group, num_groups, hit)[present] / count
        f1 = weighted_f1(
            y.astype(np.int64), prediction.astype(np.int64), scores.num_classes, group, num_groups
        )
        columns["f1"] = f1[present]
    else:
        error = (y.astype(np.float64) - prediction.astype(np.float64)) ** 2
        columns["mse"] = group_sums(group, num_groups, error)[present] / count
    columns["loss"] = group_sums(group, num_groups, loss)[present] / count
    return pd.DataFrame(columns)


def overall(scores: RowScores) -> dict[str, float]:
    """Return the metrics over all rows: loss, and acc and f1, or mse."""
    result = {"loss": float(scores.loss.mean())}
    if scores.num_classes is None:
        error = scores.y.astype(np.float64) - scores.prediction.astype(np.float64)
        return result | {"mse": float((error**2).mean())}
    y, prediction = scores.y.astype(np.int64), scores.prediction.astype(np.int64)
    zeros = np.zeros(len(y), dtype=np.int64)
    f1 = weighted_f1(y, prediction, scores.num_classes, zeros, 1)
    return result | {"acc": float((y == prediction).mean()), "f1": float(f1[0])}


def across_groups(table: pd.DataFrame) -> dict[str, float]:
    """Return how a level's groups fare: mean, 10th and 90th percentile and the worst group.

    Of the accuracy, or of the mean squared error, whose worst is the largest and whose percentiles
    are turned so that p10 is always the weak end.
    """
    if not len(table):
        return {}
    classes = "acc" in table
    value = table["acc" if classes else "mse"].to_numpy(dtype=np.float64)
    weak, strong = np.quantile(value, [0.1, 0.9] if classes else [0.9, 0.1])
    worst = value.min() if classes else value.max()
    return {
        "group_mean": float(value.mean()),
        "group_p10": float(weak),
        "group_p90": float(strong),
        "group_worst": float(worst),
    }
