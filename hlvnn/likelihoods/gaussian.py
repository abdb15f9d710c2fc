"""A real number with normal noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from hlvnn.likelihoods.base import Likelihood

NOISE_START = 0.7
"""First noise SD, in units of the target's SD."""


class Gaussian(Likelihood):
    """y ~ N(c + s η, (s σ)²), σ learned; c and s are the training targets' mean and SD.

    So the network and its latents work on a target of mean 0 and SD 1, while densities, the ELBO
    and predictions are in y's own units. y: [B] float64.
    """

    target = "real"
    closed_form = True
    integrates = True
    noisy = True
    is_normal = True
    center: Tensor
    scale: Tensor

    def __init__(self, num_classes: int | None = None) -> None:
        super().__init__(num_classes)
        self.num_outputs = 1
        self.log_noise = nn.Parameter(torch.tensor(math.log(NOISE_START)))
        self.register_buffer("center", torch.zeros((), dtype=torch.float64))
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))

    def observe(self, y: Tensor) -> None:
        self.center.copy_(y.double().mean())
        sd = y.double().std(correction=0)
        self.scale.copy_(sd if sd > 0 else torch.ones_like(sd))

    def units(self) -> tuple[float, float]:
        return float(self.center), float(self.scale)

    def noise_sd(self) -> float:
        """Return the noise SD in y's units."""
        return float(self.log_noise.detach().double().exp() * self.scale)

    def log_sds(self) -> list[nn.Parameter]:
        return [self.log_noise] if self.log_noise.requires_grad else []

    def terms(self) -> dict[str, float]:
        return {"noise sd": self.noise_sd()}

    def forward(self, eta: Tensor) -> Normal:
        mean = self.center + self.scale * eta.squeeze(-1).double()
        sd = (self.scale * self.log_noise.double().exp()).expand_as(mean)
        return Normal(mean, sd, validate_args=False)

    def marginal(self, mean: Tensor, variance: Tensor) -> Normal:
        law = self(mean)
        spread = self.scale * variance.squeeze(-1).double().sqrt()
        return Normal(law.mean, torch.hypot(law.stddev, spread), validate_args=False)

    def log_prob(self, eta: Tensor, y: Tensor) -> Tensor:
        z = ((y - self.center) / self.scale).to(eta.dtype) - eta.squeeze(-1)
        log_scale = self.log_noise + self.scale.log().to(eta.dtype)
        return (
            -0.5 * (z * (-self.log_noise).exp()).square() - log_scale - 0.5 * math.log(2 * math.pi)
        )

    def cumulative(self, eta: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        below: Tensor = self(eta).cdf(y.double())
        return below, below

    def expected_log_prob(self, mean: Tensor, variance: Tensor, y: Tensor) -> Tensor:
        spread = 0.5 * variance.squeeze(-1) * (-2 * self.log_noise).exp()
        return self.log_prob(mean, y) - spread
