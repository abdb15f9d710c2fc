"""The latent sets an LSTM's first state."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hlvnn.latents.placements.base import Placement
from hlvnn.stages import Recurrence, Stage


class InitialState(Placement):
    """h₀ = tanh(A_h z), c₀ = A_c z; without a latent both are 0.

    `loading`: [2·out, Z] float, A_h above A_c. Several latents add up before the tanh, which keeps
    h where an LSTM has it. At z = 0 nothing changes.
    """

    kinds = frozenset({"rnn"})

    def __init__(self, stage: Stage, width: int) -> None:
        super().__init__(stage, width)
        bound = 1 / math.sqrt(width)
        self.loading = nn.Parameter(
            torch.empty(2 * stage.out_features, width).uniform_(-bound, bound)
        )

    def forward(self, h: Tensor, pre: Tensor, z: Tensor) -> Tensor:
        raise TypeError("an initial state enters before the first step, see recurrence")

    def recurrence(self, z: Tensor) -> Recurrence:
        return Recurrence(state=F.linear(z, self.loading))

    def loadings(self) -> list[Tensor]:
        return [self.loading]
