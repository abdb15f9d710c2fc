"""The normal prior with a learned full covariance."""

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, MultivariateNormal

from hlvnn.latents.priors.base import Prior
from hlvnn.latents.triangular import below, num_lower, scale_tril


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

    def advanced(self) -> list[nn.Parameter]:
        own = [self.log_diagonal, self.lower]
        return own if all(parameter.requires_grad for parameter in own) else []

    @torch.no_grad()
    def advance(self, rate: float | Tensor, rows: float) -> None:
        """Move T towards E z zᵀ = L (I − M) Lᵀ, M = Lᵀ ∇_L a group, symmetric."""
        if self.log_diagonal.grad is None or self.lower.grad is None:
            return
        tril = scale_tril(self.log_diagonal, self.lower)
        zero = torch.zeros_like(self.log_diagonal)
        of_tril = scale_tril(zero, self.lower.grad) - torch.eye(self.width, device=tril.device)
        of_tril = of_tril + (self.log_diagonal.grad / tril.diagonal()).diag()
        half = rate * rows * (tril.mT @ of_tril).tril()
        eye = torch.eye(self.width, device=tril.device)
        new, info = torch.linalg.cholesky_ex(eye - half - half.tril(-1).mT)
        self.take(torch.where(info == 0, tril @ new, tril))

    @torch.no_grad()
    def resize(self, size: Tensor) -> None:
        self.take(size[:, None] * scale_tril(self.log_diagonal, self.lower))

    @torch.no_grad()
    def update(self, moment: Tensor) -> None:
        self.take(torch.linalg.cholesky(moment))

    @torch.no_grad()
    def take(self, factor: Tensor) -> None:
        self.log_diagonal.copy_(factor.diagonal().log())
        self.lower.copy_(below(factor))
