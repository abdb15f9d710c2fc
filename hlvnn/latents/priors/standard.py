"""The standard normal prior."""

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from hlvnn.latents.priors.base import Prior


class Standard(Prior):
    """p(z) = N(0, I)."""

    learned = False
    mean: Tensor
    sd: Tensor

    def __init__(self, width: int, scale: Tensor) -> None:
        super().__init__(width, scale)
        self.register_buffer("mean", torch.zeros(width), persistent=False)
        self.register_buffer("sd", torch.ones(width), persistent=False)

    def forward(self) -> Distribution:
        return Independent(Normal(self.mean, self.sd, validate_args=False), 1, validate_args=False)
