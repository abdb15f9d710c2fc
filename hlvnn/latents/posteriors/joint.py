"""One full-rank normal posterior over all groups of a small level."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal

from hlvnn.latents.normals import whiten
from hlvnn.latents.posteriors.base import LevelPosterior
from hlvnn.latents.table import table_rows


class Joint(LevelPosterior):
    """q(z_1, …, z_G) = N(m, L Lᵀ), L lower triangular, [G·Z, G·Z]: groups are correlated.

    For a level of few groups whose rows are shared with a larger, crossed level. Parameters of a
    group: m [Z], log of L's diagonal [Z], its rows of L [Z, G·Z], of which only what lies below the
    diagonal counts.
    """

    full = True
    recordable = False
    below: Tensor

    def __init__(self, num_groups: int, width: int, scale: Tensor) -> None:
        super().__init__(num_groups, width, scale)
        self.register_buffer("below", self._below(), persistent=False)

    @staticmethod
    def num_parameters(width: int, num_groups: int = 1) -> int:
        return 2 * width + width * width * num_groups

    def start(self, width: int, scale: Tensor) -> Tensor:
        rows = torch.zeros(width * width * self.num_groups)
        return torch.cat([torch.zeros(width), scale.log(), rows])

    def resized(self, table: Tensor) -> Tensor:
        """Return m, log of L's diagonal and rows of L with columns for more groups, all 0."""
        self.below = self._below().to(table.device)
        z = self.width
        first, rows = table[:, : 2 * z], table[:, 2 * z :].unflatten(1, (z, -1))
        rows = F.pad(rows, (0, self.num_groups * z - rows.shape[-1]))
        return torch.cat([first, rows.flatten(1)], dim=1)

    def _below(self) -> Tensor:
        """Return which columns of L's rows lie below the diagonal: [G, Z, G·Z] bool."""
        size = self.num_groups * self.width
        below = torch.ones(size, size, dtype=torch.bool).tril(-1)
        return below.view(self.num_groups, self.width, size)

    def forward(self, group: Tensor) -> Distribution:
        mean, _, rows = self._parts(group)
        covariance = rows @ rows.mT
        tril = torch.linalg.cholesky(covariance)
        return MultivariateNormal(mean, scale_tril=tril, validate_args=False)

    def rows(self, group: Tensor) -> Tensor:
        return self._parts(group)[2]

    def whole_mean(self) -> Tensor:
        return self._parts(torch.arange(self.num_groups, device=self.table.device))[0].flatten()

    def kl_shares(self, group: Tensor, p: Distribution) -> Tensor:
        """Return shares [U] of KL(q ‖ Π_g p) that sum to it over all groups.

        ln|L Lᵀ| is a sum over L's diagonal, and everything else splits by rows of L.
        """
        mean, log_diagonal, rows = self._parts(group)
        spread = whiten(p, torch.cat([rows, mean.unsqueeze(-1)], dim=-1)).square().sum((-1, -2))
        eye = torch.eye(self.width, device=mean.device)
        log_det = whiten(p, eye).diagonal().log().sum()  # of T^(-1/2)
        return 0.5 * (spread - self.width) - log_det - log_diagonal.sum(-1)

    def _parts(self, group: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return m [U, Z], the log of L's diagonal [U, Z] and the rows of L [U, Z, G·Z]."""
        z = self.width
        parameters = table_rows(self.table, group)
        mean, log_diagonal, flat = parameters.split([z, z, z * z * self.num_groups], dim=-1)
        rows = flat.unflatten(-1, (z, -1)) * self.below[group]
        column = group.long()[:, None] * z + torch.arange(z, device=group.device)  # [U, Z]
        return (
            mean,
            log_diagonal,
            rows.scatter(-1, column.unsqueeze(-1), log_diagonal.exp().unsqueeze(-1)),
        )
