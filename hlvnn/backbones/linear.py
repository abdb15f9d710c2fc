"""One affine stage: with group latents, a (generalised) linear mixed model."""

from __future__ import annotations

import math

from torch import Tensor, nn

from hlvnn.backbones.base import Backbone, InputScale
from hlvnn.config import ModelConfig
from hlvnn.data.grouped import Rows, Schema
from hlvnn.stages import Enter, Stage, untouched


class Linear(Backbone):
    """η = W x + b. Stage: `output`.

    The matrix works on standardised columns and starts at 0.
    """

    x_kinds = frozenset({"features"})
    is_linear = True

    def __init__(
        self,
        num_inputs: int,
        num_outputs: int,
        columns: tuple[str, ...] | None,
        kept_from: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.input = InputScale(num_inputs, kept_from)
        self.output = nn.Linear(num_inputs, num_outputs)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)
        self.stages = {"output": Stage("output", "dense", num_inputs, num_outputs, inputs=columns)}

    def observe(self, rows: Rows) -> None:
        self.input.observe(rows)

    def forward(self, x: Tensor, enter: Enter = untouched) -> Tensor:
        return enter("output", self.input(x), self.output(self.design(x)))

    def design(self, x: Tensor) -> Tensor:
        """Return what the matrix is applied to: the columns [B, D], centred and scaled."""
        return self.input.centred(x)

    def columns_at_output(self) -> Tensor:
        return self.input.scale.detach().double().cpu()

    def offset(self, stage: str) -> Tensor:
        return self.input.distance()

    def fixed_effects(self) -> tuple[Tensor, Tensor]:
        weight = self.output.weight.detach().double().cpu()
        bias = self.output.bias.detach().double().cpu()
        slopes = weight / self.columns_at_output()
        return bias - slopes @ self.input.mean(), slopes


def build(config: ModelConfig, schema: Schema, num_outputs: int) -> Linear:
    """Build the backbone for a table."""
    return Linear(math.prod(schema.x_shape), num_outputs, schema.columns, schema.kept_from())
