"""What every likelihood shares."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution


class Likelihood(nn.Module, ABC):
    """p(y | η). Called with the network's output it returns y's distribution, in y's own units.

    η: [*, B, num_outputs] float.
    """

    target: ClassVar[str]
    """Kind of target: "class" (indices 0..K-1) or "real"."""
    closed_form: ClassVar[bool] = False
    """Whether `expected_log_prob` is there: exact, or by quadrature that is as good as exact."""
    integrates: ClassVar[bool] = False
    """Whether `marginal` is there."""
    counts_trials: ClassVar[bool] = False
    """Whether y is [B, 2], successes and trials, and not [B]."""
    noisy: ClassVar[bool] = False
    """Whether it learns a variance of the rows' own noise."""
    is_normal: ClassVar[bool] = False
    """Whether y is η plus normal noise of one learned SD (see `gaussian.py`)."""
    num_outputs: int
    """Outputs of the network that η is made of."""
    target_name: str = "y"
    """What the target is called in messages."""

    def __init__(self, num_classes: int | None) -> None:
        """Prepare a likelihood for a target with `num_classes` classes (None for a real one)."""
        super().__init__()

    @abstractmethod
    def forward(self, eta: Tensor) -> Distribution:
        """Return the distribution of y, batch shape [*, B]; of one trial where y counts trials."""

    @abstractmethod
    def log_prob(self, eta: Tensor, y: Tensor) -> Tensor:
        """Return log p(y | η), [*, B], for the rows' y; densities are per unit of y."""

    @abstractmethod
    def expected_log_prob(self, mean: Tensor, variance: Tensor, y: Tensor) -> Tensor:
        """Return E[log p(y | η)] for η ~ N(mean, diag(variance)), [B]; mean, variance: [B, out]."""

    def probabilities(self, eta: Tensor) -> Tensor:
        """Return P(y = k | η) of every class k, [*, B, K]; `TypeError` for other targets."""
        raise TypeError(f"{type(self).__name__}: its target has no classes")

    def marginal(self, mean: Tensor, variance: Tensor) -> Distribution:
        """Return y's exact law for η ~ N(mean, diag(variance)), batch shape [B].

        Only where it has a closed form (`integrates`); elsewhere `TypeError`.
        """
        raise TypeError(f"{type(self).__name__}: y's law has no closed form over a normal η")

    def cumulative(self, eta: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return P(Y < y | η) and P(Y ≤ y | η), [*, B] float64; the same for a density.

        For real targets and counts; of classes there is no order (`TypeError`).
        """
        raise TypeError(f"{type(self).__name__}: classes have no order")

    def observe(self, y: Tensor) -> None:
        """Take what is needed from the training targets (centre and scale). Nothing by default."""

    def log_sds(self) -> list[nn.Parameter]:
        """Return the logs of learned SDs of the rows' own noise, which are fitted by EM steps.

        Such a parameter's gradient a row is 1 − E (y − η)²/σ². None by default.
        """
        return []

    def start(self, y: Tensor) -> Tensor:
        """Return η [num_outputs] of the training targets y without regard to x: the output's start.

        0 by default: right where y is centred, as `observe` does for real targets. A likelihood of
        one's own says its own; half a row in each class keeps it finite.
        """
        return torch.zeros(self.num_outputs)

    def check(self, y: Tensor, rows: str) -> None:
        """Raise `DataError` for a y that cannot be; `rows` says which rows these are."""

    def response(self, y: Tensor) -> Tensor:
        """Return [B] what predictions are compared with: y itself unless it counts trials."""
        return y

    def units(self) -> tuple[float, float]:
        """Return (c, s): the law's own linear predictor is c + s η."""
        return 0.0, 1.0

    def terms(self) -> dict[str, float]:
        """Return what a model's summary tells of the likelihood: estimates by name, in y's units.

        Nothing by default.
        """
        return {}
