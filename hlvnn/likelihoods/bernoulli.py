"""One of two classes."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Bernoulli as TorchBernoulli

from hlvnn.errors import ConfigError
from hlvnn.likelihoods._quadrature import GaussHermite
from hlvnn.likelihoods.base import Likelihood


class Bernoulli(Likelihood):
    """y ~ Bernoulli(sigmoid η), one output (the log odds of class 1), y: [B] int64, 0 or 1."""

    target = "class"
    closed_form = True

    def __init__(self, num_classes: int | None) -> None:
        super().__init__(num_classes)
        if num_classes != 2:
            raise ConfigError(
                f"likelihood bernoulli needs 2 classes, the target has {num_classes}; "
                "use categorical"
            )
        self.num_outputs = 1
        self.expectation = GaussHermite()

    def forward(self, eta: Tensor) -> TorchBernoulli:
        return TorchBernoulli(logits=eta.squeeze(-1), validate_args=False)

    def log_prob(self, eta: Tensor, y: Tensor) -> Tensor:
        sign = 2 * y.to(eta.dtype) - 1
        return F.logsigmoid(sign * eta.squeeze(-1))

    def start(self, y: Tensor) -> Tensor:
        """Return the log odds of class 1, with half a row more of each class."""
        ones = y.double().sum()
        return ((ones + 0.5) / (len(y) - ones + 0.5)).log()[None]

    def probabilities(self, eta: Tensor) -> Tensor:
        return torch.cat([torch.sigmoid(-eta), torch.sigmoid(eta)], dim=-1)

    def expected_log_prob(self, mean: Tensor, variance: Tensor, y: Tensor) -> Tensor:
        expected: Tensor = self.expectation(lambda eta: self.log_prob(eta, y), mean, variance)
        return expected
