"""KL(q ‖ p) in closed form for every pair of posterior and prior that makes sense."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal, kl_divergence

from hlvnn.latents.delta import Delta
from hlvnn.latents.posteriors.base import Posterior
from hlvnn.latents.posteriors.joint import Joint
from hlvnn.latents.priors.base import Prior


def refusal(posterior: type[Posterior], prior: type[Prior]) -> str | None:
    """Return why a posterior makes no sense under a prior, or None where it does."""
    if posterior.normal and not prior.proper:
        return "without a prior nothing bounds its variance; use posterior point, or a proper prior"
    if not posterior.normal and prior.learned:
        return "the density at a point grows without bound as the learned prior shrinks to it"
    if prior.nested and posterior is Joint:
        return "its groups would have to follow their parents; use mean_field or full_rank"
    return None


def kl(q: Distribution, p: Distribution) -> Tensor:
    """Return KL(q ‖ p), [B] for q with batch shape [B] and p with batch shape [] or [B].

    Normals are exact, by `torch.distributions.kl`. For a point mass at v it is the penalty
    log p(mode) − log p(v) of maximum a posteriori, and 0 without a prior.
    """
    if isinstance(q, Delta):
        if isinstance(p, Delta):
            return torch.zeros_like(q.value[..., 0])
        return p.log_prob(p.mean) - p.log_prob(q.value)
    if isinstance(q, Independent) and isinstance(p, Independent):
        return kl_divergence(q, p)
    return kl_divergence(as_multivariate_normal(q), as_multivariate_normal(p))


def as_multivariate_normal(law: Distribution) -> MultivariateNormal:
    """Return a normal distribution in the form with a Cholesky factor."""
    if isinstance(law, MultivariateNormal):
        return law
    if isinstance(law, Independent) and isinstance(law.base_dist, Normal):
        return MultivariateNormal(
            law.mean, scale_tril=torch.diag_embed(law.base_dist.stddev), validate_args=False
        )
    raise TypeError(f"not a normal distribution: {law}")


def cholesky(law: Distribution) -> Tensor:
    """Return the Cholesky factor [*, Z, Z] of a normal distribution's covariance."""
    return as_multivariate_normal(law).scale_tril


def factor(law: Distribution) -> Tensor:
    """Return F [*, Z, K] with F Fᵀ the covariance of a normal distribution."""
    return cholesky(law)
