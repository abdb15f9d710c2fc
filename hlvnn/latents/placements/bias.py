"""The latent is added to the pre-activation."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hlvnn.latents.placements.base import LinearPlacement, over_places
from hlvnn.stages import INTERCEPT, Stage


class Bias(LinearPlacement):
    """The pre-activation gains z itself, J = I: a random intercept per unit (or channel)."""

    kinds = frozenset({"dense", "conv", "embedding"})

    @staticmethod
    def width_at(stage: Stage) -> int:
        return stage.out_features

    def gain(self, h: Tensor, z: Tensor) -> Tensor:
        return over_places(z, self.stage, h)

    def constant(self) -> Tensor:
        return torch.eye(self.width)

    def terms(
        self, outputs: Sequence[str], columns: Tensor | None, *, normalised: bool
    ) -> tuple[list[str], Tensor]:
        return [out or INTERCEPT for out in outputs], torch.ones(self.width, dtype=torch.float64)
