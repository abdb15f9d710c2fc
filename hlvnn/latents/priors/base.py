"""What every prior shares."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn
from torch.distributions import Distribution


class Prior(nn.Module, ABC):
    """p(z) over the groups of one level. Called, it returns a distribution with event shape [Z].

    `learned` priors start at the SD `scale` and are held there through a short warm-up: from a
    start that is too small the gradient in the log SD vanishes and they stick.
    """

    learned: ClassVar[bool]
    """Whether the prior has parameters, found by empirical Bayes together with the rest."""

    full: ClassVar[bool] = False
    """Whether it learns every covariance of z (see `hlvnn.latents.origin`)."""

    nested: ClassVar[bool] = False
    """Whether its mean is the z of another latent; called, it gives the law of the deviation."""

    normal: ClassVar[bool] = True
    """Whether p(z) is a normal distribution, as closed forms and levels that depend on each other
    need."""

    proper: ClassVar[bool] = True
    """Whether p(z) integrates to one (a flat prior does not)."""

    def __init__(self, width: int, scale: Tensor) -> None:
        """Prepare a prior over `width` dimensions, starting at the SD `scale` [Z]."""
        super().__init__()
        self.width = width

    @abstractmethod
    def forward(self) -> Distribution:
        """Return p(z), batch shape [], event shape [Z]."""

    def advanced(self) -> list[nn.Parameter]:
        """Return the parameters that `advance` moves; others are left to the optimiser."""
        return []

    def advance(self, rate: float | Tensor, rows: float) -> None:
        """Take `rate` of an EM step, by the parameters' gradients; fixed ones stay.

        rows: training rows a group, by which the gradient of a loss a row is one a group.
        """

    def resize(self, size: Tensor) -> None:
        """Multiply z by a size [Z]."""

    def update(self, moment: Tensor) -> None:
        """Take the prior that maximises the ELBO given the posteriors; fixed ones stay.

        moment: [Z, Z], the mean over groups of E_q[d dᵀ], d being z less the prior's mean. It is
        the maximum in closed form (the M step of EM: Dempster, Laird and Rubin 1977).
        """

    def set_sd(self, sd: Tensor) -> None:
        """Take the SD [Z], without correlations."""
        self.update(sd.square().diag())

    def take(self, factor: Tensor) -> None:
        """Take the covariance with the Cholesky factor [Z, Z], a diagonal one unless `full`.

        What can do so can be fitted exactly; the others cannot (`TypeError`).
        """
        raise TypeError(f"{type(self).__name__} takes no covariance")

    def extra_repr(self) -> str:
        return f"width={self.width}"
