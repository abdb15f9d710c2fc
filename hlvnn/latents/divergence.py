"""KL(q ‖ p) for every pair of posterior and prior that makes sense: exact but for mixtures."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    LowRankMultivariateNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    kl_divergence,
)

from hlvnn.latents.delta import Delta
from hlvnn.latents.normals import whiten
from hlvnn.latents.posteriors.base import Posterior
from hlvnn.latents.posteriors.joint import Joint
from hlvnn.latents.priors.base import Prior

DRAWS = 8
"""Draws from each component of a mixture for the part of its KL that has no closed form."""


def refusal(posterior: type[Posterior], prior: type[Prior]) -> str | None:
    """Return why a posterior makes no sense under a prior, or None where it does."""
    if posterior.random and not prior.proper:
        return "without a prior nothing bounds its variance; use posterior point, or a proper prior"
    if not posterior.random and prior.learned:
        return "the density at a point grows without bound as the learned prior shrinks to it"
    if prior.nested and posterior is Joint:
        return "its groups would have to follow their parents; use mean_field or full_rank"
    if prior.nested and not posterior.normal:
        return (
            "the KL of a latent that depends on another is known for normal ones; use mean_field, "
            "full_rank or low_rank"
        )
    return None


def kl(q: Distribution, p: Distribution) -> Tensor:
    """Return KL(q ‖ p), [B] for q with batch shape [B] and p with batch shape [] or [B].

    Normals are exact; a mixture's (p has batch shape []) is an unbiased estimate. For a point mass
    at v it is the penalty log p(mode) − log p(v) of maximum a posteriori, and 0 without a prior.
    """
    if isinstance(q, Delta):
        if isinstance(p, Delta):
            return torch.zeros_like(q.value[..., 0])
        return p.log_prob(p.mean) - p.log_prob(q.value)
    if isinstance(q, MixtureSameFamily):
        return _kl_of_mixture(q, p)
    if isinstance(q, LowRankMultivariateNormal):
        return _kl_of_low_rank(q, p)
    if isinstance(q, Independent):
        return kl_divergence(q, p) if isinstance(p, Independent) else _kl_of_diagonal(q, p)
    return kl_divergence(as_multivariate_normal(q), as_multivariate_normal(p))


def _kl_of_diagonal(q: Distribution, p: Distribution) -> Tensor:
    """Return KL(N(m, D) ‖ N(μ, T)), D diagonal and T full.

    It inverts the factor of T, once where p has batch shape [], and builds no matrix per row.
    """
    assert isinstance(p, MultivariateNormal)
    inverse = _inverse_factor(p)
    trace = (q.variance * inverse.square().sum(-2)).sum(-1)
    distance = (inverse @ (q.mean - p.mean).unsqueeze(-1)).square().sum((-1, -2))
    log_det = 2 * p.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return 0.5 * (trace + distance - q.mean.shape[-1] + log_det - q.variance.log().sum(-1))


def _inverse_factor(p: MultivariateNormal) -> Tensor:
    """Return L⁻¹ [*, Z, Z], L Lᵀ the covariance of p."""
    eye = torch.eye(p.event_shape[0], dtype=p.mean.dtype, device=p.mean.device)
    return torch.linalg.solve_triangular(p.scale_tril, eye, upper=False)


def _kl_of_low_rank(q: LowRankMultivariateNormal, p: Distribution) -> Tensor:
    """Return KL(N(m, D + U Uᵀ) ‖ p): what N(m, D) pays, and what U changes.

    With T the prior's covariance U adds ½ tr T⁻¹U Uᵀ and takes ½ ln|I + UᵀD⁻¹U|, the matrix
    determinant lemma; no row has a matrix of size Z × Z.
    """
    own = q.cov_diag.sqrt()
    diagonal = Independent(Normal(q.mean, own, validate_args=False), 1, validate_args=False)
    if isinstance(p, MultivariateNormal):  # to solve with its factor would copy that for each row
        whitened = _inverse_factor(p) @ q.cov_factor
    else:
        whitened = whiten(p, q.cov_factor)
    added = whitened.square().sum((-1, -2))
    scaled = q.cov_factor / own.unsqueeze(-1)
    eye = torch.eye(scaled.shape[-1], dtype=scaled.dtype, device=scaled.device)
    tril = torch.linalg.cholesky(eye + scaled.mT @ scaled)
    log_det = 2 * tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return kl(diagonal, p) + 0.5 * (added - log_det)


def _kl_of_mixture(q: MixtureSameFamily, p: Distribution) -> Tensor:
    """Return Σ_k w_k (KL(q_k ‖ p) + E_{q_k}[log q − log q_k]), the second part by draws.

    That part is minus the information between z and its component: from −log K, and then without
    noise, where the components lie apart, to 0 where they are the same. It takes DRAWS · K² · Z
    numbers per row.
    """
    parts = q.component_distribution
    weights = q.mixture_distribution.probs  # [B, K]
    z = parts.rsample(torch.Size([DRAWS]))  # [S, B, K, Z]
    log_q = q.log_prob(z.movedim(2, 1)).movedim(1, 2)  # [S, B, K]
    shared = (log_q - parts.log_prob(z)).mean(0)
    of_parts = kl(parts, p)
    return (weights * (of_parts + shared)).sum(-1)


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


def factor(law: Distribution) -> Tensor:
    """Return F [*, Z, K] with F Fᵀ the covariance of a normal distribution, or of a mixture.

    For a low-rank one it is [diag(d), U] (K = Z + r), without a Cholesky factorisation. F is as
    large as a full covariance matrix in every case, Z² numbers per row and more.
    """
    if isinstance(law, MixtureSameFamily):
        return _factor_of_mixture(law)
    if isinstance(law, LowRankMultivariateNormal):
        own = torch.diag_embed(law.cov_diag.sqrt())
        return torch.cat([own, law.cov_factor], dim=-1)
    return cholesky(law)


def _factor_of_mixture(law: MixtureSameFamily) -> Tensor:
    """Return [√w_k diag(s_k), √w_k (m_k − m)] for all k: within the components and between."""
    share = law.mixture_distribution.probs.sqrt()[..., None, None]  # [*, K, 1, 1]
    parts = law.component_distribution
    within = share * torch.diag_embed(parts.stddev)  # [*, K, Z, Z]
    between = share * (parts.mean - law.mean.unsqueeze(-2)).unsqueeze(-1)  # [*, K, Z, 1]
    return torch.cat([within, between], dim=-1).transpose(-3, -2).flatten(-2)
