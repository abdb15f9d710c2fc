"""Mean-field normal posterior."""

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from hlvnn.latents.divergence import kl_of_diagonal
from hlvnn.latents.posteriors.base import Posterior


class MeanField(Posterior):
    """q(z_g) = N(m_g, diag(s_g²)).

    Parameters of a group: m [Z], log s [Z].
    """

    normal = True

    @staticmethod
    def num_parameters(width: int) -> int:
        return 2 * width

    def start(self, width: int, scale: Tensor) -> Tensor:
        return torch.cat([torch.zeros(width), scale.log()])

    def law(self, parameters: Tensor) -> Distribution:
        mean, log_sd = parameters.split(self.width, dim=-1)
        return Independent(Normal(mean, log_sd.exp(), validate_args=False), 1, validate_args=False)

    def kl(self, q: Distribution, p: Distribution) -> Tensor:
        return kl_of_diagonal(q, p)
