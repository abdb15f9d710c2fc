"""What the priors with a learned variance per dimension share."""

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from hlvnn.latents.priors.base import Prior

LARGEST = 1.0
"""Largest EM step of a log SD."""


class LearnedVariances(Prior):
    """A normal law with mean 0 and SDs τ, learned by empirical Bayes (maximum of the ELBO)."""

    learned = True
    mean: Tensor

    def __init__(self, width: int, scale: Tensor) -> None:
        super().__init__(width, scale)
        self.log_sd = nn.Parameter(scale.log())
        self.register_buffer("mean", torch.zeros(width), persistent=False)

    def forward(self) -> Distribution:
        sd = self.log_sd.exp()
        return Independent(Normal(self.mean, sd, validate_args=False), 1, validate_args=False)

    def advanced(self) -> list[nn.Parameter]:
        return [self.log_sd] if self.log_sd.requires_grad else []

    @torch.no_grad()
    def advance(self, rate: float | Tensor, rows: float) -> None:
        """Move log τ by ½ (E z²/τ² − 1), which is half the gradient a group."""
        if self.log_sd.grad is not None:
            step = 0.5 * rate * rows * self.log_sd.grad
            self.log_sd.sub_(step.clamp(-LARGEST, LARGEST))

    @torch.no_grad()
    def resize(self, size: Tensor) -> None:
        self.log_sd.add_(size.log())

    @torch.no_grad()
    def update(self, moment: Tensor) -> None:
        self.log_sd.copy_(0.5 * moment.diagonal().log())

    @torch.no_grad()
    def set_sd(self, sd: Tensor) -> None:  # without the moment, Z numbers squared
        self.log_sd.copy_(0.5 * sd.square().log())

    @torch.no_grad()
    def take(self, factor: Tensor) -> None:
        self.log_sd.copy_(factor.diagonal().log())
