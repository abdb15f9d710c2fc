"""Draws of a set of latents that cover every component of the mixtures among them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hlvnn.errors import ConfigError
from hlvnn.latents.divergence import cholesky
from hlvnn.latents.draws import LatentRows
from hlvnn.latents.latent_set import LatentSet

LIMIT = 64
"""Combinations of components at most: each is a pass through the network."""


def combinations(latents: LatentSet) -> int:
    """Return the number of combinations of components; 1 without mixtures.

    Raises `ConfigError` above `LIMIT`.
    """
    mixed = [latent for latent in latents if latent.posterior.strata > 1]
    number = math.prod(latent.posterior.strata for latent in mixed)
    if number > LIMIT:
        names = ", ".join(f"{latent.name} ({latent.posterior.strata})" for latent in mixed)
        raise ConfigError(
            f"the components of the mixtures have {number} combinations, the limit is {LIMIT}, "
            f"because each is a pass through the network; give fewer components to: {names}"
        )
    return number


@torch.no_grad()
def is_kl_sampled(latents: LatentSet) -> bool:
    """Return whether the KL of a latent is an estimate by draws: two of one group differ."""
    first = torch.zeros(1, latents.num_levels, dtype=torch.int64, device=latents.counts(0).device)
    rows = latents.at(first, unseen=False)
    twice = zip(latents.kl_rows(rows), latents.kl_rows(rows), strict=True)
    return not all(torch.equal(one, other) for one, other in twice)


def stratified(
    latents: LatentSet, rows: LatentRows, num_samples: int
) -> tuple[list[Tensor], Tensor | None]:
    """Draw every latent `num_samples` times in every combination of the mixtures' components.

    Returns draws [S·M, B, Z] per latent, M the number of combinations, and their weights [S·M, B],
    which sum to 1; None stands for equal ones. Σ weight · f(draws) is an unbiased estimate of
    E_q f, and so is its gradient.
    """
    total = combinations(latents)
    draws = latents.sample(rows, num_samples * total)
    if total == 1:
        return draws, None
    sizes = [latent.posterior.strata for latent in latents]
    weight = torch.full((), 1 / num_samples, device=draws[0].device)
    for index, latent in enumerate(latents):
        size = sizes[index]
        if size == 1:
            continue
        # draws run over samples, then over the components of each mixture in turn
        before, after = math.prod(sizes[:index]), math.prod(sizes[index + 1 :])
        each = num_samples * before * after
        with latents.source.lending():
            z, shares = latent.posterior.stratified(rows.posteriors[index], each)
        assert shares is not None
        z, shares = (_in_turn(part, after, size) for part in (z, shares))
        if not latent.centred:
            z = z @ cholesky(rows.priors[index]).T
        if index in latents.held and latents.training:
            z = z - z.detach()
        seen = rows.seen[index]
        draws[index] = z if seen is None else torch.where(seen[:, None], z, draws[index])
        weight = weight * (shares * each)
    return draws, weight


def _in_turn(values: Tensor, after: int, size: int) -> Tensor:
    """Reorder draws from (…, after, component) to (…, component, after)."""
    return values.unflatten(0, (-1, after, size)).transpose(1, 2).flatten(0, 2)
