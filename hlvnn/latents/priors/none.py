"""No prior: what an embedding has."""

import torch
from torch import Tensor
from torch.distributions import Distribution

from hlvnn.latents.delta import Delta
from hlvnn.latents.priors.base import Prior


class NoPrior(Prior):
    """The flat prior of a `point` posterior: nothing is paid, nothing is shared between groups.

    A group never seen has no distribution to draw from; it gets 0, the embeddings' start.
    """

    learned = False
    normal = False
    proper = False
    zero: Tensor

    def __init__(self, width: int, scale: Tensor) -> None:
        super().__init__(width, scale)
        self.register_buffer("zero", torch.zeros(width), persistent=False)

    def forward(self) -> Distribution:
        return Delta(self.zero)
