"""One of K classes."""

import torch
from torch import Tensor
from torch.distributions import Categorical as TorchCategorical

from hlvnn.errors import ConfigError
from hlvnn.likelihoods.base import Likelihood


class Categorical(Likelihood):
    """y ~ Categorical(softmax η), K outputs, y: [B] int64, 0..K-1."""

    target = "class"

    def __init__(self, num_classes: int | None) -> None:
        super().__init__(num_classes)
        if num_classes is None:
            raise ConfigError("likelihood categorical needs a target with classes")
        self.num_outputs = num_classes

    def forward(self, eta: Tensor) -> TorchCategorical:
        return TorchCategorical(logits=eta, validate_args=False)

    def log_prob(self, eta: Tensor, y: Tensor) -> Tensor:
        index = y.unsqueeze(-1).expand(*eta.shape[:-1], 1)
        return eta.log_softmax(-1).gather(-1, index).squeeze(-1)

    def start(self, y: Tensor) -> Tensor:
        """Return the classes' log frequencies, with half a row more of each."""
        rows = torch.bincount(y.long(), minlength=self.num_outputs) + 0.5
        return (rows / rows.sum()).log()

    def probabilities(self, eta: Tensor) -> Tensor:
        return eta.softmax(-1)

    def expected_log_prob(self, mean: Tensor, variance: Tensor, y: Tensor) -> Tensor:
        raise TypeError("the categorical likelihood has no closed form; draw samples")
