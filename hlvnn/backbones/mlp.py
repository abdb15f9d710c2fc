"""Dense layers on a table's columns."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hlvnn.backbones.base import Backbone, InputScale, dense_norm, per_row
from hlvnn.config import ModelConfig
from hlvnn.data.grouped import Rows, Schema
from hlvnn.stages import Enter, Stage, untouched

HIDDEN = {"small": (64, 64), "large": (256, 256)}


class MLP(Backbone):
    """ReLU layers. Stages: `hidden1`, `hidden2`, …, `output`.

    Inputs are standardised; dropout follows each hidden layer. With `skip` the output stage sees
    the columns too, after the last hidden layer's units: a linear part beside the network, whose
    weights can deviate by group column by column (`weights@output:columns=…`: random slopes).
    """

    x_kinds = frozenset({"features", "image"})
    settings = frozenset({"model_size", "hidden", "dropout", "norm", "skip"})

    def __init__(
        self,
        num_inputs: int,
        num_outputs: int,
        hidden: tuple[int, ...],
        *,
        dropout: float = 0.0,
        norm: str = "none",
        skip: bool = False,
        columns: tuple[str, ...] | None = None,
        kept_from: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.input = InputScale(num_inputs, kept_from)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleDict()
        self.norms = nn.ModuleDict()
        self.stages = {}
        width = num_inputs
        for number, size in enumerate(hidden, start=1):
            name = f"hidden{number}"
            self.layers[name] = nn.Linear(width, size)
            self.norms[name] = dense_norm(norm, size)
            self.stages[name] = Stage(
                name, "dense", width, size, inputs=columns if number == 1 else None
            )
            width = size
        self.skip = skip
        inputs = None
        if skip:
            units = tuple(f"hidden{len(hidden)}[{unit}]" for unit in range(1, width + 1))
            inputs = units + columns if columns is not None else None
            width += num_inputs
        self.layers["output"] = nn.Linear(width, num_outputs)
        self.norms["output"] = nn.Identity()
        self.stages["output"] = Stage("output", "dense", width, num_outputs, inputs=inputs)

    def observe(self, rows: Rows) -> None:
        self.input.observe(rows)

    def forward(self, x: Tensor, enter: Enter = untouched) -> Tensor:
        scaled = self.input(x.flatten(1))
        centred = self.input.centred(x.flatten(1))
        h, seen = scaled, centred  # what latents see of a stage's input, and what its matrix sees
        for name, layer in self.layers.items():
            if name == "output" and self.skip:
                h, seen = _beside(seen, scaled), _beside(seen, centred)
            pre = enter(name, h, per_row(self.norms[name], layer(seen), 1))
            h = seen = pre if name == "output" else self.dropout(F.relu(pre))
        return h

    def offset(self, stage: str) -> Tensor | None:
        first = next(iter(self.layers))
        if stage == first:
            return self.input.distance()
        if stage == "output" and self.skip:
            units = self.stages[stage].in_features - len(self.input.scale)
            return F.pad(self.input.distance(), (units, 0))
        return None

    def columns_at_output(self) -> Tensor | None:
        return self.input.scale.detach().double().cpu() if self.skip else None


def _beside(h: Tensor, x: Tensor) -> Tensor:
    """Return [h, x] by columns, h: [B, …] or [S, B, …], x: [B, D]."""
    return torch.cat([h, x.expand(*h.shape[:-1], -1)], dim=-1)


def build(config: ModelConfig, schema: Schema, num_outputs: int) -> MLP:
    """Build the backbone for a table (or flattened images)."""
    return MLP(
        math.prod(schema.x_shape),
        num_outputs,
        config.hidden or HIDDEN[config.model_size],
        dropout=config.dropout,
        norm=config.norm,
        skip=config.skip,
        columns=schema.columns,
        kept_from=schema.kept_from(),
    )
