"""Accuracy, F1 and loss of every group, against scikit-learn group by group.

    python benchmarks/group_metrics.py [--rows 1000000] [--groups 10000]

62 classes, rows of random groups, two thirds of the predictions right. scikit-learn's side sorts
the rows by group once (not counted) and calls `accuracy_score` and `f1_score` for each group of a
sample of them; its time for all groups is that of the sample, scaled up. Both sides run in turn
inside one run, three times, the medians count. A second line gives ours for 10 times the rows and
groups.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
import pandas as pd
import tyro
from pydantic import BaseModel
from sklearn.metrics import accuracy_score, f1_score

from hlvnn.inference.metrics import RowScores, group_table

CLASSES = 62
TIMES = 3


class Options(BaseModel):
    """How much to measure."""

    rows: int = 1_000_000
    """Rows."""
    groups: int = 10_000
    """Groups, a hundredth of the rows by default."""
    sample: int = 500
    """Groups that scikit-learn is timed on."""
    larger: bool = True
    """Time ours on 10 times as much, too."""


def random_scores(rows: int, groups: int) -> RowScores:
    """Return scores of rows in random groups."""
    random = np.random.default_rng(0)
    y = random.integers(0, CLASSES, rows)
    prediction = np.where(random.random(rows) < 2 / 3, y, random.integers(0, CLASSES, rows))
    group = random.integers(0, groups, (rows, 1)).astype(np.int32)
    return RowScores(random.exponential(size=rows), y, prediction, group, CLASSES)


def by_scikit_learn(scores: RowScores, sample: int) -> tuple[float, pd.DataFrame]:
    """Return seconds and a table of the first `sample` groups."""
    order = np.argsort(scores.groups[:, 0], kind="stable")
    group = scores.groups[order, 0]
    y, prediction, loss = scores.y[order], scores.prediction[order], scores.loss[order]
    ends = np.searchsorted(group, np.arange(sample + 1))
    rows = []
    began = time.perf_counter()
    for gid in range(sample):
        own = slice(ends[gid], ends[gid + 1])
        rows.append(
            {
                "gid": gid,
                "acc": accuracy_score(y[own], prediction[own]),
                "f1": f1_score(y[own], prediction[own], average="weighted", zero_division=0),
                "loss": loss[own].mean(),
            }
        )
    return time.perf_counter() - began, pd.DataFrame(rows)


def ours(scores: RowScores, groups: int) -> tuple[float, pd.DataFrame]:
    """Return seconds and the table of all groups."""
    began = time.perf_counter()
    table = group_table(scores, 0, groups)
    return time.perf_counter() - began, table


def main(options: Options) -> None:
    """Print both times, their ratio and the largest relative difference."""
    scores = random_scores(options.rows, options.groups)
    sample = min(options.sample, options.groups)
    theirs, own = [], []
    for _ in range(TIMES):
        seconds, table = ours(scores, options.groups)
        own.append(seconds)
        seconds, expected = by_scikit_learn(scores, sample)
        theirs.append(seconds * options.groups / sample)
    got = table.head(sample)
    differences = [
        np.max(np.abs(got[name] - expected[name]) / np.maximum(np.abs(expected[name]), 1e-300))
        for name in ("acc", "f1", "loss")
    ]
    took, needed = statistics.median(own), statistics.median(theirs)
    print("| rows | groups | ours, s | scikit-learn, s | ratio | largest relative difference |")
    print("|---|---|---|---|---|---|")
    print(
        f"| {options.rows:,} | {options.groups:,} | {took:.3f} | {needed:.1f} "
        f"| {needed / took:.0f} | {max(differences):.1e} |",
        flush=True,
    )
    if options.larger:
        rows, groups = 10 * options.rows, 10 * options.groups
        scores = random_scores(rows, groups)
        took = statistics.median(ours(scores, groups)[0] for _ in range(TIMES))
        print(f"| {rows:,} | {groups:,} | {took:.3f} | | | |")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__, config=(tyro.conf.FlagCreatePairsOff,)))
