"""The distribution with all its mass at one point, which torch does not have."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints


class Delta(Distribution):
    """All mass at `value` [*, Z]: batch shape [*], event shape [Z]."""

    arg_constraints: ClassVar[dict[str, Any]] = {"value": constraints.real_vector}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, value: Tensor) -> None:
        self.value = value
        super().__init__(value.shape[:-1], value.shape[-1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.value

    @property
    def variance(self) -> Tensor:
        return torch.zeros_like(self.value)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.value.expand(torch.Size(sample_shape) + self.value.shape)
