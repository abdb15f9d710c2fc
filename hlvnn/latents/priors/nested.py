"""The prior whose mean is the latent of the group above."""

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from hlvnn.latents.priors.base import Prior


class Nested(Prior):
    """p(z_c | z_p) = N(z_p, diag(τ²)): a character's z lies around its play's, τ learned.

    Called, it returns the law of the deviation z_c − z_p. The parent's z is a latent of its own,
    with its own prior; `LatentSet` puts the two together.
    """

    learned = True
    nested = True
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
