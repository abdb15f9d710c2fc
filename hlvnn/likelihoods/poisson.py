"""A count without an upper limit."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Poisson as TorchPoisson

from hlvnn.errors import DataError
from hlvnn.likelihoods.base import Likelihood


class Poisson(Likelihood):
    """y ~ Poisson(exp(c + η)), one output; c is the log of the training targets' mean.

    So η = 0 is the mean rate, however large the counts. y: [B] float64, whole numbers from 0.
    """

    target = "real"
    closed_form = True
    center: Tensor

    def __init__(self, num_classes: int | None = None) -> None:
        super().__init__(num_classes)
        self.num_outputs = 1
        self.register_buffer("center", torch.zeros((), dtype=torch.float64))

    def observe(self, y: Tensor) -> None:
        self.check(y, "training row")
        least = 0.5 / len(y)  # half an event in all, where there was none
        self.center.copy_(y.double().mean().clamp(min=least).log())

    def check(self, y: Tensor, rows: str) -> None:
        bad = (y < 0) | (y != y.floor())
        if bad.any():
            row = int(bad.long().argmax())
            raise DataError(
                f"target {self.target_name!r}: {rows} {row} (rows count from 0) is "
                f"{float(y[row])}, likelihood poisson expects whole numbers from 0; "
                "mend the value or use --likelihood gaussian"
            )

    def units(self) -> tuple[float, float]:
        return float(self.center), 1.0

    def forward(self, eta: Tensor) -> TorchPoisson:
        return TorchPoisson((self.center + eta.squeeze(-1).double()).exp(), validate_args=False)

    def log_prob(self, eta: Tensor, y: Tensor) -> Tensor:
        log_rate = self.center + eta.squeeze(-1).double()  # large terms cancel: float64
        return (y * log_rate - log_rate.exp() - torch.lgamma(y + 1)).to(eta.dtype)

    def cumulative(self, eta: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        rate, y = torch.broadcast_tensors(self(eta).rate, y.double())
        below = torch.special.gammaincc(y.clamp(min=1), rate)
        return torch.where(y > 0, below, 0.0), torch.special.gammaincc(y + 1, rate)

    def expected_log_prob(self, mean: Tensor, variance: Tensor, y: Tensor) -> Tensor:
        log_rate = self.center + mean.squeeze(-1).double()
        rate = (log_rate + 0.5 * variance.squeeze(-1).double()).exp()
        return (y * log_rate - rate - torch.lgamma(y + 1)).to(mean.dtype)
