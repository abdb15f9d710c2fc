"""The latent scales and shifts each unit or channel."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hlvnn.latents.placements.base import Placement, over_places
from hlvnn.stages import Stage

START = 0.1
"""SD of the first loadings: what one dimension of a standard z does to a unit's scale."""


class Film(Placement):
    """The pre-activation a becomes (1 + G z) ⊙ a + H z, unit by unit or channel by channel.

    `scale` G, `shift` H: [out, Z] float. At z = 0 nothing changes. Perez, Strub, de Vries, Dumoulin
    and Courville (2018), feature-wise linear modulation.
    """

    kinds = frozenset({"dense", "conv", "embedding"})

    def __init__(self, stage: Stage, width: int) -> None:
        super().__init__(stage, width)
        self.scale = nn.Parameter(START * torch.randn(stage.out_features, width))
        self.shift = nn.Parameter(START * torch.randn(stage.out_features, width))

    def forward(self, h: Tensor, pre: Tensor, z: Tensor) -> Tensor:
        scale = over_places(1 + F.linear(z, self.scale), self.stage, h)
        return pre * scale + over_places(F.linear(z, self.shift), self.stage, h)

    def loadings(self) -> list[Tensor]:
        return [self.scale, self.shift]
