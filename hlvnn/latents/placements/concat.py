"""The latent joins the stage's input."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hlvnn.latents.placements.base import LinearPlacement, coordinate_names, over_places
from hlvnn.stages import Recurrence, Stage

GATES = 4


class Concat(LinearPlacement):
    """The stage sees [h, z]: for an affine stage, its pre-activation gains A z, J = A.

    `loading` A: [out, Z] float, the columns that the stage's matrix gains by the wider input, and
    started as such a matrix is. For a convolution z is a constant map per dimension, and A its 1×1
    kernel. For an embedding it stands beside the one-hot token. An LSTM takes z with the input of
    every step; there A has the gates' 4·out rows.
    """

    kinds = frozenset({"dense", "conv", "embedding", "rnn"})

    def __init__(self, stage: Stage, width: int) -> None:
        super().__init__(stage, width)
        recurrent = stage.kind == "rnn"
        rows = GATES * stage.out_features if recurrent else stage.out_features
        bound = 1 / math.sqrt(_fan_in(stage) + (0 if recurrent else width))
        self.loading = nn.Parameter(torch.empty(rows, width).uniform_(-bound, bound))

    def gain(self, h: Tensor, z: Tensor) -> Tensor:
        return over_places(F.linear(z, self.loading), self.stage, h)

    def recurrence(self, z: Tensor) -> Recurrence:
        return Recurrence(inputs=((z, self.loading),))

    def loadings(self) -> list[Tensor]:
        return [self.loading]

    def constant(self) -> Tensor | None:
        return None if self.stage.kind == "rnn" else self.loading

    def terms(
        self, outputs: Sequence[str], columns: Tensor | None, *, normalised: bool
    ) -> tuple[list[str], Tensor] | None:
        if not normalised:
            return None
        return coordinate_names(self.width), torch.ones(self.width, dtype=torch.float64)


def _fan_in(stage: Stage) -> int:
    """Return the fan-in by which torch starts a stage's matrix; an LSTM's is its width.

    An embedding starts at SD 1 whatever its tokens, which is the SD of what z should add to.
    """
    if stage.kind == "embedding":
        return 0
    return stage.out_features if stage.kind == "rnn" else stage.in_features * stage.kernel_size**2
