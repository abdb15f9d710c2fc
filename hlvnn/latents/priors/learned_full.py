"""The normal prior with a learned full covariance."""

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, MultivariateNormal

from hlvnn.latents.priors.base import Prior
from hlvnn.latents.triangular import num_lower, scale_tril


class LearnedFull(Prior):
    """p(z) = N(0, T), T = L Lᵀ learned by empirical Bayes (maximum of the ELBO).

    With a linear backbone and a Gaussian likelihood, T is the covariance of the random effects of a
    linear mixed model.
    """

    learned = True
    full = True
    mean: Tensor

    def __init__(self, width: int, scale: Tensor) -> None:
        super().__init__(width, scale)
        self.log_diagonal = nn.Parameter(scale.log())
        self.lower = nn.Parameter(torch.zeros(num_lower(width)))
        self.register_buffer("mean", torch.zeros(width), persistent=False)

    def forward(self) -> Distribution:
        factor = scale_tril(self.log_diagonal, self.lower)
        return MultivariateNormal(self.mean, scale_tril=factor, validate_args=False)

    @torch.no_grad()
    def update(self, moment: Tensor) -> None:
        self.take(torch.linalg.cholesky(moment))

    @torch.no_grad()
    def take(self, factor: Tensor) -> None:
        row, column = torch.tril_indices(self.width, self.width, offset=-1)
        self.log_diagonal.copy_(factor.diagonal().log())
        self.lower.copy_(factor[row, column])
