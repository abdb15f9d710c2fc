"""The stage's weights deviate along a few learned directions."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hlvnn.latents.placements.base import LinearPlacement, over_places
from hlvnn.stages import Stage

START = 0.1
"""SD of the first C: what one dimension of a standard z does along one direction."""
SMALLEST = 1e-12
"""Added to squares before a root, against dividing by 0."""


class Basis(LinearPlacement):
    """The weights and bias deviate by Σ_k (C z)_k v_k u_kᵀ, k = 1..rank: latent filters.

    The deviation has at most the given rank (None: the latent's width), whatever the sizes of the
    stage; J(h) is v_k (u_k·h) for each k, so no row has a matrix of its own. For a convolution u_k
    is a filter over all input channels and v_k its weight in each output channel; for an embedding
    u_k is a value per token.

    `mixing` C: [K, Z]; `inputs` u: [K, in…], for dense stages and convolutions with a last value
    for the bias (`input_bias`: [K]); `outputs` v: [out, K]. u_k and v_k count as directions only,
    u_k of unit length (a token's value: unit RMS) and v_k of unit RMS, so that C alone says how
    much.
    """

    kinds = frozenset({"dense", "conv", "embedding"})
    options = ("rank",)

    def __init__(self, stage: Stage, width: int, *, rank: int | None = None) -> None:
        super().__init__(stage, width)
        rank = rank or width
        shape: tuple[int, ...] = (rank, stage.in_features)
        if stage.kind == "conv":
            shape = (*shape, stage.kernel_size, stage.kernel_size)
        self.mixing = nn.Parameter(START * torch.randn(rank, width))
        self.inputs = nn.Parameter(torch.randn(shape))
        self.input_bias = None
        if stage.kind != "embedding":
            self.input_bias = nn.Parameter(torch.randn(rank))
        self.outputs = nn.Parameter(torch.randn(stage.out_features, rank))

    @staticmethod
    def width_at(stage: Stage, *, rank: int | None = None) -> None:
        return None

    def gain(self, h: Tensor, z: Tensor) -> Tensor:
        along = self._along(h)  # [(S,) B, K, …], what each direction finds in the input
        amount = F.linear(z, self.mixing)  # [S, B, K]
        outputs = self.outputs * (self.outputs.square().mean(0) + SMALLEST).rsqrt()
        if self.stage.kind == "conv":
            each = along * amount[..., None, None]
            mixed = F.conv2d(each.flatten(0, 1), outputs[..., None, None])  # 1×1
            return mixed.unflatten(0, each.shape[:2])
        return (along * over_places(amount, self.stage, h)) @ outputs.T

    def _along(self, h: Tensor) -> Tensor:
        if self.input_bias is None:
            scale = (self.inputs.square().mean(1) + SMALLEST).rsqrt()
            return F.embedding(h.long(), (self.inputs * scale[:, None]).T)
        squares = self.inputs.flatten(1).square().sum(1) + self.input_bias.square()
        scale = (squares + SMALLEST).rsqrt()
        bias = self.input_bias * scale
        if self.stage.kind == "dense":
            return F.linear(h, self.inputs * scale[:, None], bias)
        kernel = self.inputs * scale[:, None, None, None]
        lead = h.shape[:-3]
        found = F.conv2d(h.reshape(-1, *h.shape[-3:]), kernel, bias, padding="same")
        return found.unflatten(0, lead)

    def loadings(self) -> list[Tensor]:
        return [self.mixing]
