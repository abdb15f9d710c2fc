"""How far apart groups lie in a latent space, measured by the prior."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.distributions import Independent

from hlvnn.latents.divergence import root as root_of
from hlvnn.latents.latent_set import LatentSet
from hlvnn.latents.posteriors.base import LevelPosterior

NUMBERS_AT_ONCE = 2**24
"""Entries of the groups' covariance factors that are in memory at a time."""


def prior_root(latents: LatentSet, index: int) -> Tensor:
    """Return L with L Lᵀ the prior covariance of one group's z, the variance above it included.

    [Z] float64, the SDs, where the covariance is diagonal; else its Cholesky factor [Z, Z]. A
    latent with the nested prior N(z_p, T) has T plus the prior covariance of z_p.
    """
    laws = []
    at: int | None = index
    while at is not None:
        laws.append(latents[at].prior())
        at = latents.parent[at]
    if all(isinstance(law, Independent) for law in laws):
        return torch.stack([law.variance.double() for law in laws]).sum(0).sqrt()
    roots = [root_of(law).double() for law in laws]
    return torch.linalg.cholesky(torch.stack([root @ root.mT for root in roots]).sum(0))


def prior_sd(latents: LatentSet, index: int) -> Tensor:
    """Return the prior SD of each coordinate of one group's z, [Z] float64 (see `prior_root`)."""
    root = prior_root(latents, index)
    return root if root.dim() == 1 else root.square().sum(-1).sqrt()


def unit_root(latents: LatentSet, index: int) -> Tensor:
    """Return the L by which distances of a latent are measured: its prior's, [Z] or [Z, Z] float64.

    Without a prior the SD of z over the groups stands for it.
    """
    if latents[index].prior.proper:
        return prior_root(latents, index)
    between_groups = latents.marginal(index)[0].double().std(0, correction=0)
    return torch.where(between_groups > 0, between_groups, torch.ones_like(between_groups))


def squares_from(latents: LatentSet, index: int, group: int) -> tuple[Tensor, Tensor]:
    """Return squared distances of all groups from one, in units of the prior: [G] float64 each.

    With L Lᵀ the prior covariance of z: first |L⁻¹(E z_a − E z_b)|², the squared Mahalanobis
    distance of the posterior means, then E|L⁻¹(z_a − z_b)|² under q, which adds the trace of
    L⁻¹ Var(z_a − z_b) L⁻ᵀ. What two groups share (the draw of a group above them) cancels in that
    variance. Without a prior the SD of z over the groups stands for L.
    """
    latent = latents[index]
    by_group = not isinstance(latent.posterior, LevelPosterior)
    alone = latents.given[index] is None and latent.centred and by_group
    root = unit_root(latents, index)
    mean, sd = (part.double() for part in latents.marginal(index))
    if (law := latents.under_law) is not None:
        apart = divide(root, law.variances_from(index, group))
        variance = divide(root, apart.mT).diagonal(dim1=-2, dim2=-1).sum(-1).clamp(min=0)
    elif not latent.posterior.random or (alone and root.dim() == 1):
        own = divide(root, sd.unsqueeze(-1)).square().sum((-1, -2))
        variance = own + own[group]
    else:
        variance = _variances_from(latents, index, group, root)
    between = divide(root, (mean - mean[group]).unsqueeze(-1)).square().sum((-1, -2))
    return between, between + variance


def _variances_from(latents: LatentSet, index: int, group: int, root: Tensor) -> Tensor:
    """Return tr L⁻¹ Var(z_a − z_b) L⁻ᵀ of all groups and one, [G], from the factors of each z."""
    posterior = latents[index].posterior
    groups = torch.arange(posterior.num_groups, device=posterior.table.device)
    _, first = latents.moments_at(index, groups[group : group + 1])
    first = {source: divide(root, part.double()) for source, part in first.items()}
    shared = {source: _same_noise(latents, index, source[1], group) for source in first}
    variances = []
    for chunk in groups.split(max(1, NUMBERS_AT_ONCE // latents[index].width ** 2)):
        _, columns = latents.moments_at(index, chunk)
        variance = torch.zeros(len(chunk), dtype=torch.float64, device=chunk.device)
        for source, part in columns.items():
            scaled, other = divide(root, part.double()), first[source]
            apart = scaled.square().sum((-1, -2)) + other.square().sum()
            common = (scaled * other).sum((-1, -2))
            variance += apart - 2 * common * shared[source][chunk]
        variances.append(variance)
    return torch.cat(variances).clamp(min=0)  # rounding


def divide(root: Tensor, columns: Tensor) -> Tensor:
    """Return L⁻¹ · columns [*, Z, K]; L: [Z], a diagonal, or [Z, Z], lower triangular."""
    if root.dim() == 1:
        return columns / root[:, None]
    return torch.linalg.solve_triangular(root, columns, upper=False)


def _same_noise(latents: LatentSet, index: int, source: int, group: int) -> Tensor:
    """Return for each group whether it has the noise of latent `source` in common with one, [G].

    Of a posterior over a whole level the noise is everybody's; of any other each group has its own,
    so that those which lie in the same group share it.
    """
    device = latents[index].posterior.table.device
    place = torch.arange(latents[index].posterior.num_groups, device=device)
    if isinstance(latents[source].posterior, LevelPosterior):
        return torch.ones_like(place, dtype=torch.bool)
    for at in _upwards(latents, index):
        if at == source:
            break
        place = latents[at].within[place]
    return place == place[group]


def _upwards(latents: LatentSet, index: int) -> Iterator[int]:
    """Yield a latent and those it depends on, the nearest first."""
    at: int | None = index
    while at is not None:
        yield at
        parent, given = latents.parent[at], latents.given[at]
        at = parent if parent is not None else given
