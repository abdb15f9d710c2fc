"""What every placement shares."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from hlvnn.stages import Stage, StageKind


class Placement(nn.Module, ABC):
    """How a latent enters one stage. Called, it turns the pre-activation into another.

    A member gives `kinds` (the kinds of stage it can enter) and, where the stage fixes the latent's
    width, `width_at`.
    """

    kinds: ClassVar[frozenset[StageKind]]
    linear: ClassVar[bool] = False
    """Whether the pre-activation is linear in z."""

    def __init__(self, stage: Stage, width: int) -> None:
        super().__init__()
        self.stage = stage
        self.width = width

    @staticmethod
    def width_at(stage: Stage) -> int | None:
        """Return the latent width that the stage requires, or None where any will do."""
        return None

    @abstractmethod
    def forward(self, h: Tensor, pre: Tensor, z: Tensor) -> Tensor:
        """Return the pre-activation [S, B, …] with the latent in it.

        h: [B, …] or [S, B, …], the stage's input; pre: the same for its pre-activation;
        z: [S, B, Z].
        """

    def extra_repr(self) -> str:
        return f"stage={self.stage.name}, width={self.width}"


class LinearPlacement(Placement):
    """A placement under which the pre-activation gains J(h)·z.

    A member gives only `gain`. J is never built: applied to draws it gives their effect, applied to
    the columns of a covariance's Cholesky factor it gives the predictor's variance (see
    `hlvnn.model`). S draws share J.
    """

    linear = True

    @abstractmethod
    def gain(self, h: Tensor, z: Tensor) -> Tensor:
        """Return J(h)·z, shape [S, B, …] (or [S, B, channels, 1, 1], to broadcast)."""

    def forward(self, h: Tensor, pre: Tensor, z: Tensor) -> Tensor:
        return pre + self.gain(h, z)


def over_space(per_channel: Tensor, stage: Stage) -> Tensor:
    """Give a convolution's per-channel values [*, C] the axes of space: [*, C, 1, 1]."""
    return per_channel[..., None, None] if stage.kind == "conv" else per_channel
