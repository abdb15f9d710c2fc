"""KL between distributions, and their factors: what posteriors' own formulas are made of."""

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

from hlvnn.errors import ConfigError

DRAWS = 16
"""Draws of q by which a KL without a closed form is estimated."""


def is_normal(law: Distribution) -> bool:
    """Return whether a law over [Z] is one of torch's normal distributions."""
    if isinstance(law, Independent):
        return law.reinterpreted_batch_ndims == 1 and type(law.base_dist) is Normal
    return type(law) in (MultivariateNormal, LowRankMultivariateNormal)


def check_normal(law: Distribution) -> None:
    """Raise `TypeError` for what is not normal."""
    if not is_normal(law):
        raise TypeError(f"not a normal distribution: {law}")


def divergence(q: Distribution, p: Distribution) -> Tensor:
    """Return KL(q ‖ p), [B] for q with batch shape [B] and p with batch shape [] or [B].

    The closed form where both are normal or torch knows one, else an unbiased estimate of `DRAWS`
    draws, gradients included. Raises `ConfigError` where the draws of q carry no gradient.
    """
    if is_normal(q) and is_normal(p):
        return kl_of_normals(q, p)
    if isinstance(q, Independent) and isinstance(p, Independent):  # torch knows what to add up
        try:
            return kl_divergence(q, p)
        except NotImplementedError:
            pass
    if not q.has_rsample:
        raise ConfigError(
            f"no closed form is known of the KL of {described(q)} and {described(p)}, and draws of "
            f"{described(q)} carry no gradient by which it could be estimated; give the posterior "
            "a method kl of its own, or use another"
        )
    z = q.rsample(torch.Size([DRAWS]))
    return (q.log_prob(z) - p.log_prob(z)).mean(0)


def described(law: Distribution) -> str:
    """Return a law's name, that of its parts where these are independent."""
    return type(law.base_dist if isinstance(law, Independent) else law).__name__


def kl_of_normals(q: Distribution, p: Distribution) -> Tensor:
    """Return KL(q ‖ p) of normals, [B] for q with batch shape [B] and p with batch shape [] or [B].

    Raises `TypeError` for what is not normal.
    """
    return kl_divergence(as_multivariate_normal(q), as_multivariate_normal(p))


def kl_of_diagonal(q: Distribution, p: Distribution) -> Tensor:
    """Return KL(N(m, D) ‖ N(μ, T)), D diagonal, and T diagonal or full.

    With a full T it inverts T's factor, once where p has batch shape [], and builds no matrix per
    row. What is not of this form is left to `divergence`.
    """
    if not (isinstance(q, Independent) and is_normal(q) and is_normal(p)):
        return divergence(q, p)
    if isinstance(p, Independent):
        return kl_divergence(q, p)
    p = as_multivariate_normal(p)
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
    """Return a normal distribution in the form with a Cholesky factor.

    Raises `TypeError` for what is not normal.
    """
    check_normal(law)
    if isinstance(law, MultivariateNormal):
        return law
    if isinstance(law, Independent):
        return MultivariateNormal(
            law.mean, scale_tril=torch.diag_embed(law.base_dist.stddev), validate_args=False
        )
    assert isinstance(law, LowRankMultivariateNormal)
    return MultivariateNormal(law.mean, scale_tril=law.scale_tril, validate_args=False)


def cholesky(law: Distribution) -> Tensor:
    """Return the Cholesky factor [*, Z, Z] of a normal distribution's covariance."""
    return as_multivariate_normal(law).scale_tril


def root(law: Distribution) -> Tensor:
    """Return F [*, Z, Z], F Fᵀ the covariance of any law over [Z].

    Raises `ConfigError` for a law of which only the variances are known.
    """
    if is_normal(law):
        return cholesky(law)
    if isinstance(law, Independent) and law.reinterpreted_batch_ndims == 1:
        return torch.diag_embed(law.base_dist.stddev)
    covariance = getattr(law, "covariance_matrix", None)
    if covariance is None:
        raise ConfigError(
            f"the covariance of {described(law)} is not known; give the posterior a method factor "
            "of its own"
        )
    return torch.linalg.cholesky(covariance)


def precision_of(prior: Distribution) -> Tensor:
    """Return a normal prior's precision, [Z] where it is diagonal, else [Z, Z]."""
    if isinstance(prior, MultivariateNormal):
        inverse = inverse_factor(prior)
        return inverse.mT @ inverse
    return 1 / prior.variance
