"""What every posterior shares: a table with one row of parameters per group."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution


class Posterior(nn.Module, ABC):
    """q(z_g) for all groups of one level.

    Called with group indices [B], it returns a `torch.distributions.Distribution` with batch shape
    [B] and event shape [Z]. The parameters lie in `table`: [G, P] float, one row per group, read
    with sparse gradients, so that a step touches only the groups of its batch.

    A member gives `num_parameters`, the first values and the law; see `mean_field.py`.
    """

    normal: ClassVar[bool]
    """Whether q is a normal with a Cholesky factor (`scale_tril`), as the closed forms need."""

    def __init__(self, num_groups: int, width: int, scale: Tensor) -> None:
        """Start each group at mean 0 and SD `scale` ([Z] float, positive)."""
        super().__init__()
        self.num_groups = num_groups
        self.width = width
        start = self.start(width, scale)
        self.table = nn.Parameter(start.repeat(num_groups, 1))

    @staticmethod
    @abstractmethod
    def num_parameters(width: int) -> int:
        """Return P, the parameters of one group."""

    @abstractmethod
    def start(self, width: int, scale: Tensor) -> Tensor:
        """Return the first parameters of a group, [P]: mean 0 and SD `scale`."""

    @abstractmethod
    def law(self, parameters: Tensor) -> Distribution:
        """Return the distribution that `parameters` [B, P] describe."""

    def forward(self, group: Tensor) -> Distribution:
        """Return q for the groups [B]."""
        return self.law(F.embedding(group, self.table, sparse=torch.is_grad_enabled()))

    def extra_repr(self) -> str:
        return f"num_groups={self.num_groups}, width={self.width}"
