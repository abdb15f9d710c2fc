"""Prediction and evaluation: posterior draws averaged in probability space."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Distribution

from hlvnn.columns import MEASURES, TWO_CLASSES, VAL_ACC, VAL_LOSS, VAL_MSE
from hlvnn.data.batches import Batches
from hlvnn.data.describe import listed
from hlvnn.data.grouped import GroupedDataset, Split, TensorRows
from hlvnn.errors import ConfigError, DataError
from hlvnn.inference.chunks import rows_at_once
from hlvnn.inference.importance import Drawn, can_reweight, reweighted, warn_of_poor
from hlvnn.inference.metrics import (
    RowScores,
    across_groups,
    group_table,
    known_and_new,
    overall,
)
from hlvnn.likelihoods.base import Likelihood
from hlvnn.marks import DATA, LAWS, LIKELIHOOD, METRICS, marked_each, marking
from hlvnn.models.model import HierarchicalModel
from hlvnn.random import seeding

logger = logging.getLogger("hlvnn")

MANY = 10
"""New groups, and their rows, that are named."""
SMALLEST = 1e-30
"""Probability of y below which its log is taken before the mean over draws."""


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one split.

    scalars: loss, acc and f1 (or mse) over rows, and known_… and new_… of these where some rows are
    of new groups; group_mean, group_p10, group_p90, group_worst over the groups of the lowest
    level; groups: columns level, gid, n, acc, f1 (or mse), loss; rows: what they are made of. Of
    two classes also auc, ap and bacc (see `metrics.group_table`), and their means over groups.
    """

    scalars: dict[str, float]
    groups: pd.DataFrame
    rows: RowScores


def output_draws(
    model: HierarchicalModel,
    split: Split,
    num_samples: int,
    seed: int,
    reweight: Split | None = None,
) -> Iterator[Drawn]:
    """Yield every row of a split once, in order; with `reweight` those with weighted draws first.

    reweight: the training rows, as in `predict`.
    """
    if num_samples < 1:
        raise ConfigError(f"num_samples ({num_samples}): at least one draw of z is needed")
    draws = num_samples if model.is_sampling else 1
    weighted = torch.zeros(len(split), dtype=torch.bool)
    if reweight is not None and model.is_sampling:
        weighted = can_reweight(model, split).cpu()
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), seeding(seed, model.device):
            if reweight is not None and weighted.any():
                places = weighted.nonzero()[:, 0]
                for part in reweighted(model, split.subset(places), reweight, num_samples):
                    yield replace(part, index=places[part.index])
            places = (~weighted).nonzero()[:, 0]
            rest = split if len(places) == len(split) else split.subset(places)
            # by name: a group without training rows may have a latent by now (see `adapt`)
            rest = Split(rest.x, rest.gids, rest.y)
            size = rows_at_once(model, rest, draws)
            for batch in marked_each(Batches(rest, size, device=model.device), DATA):
                with marking(LAWS):
                    rows = model.latents.at(batch.groups, unseen=True)
                    sampled = model.latents.sample_mirrored(rows, draws)
                eta = model(batch.x, sampled)
                unknown = torch.full((len(batch.y),), math.nan, dtype=torch.float64)
                yield Drawn(places[batch.index.cpu()], batch.y, eta, None, unknown, unknown)
    finally:
        model.train(was_training)


@dataclass(frozen=True)
class Integrated:
    """Rows whose latents were integrated out exactly: index, y [B], y's law, and the SD of E[y]."""

    index: Tensor
    y: Tensor
    law: Distribution
    sd_mean: Tensor


def is_exact(model: HierarchicalModel) -> bool:
    """Return whether predictions need no draws: normal latents, a linear way to a normal y."""
    return model.is_linear_at_output and model.likelihood.integrates


def integrated(model: HierarchicalModel, split: Split) -> Iterator[Integrated]:
    """Yield every row of a split once, in order; only for a model that `is_exact`."""
    was_training = model.training
    model.eval()
    named = Split(split.x, split.gids, split.y)
    try:
        with torch.no_grad():
            size = rows_at_once(model, named, 1)
            for batch in marked_each(Batches(named, size, device=model.device), DATA):
                with marking(LAWS):
                    rows = model.latents.at(batch.groups, unseen=True)
                mean, variance = model.predictor_moments(batch.x, rows)
                law = model.likelihood.marginal(mean, variance)
                within = model.likelihood(mean).variance
                sd_mean = (law.variance - within).clamp(min=0).sqrt()
                yield Integrated(batch.index.cpu(), batch.y, law, sd_mean)
    finally:
        model.train(was_training)


def _in_order(parts: Sequence[Tensor], index: Sequence[Tensor]) -> Tensor:
    """Return the parts of all rows together, each row at its place."""
    whole, places = torch.cat(list(parts)), torch.cat(list(index))
    if torch.equal(places, torch.arange(len(places))):
        return whole
    return whole[places.argsort()]


def score_rows(
    model: HierarchicalModel,
    split: Split,
    num_samples: int = 10,
    seed: int = 0,
    reweight: Split | None = None,
) -> RowScores:
    """Return each row's predictive loss and prediction.

    Groups without training rows integrate over the prior. Where y counts trials, the loss is that
    of the row's counts, and y and the prediction are per trial. reweight: as in `predict`.
    """
    likelihood = model.likelihood
    likelihood.check(split.y, "row")
    exact = (reweight is None or model.latents.law is not None) and is_exact(model)
    scored = (
        (
            (part.index, -part.law.log_prob(part.y), part.law.mean, None)
            for part in integrated(model, split)
        )
        if exact
        else _scored_by_draws(model, split, num_samples, seed, reweight)
    )
    index, losses, predictions, odds = zip(*scored, strict=True)
    is_of_two = model.schema.target.num_classes == 2
    return RowScores(
        _in_order([loss.double().cpu() for loss in losses], index).numpy(),
        likelihood.response(split.y).cpu().numpy(),
        _in_order([prediction.cpu() for prediction in predictions], index).numpy(),
        split.gids.cpu().numpy(),
        model.schema.target.num_classes,
        _in_order([part.double().cpu() for part in odds], index).numpy() if is_of_two else None,
    )


def _scored_by_draws(
    model: HierarchicalModel, split: Split, num_samples: int, seed: int, reweight: Split | None
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor | None]]:
    """Yield index, loss and prediction of the rows, and of two classes their log odds."""
    likelihood = model.likelihood
    for drawn in output_draws(model, split, num_samples, seed, reweight):
        with marking(LIKELIHOOD):
            loss, prediction, odds = _scored(likelihood, drawn)
        yield drawn.index, loss, prediction, odds


def _scored(likelihood: Likelihood, drawn: Drawn) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return loss and prediction of the rows, and of two classes the log odds of class 1."""
    odds = None
    if likelihood.target == "class":
        probabilities = drawn.mean(likelihood.probabilities(drawn.eta))
        prediction = probabilities.argmax(-1)
        of_y = probabilities.gather(-1, drawn.y[:, None]).squeeze(-1)
        if probabilities.shape[-1] == 2:  # not the probability, of which near 1 little is left
            odds = probabilities[:, 1].log() - probabilities[:, 0].log()
        if of_y.min() > SMALLEST:
            return -of_y.log(), prediction, odds
    else:
        prediction = drawn.mean(likelihood(drawn.eta).mean)
    return -drawn.log_mean(likelihood.log_prob(drawn.eta, drawn.y)), prediction, odds


def evaluate(
    model: HierarchicalModel,
    split: Split,
    num_samples: int = 10,
    seed: int = 0,
    reweight: Split | None = None,
) -> Evaluation:
    """Return the metrics of a split, over rows and for every group of every level.

    Predictions average `num_samples` posterior draws in probability space; reweight: as in
    `predict`.
    """
    scores = score_rows(model, split, num_samples, seed, reweight)
    with marking(METRICS):
        tables = []
        for index, level in enumerate(model.schema.levels):
            table = group_table(scores, index, level.size + len(level.new))
            table.insert(0, "level", level.name)
            tables.append(table)
        is_new = np.asarray(_is_new(model, split).any(axis=1))
        scalars = overall(scores) | known_and_new(scores, is_new)
        scalars |= across_groups(tables[0]) if tables else {}
        table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    return Evaluation(scalars, table, scores)


def measured_names(model: HierarchicalModel, split: Split) -> list[str]:
    """Return the names of the scalars that evaluating a split gives, without doing it."""
    y, size = model.likelihood.response(split.y).cpu().numpy(), len(split)
    nothing, classes = np.zeros(size), model.schema.target.num_classes
    guess = y if classes is None else np.zeros(size, dtype=np.int64)
    scores = RowScores(nothing, y, guess, split.gids.cpu().numpy(), classes, nothing)
    is_new = np.asarray(_is_new(model, split).any(axis=1))
    levels = model.schema.levels[:1]
    tables = [group_table(scores, 0, level.size + len(level.new)) for level in levels]
    found = overall(scores) | known_and_new(scores, is_new)
    return [*found, *(name for table in tables for name in across_groups(table))]


def why_not_measured(model: HierarchicalModel, split: Split, measure: str) -> str:
    """Return why a measure of two classes is not measured on a split; "" for other measures."""
    target, name = model.schema.target, measure.rpartition("_")[2]
    if name not in TWO_CLASSES:
        return ""
    what = f"{MEASURES[name].title} needs rows of both of two classes"
    if target.num_classes != 2:
        kind = f"{target.num_classes} classes" if target.num_classes else "no classes"
        other = VAL_ACC if target.num_classes else VAL_MSE
        return f"{what}, and the target has {kind}; take {other} or {VAL_LOSS}"
    if len(present := split.y.unique()) == 1:
        label = (target.labels or (0, 1))[int(present[0])]
        return (
            f"{what}, and all {len(split):,} rows are of class {label!r}; --stratify spreads them"
        )
    return f"{what}, and no group has them; --val-fraction and --stratify give it more"


def _is_new(model: HierarchicalModel, split: Split) -> NDArray[np.bool_]:
    """Return which rows are of a group that the model does not know: [N, L], a column a level."""
    sizes = np.array([level.size for level in model.schema.levels])
    gids = split.gids.cpu().numpy()
    return np.asarray((gids < 0) | (gids >= sizes))


def predict(
    model: HierarchicalModel,
    rows: pd.DataFrame | Split,
    num_samples: int = 100,
    seed: int = 0,
    reweight: Split | GroupedDataset | None = None,
) -> pd.DataFrame:
    """Predict y for rows, integrating over the groups' posteriors.

    Exactly where normal latents enter a normal y linearly at the output (and nowhere else), without
    any draws; elsewhere over `num_samples` draws.

    rows: a dataframe with the feature and group columns of `from_frame` (no target needed; labels
    never seen integrate over the prior), or a split of a data set.
    reweight: the rows that the model was fitted to (or their data set). With them the draws of
    known groups get importance weights p(the group's training rows | z) p(z) / q(z), so that they
    follow the posterior itself where q cannot (see `importance.reweighted`); some hundred draws.

    Says how many rows, and which, are of groups that the model does not know.

    Returns one row per row, indexed like the dataframe. Real target: `mean`, `sd` (of a new y) and
    `sd_mean` (of E[y], from not knowing z); where y counts trials, those of one trial. Classes:
    `prediction`, and for each label `prob_<label>` with `sd_<label>`, its SD over the posterior.
    With `reweight` also `ess` (effective draws) and `pareto_k` of the row's group, and a warning
    where they are poor. Raises `DataError` for missing columns or values.
    """
    index = rows.index if isinstance(rows, pd.DataFrame) else None
    split = _as_split(model, rows) if isinstance(rows, pd.DataFrame) else rows
    _tell_of_new_groups(model, split, rows)
    train = reweight.train if isinstance(reweight, GroupedDataset) else reweight
    parts, places, quality = [], [], []
    exact = (train is None or model.latents.law is not None) and is_exact(model)
    for part in integrated(model, split) if exact else ():
        parts.append(torch.stack([part.law.mean, part.law.stddev, part.sd_mean], dim=-1).cpu())
        places.append(part.index)
    for drawn in () if exact else output_draws(model, split, num_samples, seed, train):
        if model.likelihood.target == "class":
            probabilities = model.likelihood.probabilities(drawn.eta)
            columns = [drawn.mean(probabilities), drawn.sd(probabilities)]
            parts.append(torch.cat(columns, dim=-1).double().cpu())
        else:
            law = model.likelihood(drawn.eta)
            between = drawn.sd(law.mean)
            sd = (drawn.mean(law.variance) + between.square()).sqrt()
            parts.append(torch.stack([drawn.mean(law.mean), sd, between], dim=-1).double().cpu())
        places.append(drawn.index)
        quality.append(torch.stack([drawn.ess, drawn.pareto_k], dim=-1))
    target = model.schema.target
    labels = (
        list(target.labels) if target.labels is not None else list(range(target.num_classes or 0))
    )
    empty = torch.empty(0, 2 * len(labels) or 3, dtype=torch.float64)  # for no rows at all
    table = (_in_order(parts, places) if parts else empty).numpy()
    diagnostics = pd.DataFrame(index=index if index is not None else range(len(split)))
    if train is not None and parts:
        told = _in_order(quality, places) if quality else _equal_weights(model, split, num_samples)
        ess, k = told.numpy().T
        diagnostics["ess"], diagnostics["pareto_k"] = ess, k
        warn_of_poor(ess / num_samples, k, "rows")
    if model.likelihood.target == "real":
        frame = pd.DataFrame(table, columns=["mean", "sd", "sd_mean"], index=index)
        return pd.concat([frame, diagnostics], axis=1)
    names = [f"{part}_{label}" for part in ("prob", "sd") for label in labels]
    frame = pd.DataFrame(table, columns=names, index=index)
    best = np.argmax(table[:, : len(labels)], axis=1)
    frame.insert(0, "prediction", [labels[i] for i in best])
    return pd.concat([frame, diagnostics], axis=1)


def _equal_weights(model: HierarchicalModel, split: Split, num_samples: int) -> Tensor:
    """Return effective draws and Pareto k where q is the posterior itself, [N, 2] float64."""
    known = can_reweight(model, split).cpu()
    table = torch.full((len(split), 2), math.nan, dtype=torch.float64)
    table[known] = torch.tensor([num_samples, -math.inf], dtype=torch.float64)
    return table


def _tell_of_new_groups(
    model: HierarchicalModel, split: Split, given: pd.DataFrame | Split
) -> None:
    """Warn of the rows that are predicted by the prior, because their group is not known."""
    is_new = _is_new(model, split)
    rows = np.flatnonzero(is_new.any(axis=1))
    if len(rows) == 0:
        return
    frame = given if isinstance(given, pd.DataFrame) else None
    of = []
    for i, level in enumerate(model.schema.levels):
        if is_new[:, i].any():
            labels: list[str] = []
            if frame is not None:
                labels = [
                    repr(label) for label in frame[level.name][is_new[:, i]].unique().tolist()
                ]
            of.append(f"{level.name}{' ' + listed(labels, MANY) if labels else ''}")
    named = [str(row) for row in (rows if frame is None else frame.index[rows])]
    logger.warning(
        "%d of %d rows are of groups without training rows (%s) and are predicted from the prior: "
        "rows %s",
        *(len(rows), len(split), "; ".join(of), listed(named, MANY)),
    )


def _as_split(model: HierarchicalModel, frame: pd.DataFrame) -> Split:
    if model.schema.columns is None:
        raise DataError("this model reads arrays, not dataframes; pass a split of its data set")
    x = model.schema.features_of(frame)
    groups = model.schema.groups_of(frame)
    return Split(TensorRows(x), groups, torch.zeros(len(frame), dtype=torch.float64))
