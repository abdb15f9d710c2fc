"""AUC, average precision and balanced accuracy of two classes, for all groups at once.

They say how well few positives are found, which accuracy does not. Each needs rows of both classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hlvnn.columns import AP, AUC, BACC

Floats = NDArray[np.float64]


def of_groups(
    positive: NDArray[np.bool_],
    score: Floats,
    chosen: NDArray[np.bool_],
    group: NDArray[np.integer],
    num_groups: int,
) -> dict[str, Floats]:
    """Return each group's AUC, average precision and balanced accuracy, [G] each.

    positive: [N] bool, of class 1; score: [N], larger where class 1 is more probable; chosen: [N]
    bool, whether class 1 was predicted; group: [N] int, 0..G-1. NaN where a group has rows of one
    class only, or a score that is no number. What is tied counts half (AUC), or is one threshold
    (average precision), as in scikit-learn.
    Source: Mann and Whitney (1947) for the AUC as a sum of ranks.
    """

    def sums(weight: NDArray[np.generic]) -> Floats:
        return np.bincount(group, weights=weight, minlength=num_groups).astype(np.float64)

    ones = sums(positive)
    zeros = sums(~positive)
    right, falsely = sums(positive & chosen), sums(~positive & chosen)
    undefined = (ones == 0) | (zeros == 0) | (sums(np.isnan(score)) > 0)
    ranks, precisions = _ranked(positive, score, group)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = {
            AUC: (sums(ranks) - ones * (ones + 1) / 2) / (ones * zeros),
            AP: sums(precisions) / ones,
            BACC: (right / ones + (zeros - falsely) / zeros) / 2,
        }
    return {name: np.where(undefined, np.nan, value) for name, value in found.items()}


def _ranked(
    positive: NDArray[np.bool_], score: Floats, group: NDArray[np.integer]
) -> tuple[Floats, Floats]:
    """Return for each positive row its rank in its group, from 1, and the precision at it; 0 else.

    Tied rows share the mean of their ranks, and the precision with all of them.
    """
    if not len(score):
        return np.zeros(0), np.zeros(0)
    order = np.argsort(score, kind="stable")
    order = order[np.argsort(group[order], kind="stable")]  # the groups, from the lowest score up
    of, value, hit = group[order], score[order], positive[order]
    begins = np.concatenate([[True], of[1:] != of[:-1]])
    new = begins | np.concatenate([[True], value[1:] != value[:-1]])
    tie = np.cumsum(new) - 1  # which of the blocks of tied rows
    first = np.flatnonzero(new)
    last = np.concatenate([first[1:], [len(order)]])
    begin = np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))[first]
    ends = np.flatnonzero(np.concatenate([begins[1:], [True]])) + 1
    end = ends[np.cumsum(begins)[first] - 1]
    rank = (first + last + 1) / 2 - begin
    above = np.concatenate([[0], np.cumsum(hit)])
    precision = (above[end] - above[first]) / (end - first)
    ranks, precisions = np.zeros(len(order)), np.zeros(len(order))
    ranks[order], precisions[order] = np.where(hit, rank[tie], 0), np.where(hit, precision[tie], 0)
    return ranks, precisions
