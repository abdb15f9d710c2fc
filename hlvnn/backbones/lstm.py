"""Two LSTM layers over characters, and a dense layer."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from hlvnn.backbones.base import Backbone, dense_norm, one_width, per_row
from hlvnn.config import ModelConfig
from hlvnn.data.grouped import Schema
from hlvnn.errors import ConfigError
from hlvnn.stages import Enter, Stage, untouched

EMBEDDING = {"small": 64, "large": 128}
WIDTHS = {"small": (16, 16), "large": (256, 256)}
HIDDEN = {"small": 64, "large": 256}


class LSTM(Backbone):
    """embedding, LSTM, LSTM, dense on the last step.

    Stages: `embedding`, `lstm1`, `lstm2`, `hidden`, `output`.

    x: [B, T] int, 0..num_tokens-1. Dropout before and after the hidden layer.
    """

    x_kinds = frozenset({"tokens"})

    def __init__(
        self,
        num_tokens: int,
        num_outputs: int,
        embedding: int,
        lstm: tuple[int, ...],
        hidden: int,
        *,
        dropout: float = 0.0,
        norm: str = "none",
    ) -> None:
        super().__init__()
        if len(lstm) != 2:
            raise ConfigError(f"lstm {lstm}: there are two LSTM layers, give two widths")
        first, second = lstm
        self.embedding = nn.Embedding(num_tokens, embedding)
        self.lstm1 = nn.LSTM(embedding, first)
        self.lstm2 = nn.LSTM(first, second)
        self.hidden = nn.Linear(second, hidden)
        self.output = nn.Linear(hidden, num_outputs)
        self.norm = dense_norm(norm, hidden)
        self.dropout = nn.Dropout(dropout)
        self.stages = {
            "embedding": Stage("embedding", "embedding", num_tokens, embedding),
            "lstm1": Stage("lstm1", "rnn", embedding, first),
            "lstm2": Stage("lstm2", "rnn", first, second),
            "hidden": Stage("hidden", "dense", second, hidden),
            "output": Stage("output", "dense", hidden, num_outputs),
        }

    def forward(self, x: Tensor, enter: Enter = untouched) -> Tensor:
        steps = self.embedding(x.t().int())  # [T, B, embedding]: the fused kernels' own order
        steps, _ = self.lstm1(steps)
        steps, _ = self.lstm2(steps)
        h = self.dropout(steps[-1])
        h = F.relu(enter("hidden", h, per_row(self.norm, self.hidden(h), 1)))
        h = self.dropout(h)
        return enter("output", h, self.output(h))


def build(config: ModelConfig, schema: Schema, num_outputs: int) -> LSTM:
    """Build the backbone for windows of text."""
    size = config.model_size
    return LSTM(
        schema.num_tokens or 0,
        num_outputs,
        config.embedding or EMBEDDING[size],
        config.lstm or WIDTHS[size],
        one_width(config.hidden, HIDDEN[size]),
        dropout=config.dropout,
        norm=config.norm,
    )
