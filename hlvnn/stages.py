"""What a backbone tells placements about its named steps, and how latents reach them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

StageKind = Literal["dense", "conv", "rnn", "embedding"]


@dataclass(frozen=True)
class Stage:
    """One named step of a backbone: pre-activation = f(input), then norm, latents, activation."""

    name: str
    kind: StageKind
    in_features: int
    """Inputs of a dense stage, input channels of a convolution."""
    out_features: int
    """Outputs of a dense stage, output channels of a convolution."""
    kernel_size: int = 1
    """Side of a convolution's kernel ("same" padding)."""
    inputs: tuple[str, ...] | None = None
    """Names of the inputs, where they are the user's own columns."""


class Enter(Protocol):
    """Hook that a backbone calls at each stage: latents change the pre-activation.

    `h` is the stage's input and `pre` its pre-activation, [B, …] before the first latent and
    [S, B, …] after it; the result has the shape [S, B, …] once a latent has entered.
    """

    def __call__(self, stage: str, h: Tensor, pre: Tensor) -> Tensor: ...


def untouched(stage: str, h: Tensor, pre: Tensor) -> Tensor:
    """The hook of a network without latents."""
    return pre
