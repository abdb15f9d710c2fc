"""What every backbone shares."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from hlvnn.data.grouped import Rows
from hlvnn.errors import ConfigError
from hlvnn.stages import OUTPUT, Enter, Stage, untouched


class Backbone(nn.Module, ABC):
    """The network without latents: named stages, called in order.

    At each stage it computes the pre-activation, hands it to `enter` (where latents change it), and
    goes on; before an LSTM it asks `enter` what latents give it. Until the first latent tensors are
    [B, …]; from there on [S, B, …].
    """

    x_kinds: ClassVar[frozenset[str]]
    """Kinds of rows it reads: image, tokens, features."""
    is_linear: ClassVar[bool] = False
    """Whether it is one affine stage `output`, an `nn.Linear` of `design(x)` (see `linear.py`)."""

    settings: ClassVar[frozenset[str]] = frozenset()
    """Settings of the network (`ModelConfig`) that it takes; others are refused."""

    stages: dict[str, Stage]

    @abstractmethod
    def forward(self, x: Tensor, enter: Enter = untouched) -> Tensor:
        """Return the network's output, [B, out] or [S, B, out]."""

    def observe(self, rows: Rows) -> None:
        """Take what is needed from the training rows (scales of the inputs). Nothing by default."""

    def output_bias(self) -> nn.Parameter | None:
        """Return the bias [out] of the output stage, which starts at `Likelihood.start`.

        By default that of the linear layer called `output`, wherever it lies; None (where there is
        no such layer, or it has no bias) leaves the output's start as it is.
        """
        for name, part in self.named_modules():
            if name.rpartition(".")[2] == OUTPUT and isinstance(part, nn.Linear):
                bias: nn.Parameter | None = part.bias
                return bias
        return None

    def columns_at_output(self) -> Tensor | None:
        """Return by what the data's columns are divided, [D] float64, for a table in their units.

        Only where they are the last inputs of the output stage; None elsewhere (the default).
        """
        return None

    def offset(self, stage: str) -> Tensor | None:
        """Return the means [D] of a stage's inputs over the training rows, in SDs; float64.

        None (the default) where they are not known: where no input is a column of the data. Those
        that are no columns count as 0.
        """
        return None

    def fixed_effects(self) -> tuple[Tensor, Tensor] | None:
        """Return the intercepts [out] and slopes [out, D] of η by the data's columns, float64.

        None (the default) where η is not linear in them.
        """
        return None


def per_row(step: Callable[[Tensor], Tensor], h: Tensor, row_dims: int) -> Tensor:
    """Apply a step made for [B, …] to h, whether it is [B, …] or [S, B, …].

    `row_dims` is the number of axes of one row of h.
    """
    if h.dim() == row_dims + 1:
        return step(h)
    return step(h.flatten(0, 1)).unflatten(0, h.shape[:2])


def dense_norm(norm: str, width: int) -> nn.Module:
    """Return the normalisation of a dense stage's pre-activation."""
    if norm == "batch":
        return nn.BatchNorm1d(width)
    return nn.LayerNorm(width) if norm == "layer" else nn.Identity()


class InputScale(nn.Module):
    """Centre and scale of each input column, taken from the training rows.

    center, scale: [D] float. Columns are divided by their SD. Latents see them scaled but not
    centred (centring would change an uncorrelated prior of slopes); the stage's own matrix sees
    them centred as well, which changes nothing but its conditioning.

    kept_from: [D] float64, what was taken from a column's values when they were coded, because
    32-bit floats would lose them (`Schema.kept_from`); None where nothing was.
    """

    center: Tensor
    scale: Tensor
    kept_from: Tensor | None

    def __init__(self, width: int, kept_from: Tensor | None = None) -> None:
        super().__init__()
        # no part of a checkpoint: the schema holds it
        self.register_buffer("kept_from", kept_from, persistent=False)
        self.register_buffer("center", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))

    def observe(self, rows: Rows, chunk: int = 65536) -> None:
        """Take mean and SD of each column, in chunks (rows may be memory-mapped)."""
        total = torch.zeros(len(self.center), dtype=torch.float64)
        squares = torch.zeros_like(total)
        first = rows.take(torch.zeros(1, dtype=torch.int64)).double().reshape(-1)
        for index in torch.arange(len(rows)).split(chunk):
            part = rows.take(index).double().flatten(1) - first
            total += part.sum(0)
            squares += part.square().sum(0)
        mean = total / len(rows)
        sd = (squares / len(rows) - mean.square()).clamp(min=0).sqrt()
        self.center.copy_(mean + first)
        self.scale.copy_(torch.where(sd > 0, sd, 1.0))

    def forward(self, x: Tensor) -> Tensor:
        """Return the columns by their scale, uncentred."""
        if self.kept_from is None:
            return x / self.scale
        return (x.double() + self.kept_from).div(self.scale).to(x.dtype)

    def centred(self, x: Tensor) -> Tensor:
        """Return the columns centred and by their scale."""
        return x / self.scale - self.center / self.scale

    def mean(self) -> Tensor:
        """Return each column's mean in its own units, [D] float64 on the CPU."""
        center = self.center.detach().double().cpu()
        return center if self.kept_from is None else center + self.kept_from.cpu()

    def distance(self) -> Tensor:
        """Return the means of what `forward` returns, in SDs: [D] float64 on the CPU."""
        return self.mean() / self.scale.detach().double().cpu()


def one_width(given: tuple[int, ...] | None, default: int) -> int:
    """Return the width of a backbone's only hidden layer: as given, or the size's own."""
    if given is None:
        return default
    if len(given) != 1:
        raise ConfigError(
            f"hidden {given}: this backbone has one dense hidden layer, give one width"
        )
    return given[0]
