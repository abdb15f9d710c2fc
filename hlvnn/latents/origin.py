"""Posteriors and priors as the user's columns have them, where a latent was centred inside.

Slopes on a column far from 0 make an intercept that is a group's value far outside its rows, all
but determined by its slope. Where that changes nothing (see `may_centre`) a latent therefore works
on centred columns, and here that is undone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hlvnn.latents.distance import prior_root, prior_sd
from hlvnn.latents.divergence import root
from hlvnn.latents.latent import Latent
from hlvnn.latents.latent_set import LatentSet
from hlvnn.latents.posteriors.base import Posterior
from hlvnn.latents.priors.base import Prior

AT_ONCE = 2**24
"""Numbers of the groups' covariance factors that are in memory at a time."""


def may_centre(posterior: type[Posterior], prior: type[Prior], placements: int) -> bool:
    """Return whether intercepts and slopes may be moved to the columns' means, and back, exactly.

    It takes a posterior and a prior that hold every covariance, and an only placement: other laws
    would be others in the other coordinates.
    """
    return posterior.full and prior.full and placements == 1


def to_origin(latent: Latent) -> Tensor | None:
    """Return R [Z, Z] float64: R z are the coordinates at the columns' own 0. None: z is there."""
    found = [placement.to_origin() for placement in latent.entries()]
    return found[0] if len(found) == 1 else None


@torch.no_grad()
def marginal_at_origin(latents: LatentSet, index: int) -> tuple[Tensor, Tensor]:
    """Return as `LatentSet.marginal` does, at the columns' own 0: [G, Z] float64 on the CPU."""
    turn = to_origin(latents[index])
    if turn is None:
        mean, sd = latents.marginal(index)
        return mean.double().cpu(), sd.double().cpu()
    posterior = latents[index].posterior
    groups = torch.arange(posterior.num_groups, device=posterior.table.device)
    means, sds = [], []
    for chunk in groups.split(max(1, AT_ONCE // len(turn) ** 2)):
        mean, columns = latents.moments_at(index, chunk)
        turned = torch.stack(
            [(turn @ part.double().cpu()).square().sum(-1) for part in columns.values()]
        )
        means.append(mean.double().cpu() @ turn.T)
        sds.append(turned.sum(0).sqrt())
    return torch.cat(means), torch.cat(sds)


@torch.no_grad()
def prior_sd_at_origin(latents: LatentSet, index: int) -> Tensor:
    """Return the prior SD of each coordinate at the columns' own 0, [Z] float64 on the CPU."""
    turn = to_origin(latents[index])
    if turn is None:
        return prior_sd(latents, index).cpu()
    factor = prior_root(latents, index).cpu()
    return (turn @ (factor.diag() if factor.dim() == 1 else factor)).square().sum(-1).sqrt()


@torch.no_grad()
def prior_factor_at_origin(latent: Latent) -> Tensor:
    """Return F [Z, Z] float64 on the CPU, F Fᵀ the prior's covariance at the columns' own 0."""
    factor, turn = root(latent.prior()).double().cpu(), to_origin(latent)
    return factor if turn is None else turn @ factor
