"""A point instead of a posterior: an embedding, or the maximum a posteriori."""

import torch
from torch import Tensor
from torch.distributions import Distribution

from hlvnn.latents.delta import Delta
from hlvnn.latents.posteriors.base import Posterior


class Point(Posterior):
    """All mass at v_g: z_g = v_g without uncertainty.

    Under the prior `none` it is an embedding; under `standard` the maximum a posteriori.
    Parameters of a group: v [Z].
    """

    normal = False
    random = False

    @staticmethod
    def num_parameters(width: int) -> int:
        return width

    def start(self, width: int, scale: Tensor) -> Tensor:
        return torch.zeros(width)

    def law(self, parameters: Tensor) -> Distribution:
        return Delta(parameters)

    def kl(self, q: Distribution, p: Distribution) -> Tensor:
        """Return the penalty log p(mode) − log p(v) of maximum a posteriori; 0 without a prior."""
        assert isinstance(q, Delta)
        if isinstance(p, Delta):
            return torch.zeros_like(q.value[..., 0])
        return p.log_prob(p.mean) - p.log_prob(q.value)
