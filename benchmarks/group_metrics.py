"""Accuracy, F1 and loss of every group: ours, and three ways in which people compute them.

    python benchmarks/group_metrics.py [--rows 1000000] [--groups 10000]

62 classes, rows of random groups, two thirds of the predictions right.

- numpy: ten lines of `numpy.bincount`, for whoever knows that it can be done so. Ours is these
  lines, and beside them checks groups that are unknown, counts only pairs of group and class that
  occur where most do not, and leaves out groups without rows.
- pandas: `groupby` for accuracy and loss, and once more by group and class for F1.
- scikit-learn: `accuracy_score` and `f1_score` for each group of a sample, its rows sorted before
  (not counted); the time for all groups is that of the sample, scaled up.

All run in turn inside one run, three times, and the medians count. A second line gives ours and
numpy's for 10 times the rows and groups.
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


def by_pandas(scores: RowScores, groups: int) -> tuple[float, pd.DataFrame]:
    """Return seconds and the table of all groups."""
    began = time.perf_counter()
    frame = pd.DataFrame(
        {"gid": scores.groups[:, 0], "y": scores.y, "p": scores.prediction, "loss": scores.loss}
    )
    frame["acc"] = frame["y"] == frame["p"]
    table = frame.groupby("gid")[["acc", "loss"]].mean()
    support = frame.groupby(["gid", "y"])["acc"].agg(["size", "sum"])
    predicted = frame.groupby(["gid", "p"]).size().rename_axis(["gid", "y"])
    both = support["size"] + predicted.reindex(support.index, fill_value=0)
    f1 = 2 * support["sum"] / both * support["size"]
    table["f1"] = f1.groupby("gid").sum() / support["size"].groupby("gid").sum()
    return time.perf_counter() - began, table.reset_index()


def by_numpy(scores: RowScores, groups: int) -> tuple[float, pd.DataFrame]:
    """Return seconds and the table of all groups."""
    began = time.perf_counter()
    gid, hit = scores.groups[:, 0].astype(np.int64), scores.y == scores.prediction
    rows = np.bincount(gid, minlength=groups)
    cells, shape = groups * CLASSES, (groups, CLASSES)
    true, chosen = gid * CLASSES + scores.y, gid * CLASSES + scores.prediction
    support = np.bincount(true, minlength=cells).reshape(shape)
    both = support + np.bincount(chosen, minlength=cells).reshape(shape)
    hits = np.bincount(true[hit], minlength=cells).reshape(shape)
    f1 = (2 * hits * support / np.maximum(both, 1)).sum(1) / rows
    acc, loss = (np.bincount(gid, part, groups) / rows for part in (hit, scores.loss))
    table = pd.DataFrame({"gid": np.arange(groups), "acc": acc, "f1": f1, "loss": loss})
    return time.perf_counter() - began, table


def ours(scores: RowScores, groups: int) -> tuple[float, pd.DataFrame]:
    """Return seconds and the table of all groups."""
    began = time.perf_counter()
    table = group_table(scores, 0, groups)
    return time.perf_counter() - began, table


WAYS = {"ours": ours, "numpy": by_numpy, "pandas": by_pandas}
"""What computes all groups."""


def main(options: Options) -> None:
    """Print the times of all ways and the largest relative difference to scikit-learn."""
    scores = random_scores(options.rows, options.groups)
    sample = min(options.sample, options.groups)
    times: dict[str, list[float]] = {name: [] for name in (*WAYS, "scikit-learn")}
    tables: dict[str, pd.DataFrame] = {}
    for _ in range(TIMES):
        for name, way in WAYS.items():
            seconds, tables[name] = way(scores, options.groups)
            times[name].append(seconds)
        seconds, expected = by_scikit_learn(scores, sample)
        times["scikit-learn"].append(seconds * options.groups / sample)
    largest = max(
        float(
            np.max(np.abs(table[name][:sample] - expected[name]) / (expected[name].abs() + 1e-300))
        )
        for table in tables.values()
        for name in ("acc", "f1", "loss")
    )
    print("| rows | groups | " + " | ".join(f"{name}, s" for name in times) + " | difference |")
    print("|---" * (len(times) + 3) + "|")
    cells = " | ".join(f"{statistics.median(seconds):.3f}" for seconds in times.values())
    print(f"| {options.rows:,} | {options.groups:,} | {cells} | {largest:.1e} |", flush=True)
    if options.larger:
        rows, groups = 10 * options.rows, 10 * options.groups
        scores = random_scores(rows, groups)
        took = [
            statistics.median(WAYS[name](scores, groups)[0] for _ in range(TIMES))
            for name in ("ours", "numpy")
        ]
        print(f"| {rows:,} | {groups:,} | {took[0]:.3f} | {took[1]:.3f} | | | |")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__, config=(tyro.conf.FlagCreatePairsOff,)))
