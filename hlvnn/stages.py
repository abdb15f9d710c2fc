"""What a backbone tells placements about its named steps, and how latents reach them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

StageKind = Literal["dense", "conv", "rnn", "embedding"]
OUTPUT = "output"
"""The stage whose pre-activation is the predictor."""
INTERCEPT = "(Intercept)"
"""What tables call the constant beside a stage's inputs."""


@dataclass(frozen=True)
class Stage:
    """One named step of a backbone: pre-activation = f(input), then norm, latents, activation."""

    name: str
    kind: StageKind
    in_features: int
    """Inputs of a dense stage, input channels of a convolution, tokens of an embedding."""
    out_features: int
    """Outputs of a dense stage, output channels of a convolution, units of an LSTM."""
    kernel_size: int = 1
    """Side of a convolution's kernel ("same" padding)."""
    inputs: tuple[str, ...] | None = None
    """Names of the inputs, where they are the user's own columns."""


def coefficient_names(outputs: Sequence[str], inputs: Sequence[str]) -> list[str]:
    """Return what tables call an affine map's coefficients: each output's intercept, then slopes.

    An only output is called "".
    """
    terms = (INTERCEPT, *inputs)
    return [f"{out}:{term}" if out else term for out in outputs for term in terms]


@dataclass(frozen=True)
class Recurrence:
    """What latents give an LSTM, whose steps are computed in one call.

    inputs: pairs of z [S, B, Z], which joins the input of every step, and its columns [4·out, Z] of
    the gates' matrix; state: [S, B, 2·out] or None, what h (before its tanh) and c start at.
    """

    inputs: tuple[tuple[Tensor, Tensor], ...] = ()
    state: Tensor | None = None

    def __add__(self, other: Recurrence) -> Recurrence:
        if self.state is None or other.state is None:
            state = self.state if other.state is None else other.state
        else:
            state = self.state + other.state
        return Recurrence(self.inputs + other.inputs, state)

    def __bool__(self) -> bool:
        return bool(self.inputs) or self.state is not None


class Enter(Protocol):
    """Hook that a backbone calls at each stage, where latents enter."""

    def __call__(self, stage: str, h: Tensor, pre: Tensor) -> Tensor:
        """Return the pre-activation with the latents in it.

        h: the stage's input; pre: its pre-activation; both [B, …] before the first latent and
        [S, B, …] after it, as is the result once a latent has entered. Of an embedding, h is the
        tokens [B, T] and pre [B, T, out].
        """

    def recurrence(self, stage: str) -> Recurrence:
        """Return what latents give an LSTM."""


class Untouched:
    """The hook of a network without latents."""

    def __call__(self, stage: str, h: Tensor, pre: Tensor) -> Tensor:
        return pre

    def recurrence(self, stage: str) -> Recurrence:
        return Recurrence()


untouched = Untouched()
