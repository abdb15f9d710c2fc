"""Whether a model's uncertainty is right: how often what it calls likely comes true.

For real targets and counts, `pit` and `coverage`; for classes, `reliability` and `scores`. All
average posterior draws in probability space, as `evaluate` does, and groups without training rows
integrate over the prior. Training rows flatter a model: ask about rows it has not seen.

Tables by group open with a row over all rows (level and label "", gid −1). Then each level's groups
follow, those with rows in the split: `level`, `gid`, `label` (the original one) and `n`, the rows.
A group of few rows says little: the standard error of a share s is √(s (1 − s) / n).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from hlvnn.data.grouped import Schema, Split
from hlvnn.errors import ConfigError, DataError, unknown_label
from hlvnn.inference.metrics import Floats, Ints, group_sums
from hlvnn.inference.predict import output_draws
from hlvnn.models.model import HierarchicalModel

INTERVALS = (0.5, 0.8, 0.9, 0.95)
"""Probabilities of the central intervals that `coverage` asks about."""
BINS = 10
"""Bins of equal width that probabilities are sorted into."""


def pit(
    model: HierarchicalModel, split: Split, num_samples: int = 100, seed: int = 0
) -> NDArray[np.float64]:
    """Return where each row's y lies in its predictive distribution: [N] float64 in [0, 1].

    The probability integral transform F(y), F the predictive distribution function: the mean over
    draws of z of that given z, so exact but for the draws. Uniform if the model is calibrated. For
    counts (of the row's trials) it is randomised: uniform between F(y − 1) and F(y), by `seed`.

    Raises `ConfigError` for a target of classes.
    Source: Dawid (1984); for counts Smith (1985), Czado, Gneiting and Held (2009).
    """
    _expect(model, "real", "pit and coverage", "reliability and scores")
    model.likelihood.check(split.y, "row")
    parts = [torch.zeros(2, 0, dtype=torch.float64)]
    for drawn in output_draws(model, split, num_samples, seed):
        bounds = model.likelihood.cumulative(drawn.eta, drawn.y)
        parts.append(torch.stack([bound.mean(0) for bound in bounds]).cpu())
    below, up_to = torch.cat(parts, dim=1).numpy()
    between: NDArray[np.float64] = np.random.default_rng(seed).random(len(split))
    return below + between * (up_to - below)


def coverage(
    model: HierarchicalModel,
    split: Split,
    intervals: Sequence[float] = INTERVALS,
    num_samples: int = 100,
    seed: int = 0,
) -> pd.DataFrame:
    """Return how many rows fall inside their central predictive intervals, over all and by group.

    Columns level, gid, label, n and for each interval, 0.9 say, `coverage_90`: the share of rows
    whose `pit` is within 0.45 of ½. It should be 0.9; less, and the model is too sure of itself.

    Raises `ConfigError` for a target of classes, or an interval outside 0 to 1.
    """
    for interval in intervals:
        if not 0 < interval < 1:
            raise ConfigError(f"intervals ({interval}): expected probabilities between 0 and 1")
    distance = np.abs(pit(model, split, num_samples, seed) - 0.5)
    inside = {
        f"coverage_{100 * interval:g}": (distance <= interval / 2).astype(np.float64)
        for interval in intervals
    }
    return _by_group(model.schema, split, inside)


def reliability(
    model: HierarchicalModel,
    split: Split,
    of: str | int | bool | None = None,
    bins: int = BINS,
    num_samples: int = 100,
    seed: int = 0,
) -> pd.DataFrame:
    """Return predicted probabilities beside what came true, a row for each of `bins` bins.

    of: the class whose probability is meant, by its label; None = the class predicted for each row,
    whose probability is the confidence.

    Columns `low`, `high` (a bin holds low < probability ≤ high, the first 0 too), `n` (rows),
    `confidence` (mean probability) and `accuracy` (share of rows of that class); NaN in empty bins.

    Raises `ConfigError` for a real target or bins below 1, `DataError` for an unknown class.
    Source: Murphy and Winkler (1977); for confidences Guo, Pleiss, Sun and Weinberger (2017).
    """
    rows = _class_rows(model, split, bins, of, num_samples, seed)
    n = group_sums(rows.bin, bins)
    edges = np.linspace(0, 1, bins + 1)
    with np.errstate(invalid="ignore"):
        return pd.DataFrame(
            {
                "low": edges[:-1],
                "high": edges[1:],
                "n": n.astype(np.int64),
                "confidence": group_sums(rows.bin, bins, rows.probability) / n,
                "accuracy": group_sums(rows.bin, bins, rows.hit) / n,
            }
        )


def scores(
    model: HierarchicalModel, split: Split, bins: int = BINS, num_samples: int = 100, seed: int = 0
) -> pd.DataFrame:
    """Return how well class probabilities are calibrated, over all rows and by group.

    Columns level, gid, label, n; `acc`, the share predicted rightly; `confidence`, the mean
    probability of the predicted class (above `acc` = too sure); `ece`, the expected calibration
    error Σ_bins n_bin/n · |accuracy − confidence|, which chance alone makes positive, more so in
    small groups; `brier`, the mean of Σ_k (p_k − [y = k])², halved for two classes: 0 to 1, else 0
    to 2.

    Raises `ConfigError` for a real target or bins below 1.
    Source: Naeini, Cooper and Hauskrecht (2015); Brier (1950).
    """
    rows = _class_rows(model, split, bins, None, num_samples, seed)
    excess = rows.probability - rows.hit

    def gaps(chosen: NDArray[np.bool_], group: Ints, size: int) -> Floats:
        cells = group_sums(group * bins + rows.bin[chosen], size * bins, excess[chosen])
        return np.abs(cells.reshape(size, bins)).sum(1)

    sums: dict[str, Floats | Sums] = {
        "acc": rows.hit,
        "confidence": rows.probability,
        "ece": gaps,
        "brier": rows.brier,
    }
    return _by_group(model.schema, split, sums)


@dataclass(frozen=True)
class _ClassRows:
    """Of each row, [N]: a class's probability and its bin, whether y was that class, the Brier."""

    probability: Floats
    bin: Ints
    hit: Floats
    brier: Floats


def _class_rows(
    model: HierarchicalModel,
    split: Split,
    bins: int,
    of: str | int | bool | None,
    num_samples: int,
    seed: int,
) -> _ClassRows:
    _expect(model, "class", "reliability and scores", "pit and coverage")
    if bins < 1:
        raise ConfigError(f"bins ({bins}): at least one is needed")
    index = None if of is None else _class_index(model.schema, of)
    parts = [torch.zeros(3, 0, dtype=torch.float64)]
    for drawn in output_draws(model, split, num_samples, seed):
        y, probabilities = drawn.y, model.likelihood.probabilities(drawn.eta).mean(0).double()
        chosen = probabilities.argmax(-1) if index is None else torch.full_like(y, index)
        probability = probabilities.gather(-1, chosen[:, None]).squeeze(-1)
        of_y = probabilities.gather(-1, y[:, None]).squeeze(-1)
        brier = probabilities.square().sum(-1) - 2 * of_y + 1
        if probabilities.shape[-1] == 2:
            brier = brier / 2
        parts.append(torch.stack([probability, (chosen == y).double(), brier]).cpu())
    probability, hit, brier = torch.cat(parts, dim=1).numpy()
    inner = np.linspace(0, 1, bins + 1)[1:-1]
    return _ClassRows(probability, np.searchsorted(inner, probability), hit, brier)


def _class_index(schema: Schema, label: str | int | bool) -> int:
    target = schema.target
    labels = list(target.labels or range(target.num_classes or 0))
    if label not in labels:
        raise DataError(unknown_label(f"class of {target.name!r}", label, labels))
    return labels.index(label)


def _expect(model: HierarchicalModel, kind: str, these: str, others: str) -> None:
    target = model.likelihood.target
    if target != kind:
        raise ConfigError(
            f"target {model.schema.target.name!r}: {these} are for a {kind} target, and it is "
            f"a {target} one; use {others}"
        )


Sums = Callable[[NDArray[np.bool_], Ints, int], Floats]
"""From the rows that count, their groups and the number of groups to a sum for each group."""


def _by_group(schema: Schema, split: Split, values: Mapping[str, Floats | Sums]) -> pd.DataFrame:
    """Return the mean of each value over all rows and over each level's groups, all at once.

    values: [N] float64 by column, or a function that gives each group's sum itself.
    """
    gids = split.gids.cpu().numpy().astype(np.int64)
    levels: list[tuple[str, Ints, list[str | int]]] = [("", np.zeros(len(gids), np.int64), [""])]
    for index, level in enumerate(schema.levels):
        known = range(level.size) if level.labels is None else level.labels
        levels.append((level.name, gids[:, index], [*known, *level.new]))
    tables = []
    for name, group, labels in levels:
        chosen = group >= 0
        group, size = group[chosen], len(labels)
        rows = group_sums(group, size)
        present = np.flatnonzero(rows)
        columns: dict[str, object] = {
            "level": name,
            "gid": (present if name else present - 1).astype(np.int32),
            "label": pd.Series(labels, dtype=object).iloc[present].to_numpy(),
            "n": rows[present].astype(np.int64),
        }
        for column, value in values.items():
            sums = (
                value(chosen, group, size)
                if callable(value)
                else group_sums(group, size, value[chosen])
            )
            columns[column] = sums[present] / rows[present]
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)
