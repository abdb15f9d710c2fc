"""The normal prior with a learned variance per dimension."""

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from hlvnn.latents.priors.base import Prior


class Learned(Prior):
    """p(z) = N(0, diag(τ²)), τ learned by empirical Bayes (maximum of the ELBO).

    The mean stays 0: a mean would repeat the backbone's own bias.
    """

    learned = True
    mean: Tensor

    def __init__(self, width: int, scale: Tensor) -> None:
        super().__init__(width, scale)
        self.log_sd = nn.Parameter(scale.log())
        self.register_buffer("mean", torch.zeros(width), persistent=False)

    def forward(self) -> Distribution:
        sd = self.log_sd.exp()
        return Independent(Normal(self.mean, sd, validate_args=False), 1, validate_args=False)

    @torch.no_grad()
    def update(self, moment: Tensor) -> None:
        self.log_sd.copy_(0.5 * moment.diagonal().log())

    @torch.no_grad()
    def take(self, factor: Tensor) -> None:
        self.log_sd.copy_(factor.diagonal().log())
