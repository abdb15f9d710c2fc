"""How a latent begins that waits at first: where its noise costs little."""

from __future__ import annotations

import torch
from torch import Tensor

from hlvnn.latents.covariance import diagonal
from hlvnn.latents.latent import Latent
from hlvnn.latents.posteriors.base import Posterior
from hlvnn.training.pace import TINY, Running

COST = 0.1
"""Nats that a dimension of a group costs at first, at most, where a latent starts small."""
COST_OF_ALL = 1.0
"""The same of all its dimensions together."""
COST_OF_ROWS = 0.005
"""Nats a row that all latents which start small cost at first, at most: under more noise a network
learns more slowly."""
NOTHING = 1e-6
"""SD of a latent that has not started."""
SHRUNK = 1e-4
"""Share of its loadings with which a latent waits whose prior is fixed."""


class Starting:
    """The wait and the start of one latent's steps; see `LatentSteps`, which has all of this.

    first: [Z], the SD at which a latent that starts small began. allowed: [], τ² h at which its
    noise costs what it may. rows, groups: in training.
    """

    latent: Latent
    q: Posterior
    exact: bool
    is_fitted: bool
    curvature: Running
    seen: Tensor
    first: Tensor
    allowed: Tensor
    rows: float
    groups: float

    @property
    def may_wait(self) -> bool:
        """Whether it starts small, as all do whose effect is drawn, and its size is not frozen.

        Not where an earlier fit has found something of its groups.
        """
        latent = self.latent
        if self.is_fitted:
            return False
        if latent.prior.learned:
            return self.is_learning and (latent.starts_small or not self.exact)
        loadings = [matrix for entry in latent.entries() for matrix in entry.loadings()]
        return latent.starts_small and all(matrix.requires_grad for matrix in loadings)

    @property
    def is_learning(self) -> bool:
        """Whether the prior is learned, by steps of its own."""
        return bool(self.latent.prior.advanced())

    @torch.no_grad()
    def wait(self) -> None:
        """Hold z at 0 (`LatentSet.held`), with laws and loadings that make no difference.

        The posterior is the prior, and costs nothing.
        """
        if self.latent.prior.learned:
            self.latent.prior.set_sd(torch.full_like(self.latent.prior_start, NOTHING))
        else:
            self._scale_loadings(SHRUNK)
        self.q.set_law(self.latent.prior().stddev)

    def _scale_loadings(self, scale: float | Tensor) -> None:
        for entry in self.latent.entries():
            for matrix in entry.loadings():
                matrix.mul_(scale)

    @torch.no_grad()
    def begin(self, part: float) -> None:
        """Begin where the noise of z costs little: see `COST` and below.

        part: of what a row may pay for all latents.
        """
        latent = self.latent
        of_all = min(COST_OF_ALL, part * COST_OF_ROWS * self.rows / self.groups)
        cost = min(COST, of_all / latent.width)
        self.allowed.fill_(2 * cost * self.groups / self.rows)
        most = self._allowed_sd()
        if latent.prior.learned:
            sd = torch.minimum(latent.prior_start, most)
            latent.prior.set_sd(sd)
            latent.prior_start.copy_(sd)
            self.first.copy_(sd)
        else:
            sd = latent.prior().stddev
            self._scale_loadings((most / sd).clamp(max=1 / SHRUNK))
        latent.began_small = True
        self.q.set_law(sd)
        self.seen.zero_()

    def _allowed_sd(self) -> Tensor:
        """Return the SD whose noise costs what it may, as the loss bends now."""
        return (self.allowed / diagonal(self.curvature.mean, 1).mean().clamp(min=TINY)).sqrt()

    def least_sd(self, floor: float | Tensor) -> Tensor:
        """Return the SD [Z] below which the prior is not to fall (see `Pace`).

        Where the loss bends more than at the start, as a network's does that had learned little
        then, the same SD would cost more.
        """
        return floor * torch.minimum(self.first, self._allowed_sd())
