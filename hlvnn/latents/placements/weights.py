"""The stage's weights and bias deviate by the latent."""

import torch
import torch.nn.functional as F
from torch import Tensor

from hlvnn.latents.placements.base import LinearPlacement
from hlvnn.stages import Stage


class Weights(LinearPlacement):
    """Each group has its own deviation of the stage's matrix and bias: random slopes.

    z is read as [out, 1 + inputs], for each output its intercept first and then its slopes; the
    pre-activation gains intercept + slopes·h. For a convolution the inputs are the kernel's
    in_channels × side × side values.
    """

    kinds = frozenset({"dense", "conv"})

    @staticmethod
    def width_at(stage: Stage) -> int:
        return stage.out_features * (1 + stage.in_features * stage.kernel_size**2)

    def gain(self, h: Tensor, z: Tensor) -> Tensor:
        deviation = z.unflatten(-1, (self.stage.out_features, -1))  # [S, B, out, 1 + in]
        intercept, slopes = deviation[..., :1], deviation[..., 1:]
        if self.stage.kind == "dense":
            return (slopes @ h.unsqueeze(-1) + intercept).squeeze(-1)
        side = self.stage.kernel_size
        before = (side - 1) // 2
        padded = F.pad(h, (before, side - 1 - before, before, side - 1 - before))
        patches = F.unfold(padded.reshape(-1, *padded.shape[-3:]), side)  # [(S) B, in, H W]
        patches = patches.unflatten(0, h.shape[:-3])
        gained = slopes @ patches + intercept  # [S, B, out, H W]
        return torch.unflatten(gained, -1, h.shape[-2:])
