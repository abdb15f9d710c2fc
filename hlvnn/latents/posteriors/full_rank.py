"""Full-rank normal posterior."""

import torch
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal

from hlvnn.latents.posteriors.base import Posterior
from hlvnn.latents.triangular import num_lower, scale_tril


class FullRank(Posterior):
    """q(z_g) = N(m_g, L_g L_gᵀ) with a Cholesky factor L_g of its own for each group.

    Parameters of a group: m [Z], log of L's diagonal [Z], L below the diagonal [Z(Z-1)/2], row by
    row.
    """

    normal = True
    full = True

    @staticmethod
    def num_parameters(width: int) -> int:
        return 2 * width + num_lower(width)

    def start(self, width: int, scale: Tensor) -> Tensor:
        return torch.cat([torch.zeros(width), scale.log(), torch.zeros(num_lower(width))])

    def law(self, parameters: Tensor) -> Distribution:
        z = self.width
        mean, log_diagonal, lower = parameters.split([z, z, num_lower(z)], dim=-1)
        return MultivariateNormal(
            mean, scale_tril=scale_tril(log_diagonal, lower), validate_args=False
        )
