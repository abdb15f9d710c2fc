"""What one more Newton step in the learned SDs would gain: whether a fit is done.

The gradient is the ELBO's in the logs of priors' SDs and of the noise's. The curvature is the
marginal likelihood's, Fisher's: with ρ = s²/τ² of a group's coordinate a row of groups with one
intercept each has 2 (1 − ρ)² for log τ, 2 ρ (1 − ρ) between it and log σ, and 2 (n − 1 + ρ²) for
log σ (the expected information of a balanced one-way layout; Searle, Casella and McCulloch 1992).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.distributions import Distribution

from hlvnn.inference.objective import Elbo
from hlvnn.latents.divergence import precision_of
from hlvnn.latents.latent import Latent
from hlvnn.latents.latent_set import LatentSet
from hlvnn.models.model import HierarchicalModel

logger = logging.getLogger("hlvnn")
AT_ONCE = 2**22
"""Numbers of covariance factors that are in memory at a time."""
DONE = 0.01
"""Nats up to which a fit is done."""


@torch.no_grad()
def newton_gain(model: HierarchicalModel, elbo: Elbo, rows: int) -> float:
    """Return the nats that a Newton step in log SDs of priors and noise is expected to gain.

    elbo: of the model now, of so many training rows. NaN where no such SD is learned. A prior
    counts if it is learned and independent of other latents, and q describes z.
    """
    gradient: list[Tensor] = []
    own: list[Tensor] = []
    cross: list[Tensor] = []
    taken = torch.zeros((), dtype=torch.float64)  # what groups leave of the noise's information
    for index, latent in enumerate(model.latents):
        if not _is_counted(latent):
            continue
        excess, shares = _told(model.latents, index)
        gradient.append(excess)
        own.append(2 * (1 - shares).square().sum(0))
        cross.append(2 * (shares * (1 - shares)).sum(0))
        taken += (1 - shares.square()).sum()
    if not gradient and not model.likelihood.log_sds():
        return math.nan
    score, information = (
        torch.cat(part) if part else taken.new_zeros(0) for part in (gradient, own)
    )
    inverse = _inverse(information)
    gain = (score.square() * inverse).sum()
    if model.likelihood.log_sds():  # one more row and column, of the noise: by its Schur complement
        sd = next(iter(model.likelihood.terms().values()))
        squares = -2 * elbo.log_likelihood - rows * math.log(2 * math.pi * sd**2)
        between = torch.cat(cross) if cross else information
        left = 2 * (rows - taken) - (between.square() * inverse).sum()
        of_noise = squares - rows - (between * score * inverse).sum()
        gain = gain + of_noise.square() * _inverse(left[None], float(2 * rows))[0]
    return float(0.5 * gain)


def _inverse(information: Tensor, largest: float = 0.0) -> Tensor:
    """Return 1 over each, or 0 where it is nothing beside the largest."""
    least = 1e-9 * max(largest, float(information.max()) if len(information) else 0.0)
    return torch.where(information > least, 1 / information.clamp(min=least or 1.0), 0.0)


def told_gain(gain: float) -> float:
    """Return a gain, having said that a fit is not done, where that is so, and what to do."""
    if gain > DONE:
        logger.info(
            "a Newton step in the learned SDs (groups, noise) would gain %.2g nats more; where "
            "that matters train longer (--num-epochs)",
            gain,
        )
    return gain


def _is_counted(latent: Latent) -> bool:
    prior = latent.prior
    alone = latent.given_name is None and latent.parent_name is None
    learned = prior.learned and prior.normal and bool(prior.advanced())
    return learned and alone and latent.centred and latent.posterior.random


def _told(latents: LatentSet, index: int) -> tuple[Tensor, Tensor]:
    """Return Σ_g (E z²/τ² − 1), [Z], and each group's ρ, [G, Z], float64 on the CPU."""
    precision = precision_of(latents[index].prior()).double()
    excess, shares = [], []
    if precision.dim() == 1:
        for law in _laws(latents, index):
            mean, variance = law.mean.double(), law.variance.double()
            shares.append(variance * precision)
            excess.append((mean.square() * precision + shares[-1] - 1).sum(0))
    else:  # variances alone do not tell how far a group follows its prior
        for mean, factor in _moments(latents, index):
            shares.append(((precision @ factor) * factor).sum(-1))
            excess.append((mean * (mean @ precision) + shares[-1] - 1).sum(0))
    return torch.stack(excess).sum(0).cpu(), torch.cat(shares).clamp(0, 1).cpu()


def _laws(latents: LatentSet, index: int) -> Iterator[Distribution]:
    """Yield the laws of the groups that have rows, in chunks: without a covariance of all of z."""
    latent = latents[index]
    groups = latents.counts(latent.level).nonzero().squeeze(1)
    size = latent.width ** (2 if latent.posterior.full else 1)
    for chunk in groups.split(max(1, AT_ONCE // size)):
        yield latent.posterior(chunk)


def _moments(latents: LatentSet, index: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield means [U, Z] and factors [U, Z, K] of the groups that have rows, in chunks."""
    latent = latents[index]
    groups = latents.counts(latent.level).nonzero().squeeze(1)
    for chunk in groups.split(max(1, AT_ONCE // latent.width**2)):
        mean, columns = latents.moments_at(index, chunk)
        yield mean.double(), torch.cat(list(columns.values()), dim=-1).double()
