"""Dense layers on a table's columns."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from hlvnn.backbones.base import Backbone, InputScale, dense_norm, per_row
from hlvnn.config import ModelConfig
from hlvnn.data.grouped import Rows, Schema
from hlvnn.stages import Enter, Stage, untouched

HIDDEN = {"small": (64, 64), "large": (256, 256)}


class MLP(Backbone):
    """ReLU layers. Stages: `hidden1`, `hidden2`, …, `output`.

    Inputs are standardised; dropout follows each hidden layer.
    """

    x_kinds = frozenset({"features", "image"})

    def __init__(
        self,
        num_inputs: int,
        num_outputs: int,
        hidden: tuple[int, ...],
        *,
        dropout: float = 0.0,
        norm: str = "none",
        columns: tuple[str, ...] | None = None,
    ) -> None:
        super().__init__()
        self.input = InputScale(num_inputs)
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
        self.layers["output"] = nn.Linear(width, num_outputs)
        self.norms["output"] = nn.Identity()
        self.stages["output"] = Stage("output", "dense", width, num_outputs)

    def observe(self, rows: Rows) -> None:
        self.input.observe(rows)

    def forward(self, x: Tensor, enter: Enter = untouched) -> Tensor:
        h = self.input(x.flatten(1))
        offset: Tensor | None = self.input.offset()
        for name, layer in self.layers.items():
            pre = layer(h if offset is None else h - offset)
            pre = per_row(self.norms[name], pre, 1)
            pre = enter(name, h, pre)
            offset = None
            h = pre if name == "output" else self.dropout(F.relu(pre))
        return h


def build(config: ModelConfig, schema: Schema, num_outputs: int) -> MLP:
    """Build the backbone for a table (or flattened images)."""
    return MLP(
        math.prod(schema.x_shape),
        num_outputs,
        config.hidden or HIDDEN[config.model_size],
        dropout=config.dropout,
        norm=config.norm,
        columns=schema.columns,
    )
