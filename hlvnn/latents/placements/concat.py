"""The latent joins the stage's input."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hlvnn.latents.placements.base import LinearPlacement, over_space
from hlvnn.stages import Stage


class Concat(LinearPlacement):
    """The stage sees [h, z]: for an affine stage, its pre-activation gains A z, J = A.

    `loading` A: [out, Z] float, the columns that the stage's matrix gains by the wider input, and
    started as such a matrix is. For a convolution z is a constant map per dimension, and A its 1×1
    kernel.
    """

    kinds = frozenset({"dense", "conv"})

    def __init__(self, stage: Stage, width: int) -> None:
        super().__init__(stage, width)
        bound = 1 / math.sqrt(stage.in_features * stage.kernel_size**2 + width)
        self.loading = nn.Parameter(torch.empty(stage.out_features, width).uniform_(-bound, bound))

    def gain(self, h: Tensor, z: Tensor) -> Tensor:
        return over_space(F.linear(z, self.loading), self.stage)
