"""Importance weights of posterior draws: bounds on the evidence, and how far q is off.

Per independent block of groups, with z drawn from q and one draw for each group,

    log w = Σ_rows log p(y | x, z) + log p(z) − log q(z),   E[w] = p(y),

so that log of the mean of S weights is below log p(y) in expectation, is the ELBO at S = 1, and
rises to log p(y) with S (Burda, Grosse and Salakhutdinov 2016).
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from hlvnn.data.grouped import Split
from hlvnn.errors import ConfigError
from hlvnn.models.model import HierarchicalModel
from hlvnn.random import seeding

logger = logging.getLogger("hlvnn")

ROWS_AT_ONCE = 65536
"""Rows × draws of one pass through the network."""
GOOD_K = 0.7
"""Pareto k above which importance weights are not to be relied on (Vehtari et al. 2024) …"""
GOOD_SHARE = 0.9
"""… unless this share of the draws is effective: then they are nearly equal, whatever the tail."""
FEW_DRAWS = 25
"""Draws below which no tail can be fitted."""


@dataclass(frozen=True)
class Evidence:
    """An importance-weighted lower bound on log p(y), the training rows' log marginal likelihood.

    value: in y's units, summed over blocks; standard_error: of the draws, by the delta method;
    blocks: columns block (the label of a top-level group, or "all"), rows, bound, ess (effective
    draws), pareto_k (NaN below 25 draws).
    """

    value: float
    standard_error: float
    num_samples: int
    blocks: pd.DataFrame


def evidence(
    model: HierarchicalModel, train: Split, num_samples: int = 1000, seed: int = 0
) -> Evidence:
    """Return the importance-weighted bound on log p(y) of the rows that the model was fitted to.

    With one sample it is an estimate of the ELBO; more samples never lower it in expectation. A
    block is a top-level group with all within it; where levels are crossed, all rows are one block,
    and its weights are only good for few groups. Warns where the weights are poor: q is then too
    far off for the bound to be near log p(y).

    Raises `ConfigError` for a latent without a density (`point`), or fewer than one sample.
    """
    if num_samples < 1:
        raise ConfigError(f"num_samples ({num_samples}): at least one draw of z is needed")
    for latent in model.latents:
        if not latent.posterior.random:
            raise ConfigError(
                f"latent {latent.name}: a point has no density, and so no importance weights; use "
                "a posterior with a variance (mean_field)"
            )
    blocks = blocks_of(model, train)
    weights = log_weights(model, train, blocks.of_row, num_samples, seed)
    bounds = weights.logsumexp(0) - math.log(num_samples)
    effective = effective_sample_size(weights)
    k = pareto_k(weights.numpy())
    table = pd.DataFrame(
        {
            "block": blocks.labels,
            "rows": np.bincount(blocks.of_row.numpy(), minlength=len(blocks.labels)),
            "bound": bounds.numpy(),
            "ess": effective.numpy(),
            "pareto_k": k,
        }
    )
    warn_of_poor(effective.numpy() / num_samples, k, "blocks")
    variance = (1 / effective - 1 / num_samples).clamp(min=0).sum()
    return Evidence(float(bounds.sum()), float(variance.sqrt()), num_samples, table)


@dataclass(frozen=True)
class Blocks:
    """Sets of rows that share no group of any level with a latent.

    of_row: [N] int64, each row's block; labels: one per block, the top-level group's, or "all".
    """

    of_row: Tensor
    labels: list[str | int]


def blocks_of(model: HierarchicalModel, rows: Split) -> Blocks:
    """Return the blocks of rows whose groups are all known.

    They are the groups of the level above all others, where every level is nested in the next; else
    everything is one block.
    """
    levels = sorted({latent.level for latent in model.latents})
    groups = rows.groups.long()
    for lower, upper in itertools.pairwise(levels):
        size = model.schema.levels[upper].size
        pairs = (groups[:, lower] * size + groups[:, upper]).unique()
        if len(pairs) > len(groups[:, lower].unique()):
            levels = []
            break
    if not levels:
        return Blocks(torch.zeros(len(groups), dtype=torch.int64), ["all"])
    found, of_row = groups[:, levels[-1]].unique(return_inverse=True)
    top = model.schema.levels[levels[-1]]
    return Blocks(of_row, [top.label(int(group)) for group in found])


@torch.no_grad()
def log_weights(
    model: HierarchicalModel, rows: Split, block: Tensor, num_samples: int, seed: int = 0
) -> Tensor:
    """Return log w of every block's draws, [S, blocks] float64, in y's units.

    block: [N] int64, the block of each row, 0, 1, …
    """
    was_training = model.training
    model.eval()
    number = int(block.max()) + 1
    total = torch.zeros(num_samples, number, dtype=torch.float64)
    with seeding(seed, model.device):
        for index in packs(block):
            part = rows.subset(index).to(model.device)
            distinct, own = block[index].to(model.device).unique(return_inverse=True)
            size = max(1, ROWS_AT_ONCE // len(index))
            found = [
                _log_weights(model, part, own, len(distinct), len(draws)).cpu()
                for draws in torch.arange(num_samples).split(size)
            ]
            total[:, distinct.cpu()] = torch.cat(found)
    model.train(was_training)
    return total


def packs(block: Tensor, limit: int = ROWS_AT_ONCE) -> Iterator[Tensor]:
    """Yield the rows of whole blocks, at most `limit` at a time or one block: [M] int64 each."""
    order = block.argsort(stable=True)
    sizes = torch.bincount(block).tolist()
    pack: list[Tensor] = []
    waiting = 0
    for rows in order.split(sizes):
        if waiting and waiting + len(rows) > limit:
            yield torch.cat(pack)
            pack, waiting = [], 0
        pack.append(rows)
        waiting += len(rows)
    if pack:
        yield torch.cat(pack)


def _log_weights(
    model: HierarchicalModel, rows: Split, block: Tensor, number: int, num_samples: int
) -> Tensor:
    """Return log w, [S, blocks] float64, for rows of whole blocks on the model's device."""
    at = model.latents.at(rows.groups, unseen=False)
    draws, ratios = model.latents.sample_groups(at, num_samples)
    log_prob = model.likelihood.log_prob(model(rows.x.all(), draws), rows.y)
    log_prob = log_prob.expand(num_samples, -1)
    return block_weights(model, log_prob, ratios, rows.groups, block, number)


def block_weights(
    model: HierarchicalModel,
    log_prob: Tensor,
    ratios: list[Tensor],
    groups: Tensor,
    block: Tensor,
    number: int,
) -> Tensor:
    """Return log w, [S, blocks] float64, of rows of whole blocks with one draw for each group.

    log_prob: [S, B], log p(y | x, z); ratios: per latent [S, B], log p(z) − log q(z) of each row's
    group; groups: [B, L]; block: [B] int64, 0..number-1.
    """
    total = torch.zeros(len(log_prob), number, dtype=torch.float64, device=block.device)
    total = total.index_add(1, block, log_prob.double())
    for latent, ratio in zip(model.latents, ratios, strict=True):
        # a group's ratio counts once, at the first of its rows
        first = first_of(groups[:, latent.level])
        total = total.index_add(1, block[first], ratio[:, first].double())
    return total


@dataclass(frozen=True)
class Drawn:
    """Some rows of a split with their draws.

    index: [B] int64; y: [B]; eta: [S, B, out], the network's output; weight: [S, B], sums to 1 over
    draws, or None for equal ones. ess, pareto_k: [B] float64, of the row's group of the lowest
    level, NaN without weights (ess of S draws; k is the largest over the draws of the levels above,
    NaN where there are too few within each).
    """

    index: Tensor
    y: Tensor
    eta: Tensor
    weight: Tensor | None
    ess: Tensor
    pareto_k: Tensor

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over draws of values [S, B, …]: [B, …]."""
        if self.weight is None:
            return values.mean(0)
        weight = self.weight.to(values.dtype)
        return (values * weight.view(*weight.shape, *[1] * (values.dim() - 2))).sum(0)

    def sd(self, values: Tensor) -> Tensor:
        """Return the SD over draws of values [S, B, …]: [B, …]."""
        return self.mean((values - self.mean(values)).square()).sqrt()

    def log_mean(self, values: Tensor) -> Tensor:
        """Return the log of the mean over draws of what `values` [S, B] are the logs of."""
        if self.weight is None:
            return values.logsumexp(0) - math.log(len(values))
        return (values + self.weight.log()).logsumexp(0)


def can_reweight(model: HierarchicalModel, rows: Split) -> Tensor:
    """Return which rows [N] bool have only known groups, at the levels with latents."""
    levels = sorted({latent.level for latent in model.latents if latent.posterior.random})
    if not levels:
        return torch.zeros(len(rows), dtype=torch.bool)
    return (rows.groups[:, levels] >= 0).all(1)


@torch.no_grad()
def reweighted(
    model: HierarchicalModel, rows: Split, train: Split, num_samples: int
) -> Iterator[Drawn]:
    """Yield rows (all with known groups) with weighted draws: self-normalised importance sampling.

    Weights come from the training rows of the row's group of the lowest level: p(those rows | z)
    p(z) / q(z). Where there are more levels, those above are drawn from q, about √S times, and the
    lowest level's draws are weighted within each of these. Draws from torch's own stream.
    """
    levels = sorted({latent.level for latent in model.latents if latent.posterior.random})
    low = levels[0]
    inner = num_samples if len(levels) == 1 else math.ceil(math.sqrt(num_samples))
    num_samples = math.ceil(num_samples / inner) * inner
    background = torch.isin(train.groups[:, low], rows.groups[:, low].unique()).nonzero()[:, 0]
    number = len(background)
    group = torch.cat([train.groups[background, low], rows.groups[:, low]]).long()
    for index in packs(group.unique(return_inverse=True)[1], max(1, ROWS_AT_ONCE // num_samples)):
        trained, asked = background[index[index < number]], index[index >= number] - number
        known, new = train.subset(trained).to(model.device), rows.subset(asked).to(model.device)
        groups = torch.cat([known.groups, new.groups])
        at = model.latents.at(groups, unseen=False)
        repeats = None if len(levels) == 1 else (low, inner)
        draws, ratios = model.latents.sample_groups(at, num_samples, repeats)
        eta = model(torch.cat([known.x.all(), new.x.all()]), draws).expand(num_samples, -1, -1)
        size = len(known)
        each = model.likelihood.log_prob(eta[:, :size], known.y).double()
        found, own = groups[:, low].unique(return_inverse=True)
        log_w = each.new_zeros(num_samples, len(found)).index_add_(1, own[:size], each)
        first = first_of(groups[:, low])
        for latent, ratio in zip(model.latents, ratios, strict=True):
            if latent.level == low and latent.posterior.random:
                log_w += ratio[:, first].double()
        within = log_w.unflatten(0, (-1, inner))  # [draws of upper levels, inner, groups]
        share = (within.softmax(1) / len(within)).flatten(0, 1)
        ess = torch.stack([effective_sample_size(part) for part in within]).sum(0)
        k = np.max([pareto_k(part) for part in within.cpu().numpy()], axis=0)
        of_row = own[size:]
        yield Drawn(
            asked,
            new.y,
            eta[:, size:],
            share[:, of_row],
            ess[of_row].cpu(),
            torch.from_numpy(k)[of_row.cpu()],
        )


def first_of(group: Tensor) -> Tensor:
    """Return the place of the first row of each group that occurs: [U] int64."""
    found, inverse = group.unique(return_inverse=True)
    first = torch.full((len(found),), len(group), dtype=torch.int64, device=group.device)
    place = torch.arange(len(group), device=group.device)
    return first.scatter_reduce(0, inverse, place, "amin")


def warn_of_poor(share: NDArray[np.float64], k: NDArray[np.float64], what: str) -> None:
    """Warn where k is large and the effective share of the draws is not."""
    poor = (k > GOOD_K) & (share < GOOD_SHARE)
    if poor.any():
        logger.warning(
            "%d of %d %s have poor importance weights (Pareto k up to %.2f, down to %.0f %% of the "
            "draws effective): q is too far off there; a richer posterior helps",
            *(int(poor.sum()), len(k), what, float(k[poor].max()), 100 * float(share[poor].min())),
        )


def effective_sample_size(log_weight: Tensor) -> Tensor:
    """Return (Σ w)² / Σ w² of each column of log weights [S, K]: [K], from 1 to S."""
    return (2 * log_weight.logsumexp(0) - (2 * log_weight).logsumexp(0)).exp()


def pareto_k(log_weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the shape k of each column's upper tail, [K], for log weights [S, K].

    A generalised Pareto law is fitted to the largest 3√S weights (a fifth of them up to 225). Below
    0.5 the weights have a variance; above 0.7 their means converge too slowly to be trusted, unless
    all weights are nearly the same. NaN below 25 draws; −inf for a column whose tail is constant.
    Vehtari, Simpson, Gelman, Yao and Gabry (2024); fit: Zhang and Stephens (2009).
    """
    number, columns = log_weight.shape
    if number < FEW_DRAWS:
        return np.full(columns, np.nan)
    tail = int(3 * math.sqrt(number)) if number > 225 else number // 5
    k = np.empty(columns)
    for column in range(columns):
        ordered = np.sort(log_weight[:, column])
        ordered = ordered - ordered[-1]
        cutoff = max(ordered[-tail - 1], np.log(np.finfo(np.float64).tiny))
        excess = np.exp(ordered[ordered > cutoff]) - np.exp(cutoff)
        k[column] = _generalised_pareto_shape(excess) if len(excess) > 4 else -np.inf
    return k


def _generalised_pareto_shape(excess: NDArray[np.float64]) -> float:
    """Return the shape of a generalised Pareto law from sorted excesses over a threshold.

    It is the mean under Zhang and Stephens' posterior over a grid, drawn a little to 0.5 by a prior
    worth ten observations.
    """
    size = len(excess)
    number = 30 + int(math.sqrt(size))
    quartile = excess[int(size / 4 + 0.5) - 1]
    grid = 1 - np.sqrt(number / (np.arange(1, number + 1) - 0.5))
    theta = grid / (3 * quartile) + 1 / excess[-1]
    shape = np.log1p(-theta[:, None] * excess).mean(axis=1)
    profile = size * (np.log(-theta / shape) - shape - 1)
    weight = 1 / np.exp(profile - profile[:, None]).sum(axis=1)
    best = float((theta * weight).sum() / weight.sum())
    k = float(np.log1p(-best * excess).mean())
    prior_rows = 10
    return (size * k + prior_rows * 0.5) / (size + prior_rows)
