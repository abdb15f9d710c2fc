"""KL between normal distributions, and their factors: what posteriors' own formulas are made of."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    kl_divergence,
)


def kl_of_normals(q: Distribution, p: Distribution) -> Tensor:
    """Return KL(q ‖ p) of normals, [B] for q with batch shape [B] and p with batch shape [] or [B].

    Raises `TypeError` for what is not normal.
    """
    return kl_divergence(as_multivariate_normal(q), as_multivariate_normal(p))


def kl_of_diagonal(q: Distribution, p: Distribution) -> Tensor:
    """Return KL(N(m, D) ‖ N(μ, T)), D diagonal, and T diagonal or full.

    With a full T it inverts T's factor, once where p has batch shape [], and builds no matrix per
    row.
    """
    if isinstance(p, Independent):
        return kl_divergence(q, p)
    assert isinstance(p, MultivariateNormal)
    inverse = inverse_factor(p)
    trace = (q.variance * inverse.square().sum(-2)).sum(-1)
    distance = (inverse @ (q.mean - p.mean).unsqueeze(-1)).square().sum((-1, -2))
    log_det = 2 * p.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return 0.5 * (trace + distance - q.mean.shape[-1] + log_det - q.variance.log().sum(-1))


def inverse_factor(p: MultivariateNormal) -> Tensor:
    """Return L⁻¹ [*, Z, Z], L Lᵀ the covariance of p."""
    eye = torch.eye(p.event_shape[0], dtype=p.mean.dtype, device=p.mean.device)
    return torch.linalg.solve_triangular(p.scale_tril, eye, upper=False)


def as_multivariate_normal(law: Distribution) -> MultivariateNormal:
    """Return a normal distribution in the form with a Cholesky factor."""
    if isinstance(law, MultivariateNormal):
        return law
    if isinstance(law, Independent) and isinstance(law.base_dist, Normal):
        return MultivariateNormal(
            law.mean, scale_tril=torch.diag_embed(law.base_dist.stddev), validate_args=False
        )
    if isinstance(law, LowRankMultivariateNormal):
        return MultivariateNormal(law.mean, scale_tril=law.scale_tril, validate_args=False)
    raise TypeError(f"not a normal distribution: {law}")


def cholesky(law: Distribution) -> Tensor:
    """Return the Cholesky factor [*, Z, Z] of a normal distribution's covariance."""
    return as_multivariate_normal(law).scale_tril
