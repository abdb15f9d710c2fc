"""Prediction and evaluation: posterior draws averaged in probability space."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution

from hlvnn.data.batches import Batches
from hlvnn.data.grouped import Split, TensorRows
from hlvnn.errors import ConfigError, DataError
from hlvnn.metrics import RowScores, across_groups, group_table, overall
from hlvnn.model import HierarchicalModel
from hlvnn.random import seeded

ROWS_AT_ONCE = 16384
"""Rows × samples of one evaluation batch."""


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one split.

    scalars: loss, acc and f1 (or mse) over rows, group_mean, group_p10, group_p90, group_worst over
    the groups of the lowest level; groups: columns level, gid, n, acc, f1 (or mse), loss.
    """

    scalars: dict[str, float]
    groups: pd.DataFrame


def _draws(
    model: HierarchicalModel, split: Split, num_samples: int, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (y, the network's output [S, B, out]) for a split, in order."""
    if num_samples < 1:
        raise ConfigError(f"num_samples ({num_samples}): at least one draw of z is needed")
    draws = num_samples if model.sampling else 1
    batch_size = max(1, ROWS_AT_ONCE // draws)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), seeded(seed, model.device):
            # by name: a group without training rows may have a latent by now (see `adapt`)
            named = Split(split.x, split.gids, split.y)
            for batch in Batches(named, batch_size, device=model.device):
                rows = model.latents.at(batch.groups, unseen=True)
                yield batch.y, model(batch.x, model.latents.sample(rows, draws))
    finally:
        model.train(was_training)


def _log_mean(values: Tensor) -> Tensor:
    """Return the log of the mean over samples of what `values` [S, B] are the logs of."""
    return values.logsumexp(0) - math.log(len(values))


def score_rows(
    model: HierarchicalModel, split: Split, num_samples: int = 10, seed: int = 0
) -> RowScores:
    """Return each row's predictive loss and prediction.

    Groups without training rows integrate over the prior. Where y counts trials, the loss is that
    of the row's counts, and y and the prediction are per trial.
    """
    losses, ys, predictions = [], [], []
    likelihood = model.likelihood
    likelihood.check(split.y, "row")
    for y, eta in _draws(model, split, num_samples, seed):
        law = likelihood(eta)
        if likelihood.target == "class":
            predictions.append(class_probabilities(law).mean(0).argmax(-1))
        else:
            predictions.append(law.mean.mean(0))
        losses.append(-_log_mean(likelihood.log_prob(eta, y)))
        ys.append(likelihood.response(y))
    return RowScores(
        torch.cat(losses).double().cpu().numpy(),
        torch.cat(ys).cpu().numpy(),
        torch.cat(predictions).cpu().numpy(),
        split.gids.cpu().numpy(),
        model.schema.target.num_classes,
    )


def class_probabilities(law: Distribution) -> Tensor:
    """Return the probabilities [S, B, K] of a law over classes."""
    if isinstance(law, Bernoulli):
        return torch.stack([1 - law.probs, law.probs], dim=-1)
    return law.probs  # type: ignore[attr-defined]


def evaluate(
    model: HierarchicalModel, split: Split, num_samples: int = 10, seed: int = 0
) -> Evaluation:
    """Return the metrics of a split, over rows and for every group of every level.

    Predictions average `num_samples` posterior draws in probability space.
    """
    scores = score_rows(model, split, num_samples, seed)
    tables = []
    for index, level in enumerate(model.schema.levels):
        table = group_table(scores, index, level.size + len(level.new))
        table.insert(0, "level", level.name)
        tables.append(table)
    scalars = overall(scores) | (across_groups(tables[0]) if tables else {})
    return Evaluation(scalars, pd.concat(tables, ignore_index=True) if tables else pd.DataFrame())


def predict(
    model: HierarchicalModel,
    rows: pd.DataFrame | Split,
    num_samples: int = 100,
    seed: int = 0,
) -> pd.DataFrame:
    """Predict y for rows, integrating over the groups' posteriors.

    rows: a dataframe with the feature and group columns of `from_frame` (no target needed; labels
    never seen integrate over the prior), or a split of a data set.

    Returns one row per row, indexed like the dataframe. Real target: `mean`, `sd` (of a new y) and
    `sd_mean` (of E[y], from not knowing z); where y counts trials, those of one trial. Classes:
    `prediction`, and for each label `prob_<label>` with `sd_<label>`, its SD over the posterior.
    Raises `DataError` for missing columns or values.
    """
    index = rows.index if isinstance(rows, pd.DataFrame) else None
    split = _as_split(model, rows) if isinstance(rows, pd.DataFrame) else rows
    parts: list[Tensor] = []
    for _, eta in _draws(model, split, num_samples, seed):
        law = model.likelihood(eta)
        if model.likelihood.target == "class":
            probabilities = class_probabilities(law)
            sd = probabilities.std(0, correction=0)
            parts.append(torch.cat([probabilities.mean(0), sd], dim=-1).double().cpu())
        else:
            between = law.mean.std(0, correction=0)
            sd = (law.variance.mean(0) + between.square()).sqrt()
            parts.append(torch.stack([law.mean.mean(0), sd, between], dim=-1).double().cpu())
    target = model.schema.target
    labels = (
        list(target.labels) if target.labels is not None else list(range(target.num_classes or 0))
    )
    empty = torch.empty(0, 2 * len(labels) or 3, dtype=torch.float64)  # for no rows at all
    table = torch.cat([empty, *parts]).numpy()
    if model.likelihood.target == "real":
        return pd.DataFrame(table, columns=["mean", "sd", "sd_mean"], index=index)
    names = [f"{part}_{label}" for part in ("prob", "sd") for label in labels]
    frame = pd.DataFrame(table, columns=names, index=index)
    best = np.argmax(table[:, : len(labels)], axis=1)
    frame.insert(0, "prediction", [labels[i] for i in best])
    return frame


def _as_split(model: HierarchicalModel, frame: pd.DataFrame) -> Split:
    if model.schema.columns is None:
        raise DataError("this model reads arrays, not dataframes; pass a split of its data set")
    x = model.schema.features_of(frame)
    groups = model.schema.groups_of(frame)
    return Split(TensorRows(x), groups, torch.zeros(len(frame), dtype=torch.float64))
