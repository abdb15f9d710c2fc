"""Small algebra of normal distributions: shifting one, and dividing by its Cholesky factor."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from hlvnn.latents.divergence import as_multivariate_normal, check_normal


def shifted(law: Distribution, mean: Tensor) -> Distribution:
    """Return a normal law of mean 0 moved to the means [U, Z]."""
    if not isinstance(law, Independent):
        tril = as_multivariate_normal(law).scale_tril
        return MultivariateNormal(mean, scale_tril=tril, validate_args=False)
    check_normal(law)
    sd = law.stddev.expand_as(mean)
    return Independent(Normal(mean, sd, validate_args=False), 1, validate_args=False)


def whiten(law: Distribution, columns: Tensor) -> Tensor:
    """Return T^(-1/2) · columns [*, Z, K], T^(-1/2) the inverse of the law's Cholesky factor.

    The law is normal; `TypeError` for another.
    """
    if not isinstance(law, Independent):
        tril = as_multivariate_normal(law).scale_tril
        return torch.linalg.solve_triangular(tril, columns, upper=False)
    check_normal(law)
    return columns / law.stddev.unsqueeze(-1)


def standard(law: Distribution) -> Distribution:
    """Return N(0, I) of the same width as a law."""
    one = torch.ones_like(law.mean)
    normal = Normal(torch.zeros_like(one), one, validate_args=False)
    return Independent(normal, 1, validate_args=False)
