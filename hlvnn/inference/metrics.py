"""Metrics for every group of every level at once, by counting, never by looping over groups."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hlvnn.columns import (
    BACC,
    GROUP_MEAN,
    GROUP_P10,
    GROUP_P90,
    GROUP_WORST,
    GROUPS_OF_BOTH,
    KNOWN,
    NEW,
    TWO_CLASSES,
    over_groups,
)
from hlvnn.inference import two_classes

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DENSE_CELLS = 8
"""Pairs of group and class for each row up to which all pairs are counted, occurring or not."""


@dataclass(frozen=True)
class RowScores:
    """What a model did on each row of a split.

    loss: [N] float64, −log of the predictive probability (density) of y; y, prediction: [N], class
    indices (int64) or values in y's units (float64); groups: [N, L] int, lowest level first, −1
    where the row's group is unknown; score: [N] float64, of two classes the log odds of class 1.
    """

    loss: Floats
    y: NDArray[np.generic]
    prediction: NDArray[np.generic]
    groups: NDArray[np.integer]
    num_classes: int | None
    score: Floats | None = None


def some_rows(scores: RowScores, which: NDArray[np.bool_]) -> RowScores:
    """Return the scores of the rows that are chosen, `which`: [N] bool."""
    return RowScores(
        scores.loss[which],
        scores.y[which],
        scores.prediction[which],
        scores.groups[which],
        scores.num_classes,
        None if scores.score is None else scores.score[which],
    )


def known_and_new(scores: RowScores, is_new: NDArray[np.bool_]) -> dict[str, float]:
    """Return the metrics over rows of known groups and over those of new ones, told apart by name.

    is_new: [N] bool. Nothing where no row is of a new group.
    """
    found: dict[str, float] = {}
    for prefix, which in ((KNOWN, ~is_new), (NEW, is_new)):
        if is_new.any() and which.any():
            of_rows = overall(some_rows(scores, which))
            found |= {f"{prefix}{measure}": value for measure, value in of_rows.items()}
    return found


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
    base = group.astype(np.int64, copy=False) * num_classes
    true_keys, predicted_keys = base + y, base + prediction
    counted = [true_keys, predicted_keys, true_keys[y == prediction]]
    cells = num_groups * num_classes
    dense = cells <= DENSE_CELLS * len(y)
    if not dense:  # most pairs of group and class do not occur: number those that do
        keys = np.unique(np.concatenate([true_keys, predicted_keys]))
        of_group, cells = keys // num_classes, len(keys)
        counted = [np.searchsorted(keys, some) for some in counted]
    support, predicted, hits = (np.bincount(some, minlength=cells) for some in counted)
    both = support + predicted
    weighted = np.divide(2 * hits * support, both, out=np.zeros(cells), where=both > 0)
    with np.errstate(invalid="ignore"):
        if dense:
            total, rows = (x.reshape(num_groups, num_classes).sum(1) for x in (weighted, support))
            return np.asarray(total / rows)
        total = group_sums(of_group, num_groups, weighted)
        return total / group_sums(of_group, num_groups, support.astype(np.float64))


def _of_two(scores: RowScores, group: NDArray[np.integer], num_groups: int) -> dict[str, Floats]:
    """Return the measures of two classes, [G] each; nothing of other targets."""
    if scores.num_classes != 2 or scores.score is None:
        return {}
    both = scores.y == 1, scores.score, scores.prediction == 1
    return two_classes.of_groups(*both, group, num_groups)


def group_table(scores: RowScores, level: int, num_groups: int) -> pd.DataFrame:
    """Return one row per group with rows in the split: gid, n, then acc, f1 (or mse), loss.

    Of two classes also auc, ap and bacc, before the loss: NaN where all rows are of one class.
    """
    known = scores.groups[:, level] >= 0
    scores = scores if known.all() else some_rows(scores, known)
    group, loss = scores.groups[:, level].astype(np.int64), scores.loss
    y, prediction = scores.y, scores.prediction
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
        true, chosen = (labels.astype(np.int64, copy=False) for labels in (y, prediction))
        f1 = weighted_f1(true, chosen, scores.num_classes, group, num_groups)
        columns["f1"] = f1[present]
        of_two = _of_two(scores, group, num_groups)
        columns |= {name: value[present] for name, value in of_two.items()}
    else:
        error = (y.astype(np.float64) - prediction.astype(np.float64)) ** 2
        columns["mse"] = group_sums(group, num_groups, error)[present] / count
    columns["loss"] = group_sums(group, num_groups, loss)[present] / count
    return pd.DataFrame(columns)


def overall(scores: RowScores) -> dict[str, float]:
    """Return the metrics over all rows: loss, and acc and f1, or mse.

    Of two classes also auc, ap and bacc, unless all rows are of one class.
    """
    result = {"loss": float(scores.loss.mean())}
    if scores.num_classes is None:
        error = scores.y.astype(np.float64) - scores.prediction.astype(np.float64)
        return result | {"mse": float((error**2).mean())}
    y = scores.y.astype(np.int64, copy=False)
    prediction = scores.prediction.astype(np.int64, copy=False)
    zeros = np.zeros(len(y), dtype=np.int64)
    f1 = weighted_f1(y, prediction, scores.num_classes, zeros, 1)
    result |= {"acc": float((y == prediction).mean()), "f1": float(f1[0])}
    if len(np.unique(y)) == 2:
        result |= {name: float(value[0]) for name, value in _of_two(scores, zeros, 1).items()}
    return result


def across_groups(table: pd.DataFrame) -> dict[str, float]:
    """Return how a level's groups fare: mean, 10th and 90th percentile and the worst group.

    Of the accuracy, or of the mean squared error, whose worst is the largest and whose percentiles
    are turned so that p10 is always the weak end. Of two classes also the means of auc, ap and bacc
    over the groups with rows of both, and the number of those.
    """
    if not len(table):
        return {}
    classes = "acc" in table
    value = table["acc" if classes else "mse"].to_numpy(dtype=np.float64)
    weak, strong = np.quantile(value, [0.1, 0.9] if classes else [0.9, 0.1])
    worst = value.min() if classes else value.max()
    return {
        GROUP_MEAN: float(value.mean()),
        GROUP_P10: float(weak),
        GROUP_P90: float(strong),
        GROUP_WORST: float(worst),
        **_means_of_two(table),
    }


def _means_of_two(table: pd.DataFrame) -> dict[str, float]:
    if BACC not in table:
        return {}
    have = table[[*TWO_CLASSES]].dropna()
    means = {over_groups(name): float(have[name].mean()) for name in TWO_CLASSES if len(have)}
    return means | {GROUPS_OF_BOTH: float(len(have))}
