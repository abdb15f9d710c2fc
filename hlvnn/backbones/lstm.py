"""Two LSTM layers over characters, and a dense layer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hlvnn.backbones.base import Backbone, dense_norm, one_width, per_row
from hlvnn.config import ModelConfig
from hlvnn.data.grouped import Schema
from hlvnn.errors import ConfigError
from hlvnn.precision import recurring
from hlvnn.stages import Enter, Recurrence, Stage, untouched

EMBEDDING = {"small": 64, "large": 128}
WIDTHS = {"small": (16, 16), "large": (256, 256)}
HIDDEN = {"small": 64, "large": 256}


class LSTM(Backbone):
    """embedding, LSTM, LSTM, dense on the last step.

    Stages: `embedding`, `lstm1`, `lstm2`, `hidden`, `output`.

    x: [B, T] int, 0..num_tokens-1. Dropout before and after the hidden layer.
    """

    x_kinds = frozenset({"tokens"})
    settings = frozenset({"model_size", "embedding", "lstm", "hidden", "dropout", "norm"})

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
        embedded = enter("embedding", x, steps.transpose(0, 1))  # [B, T, …] or [S, B, T, …]
        lead = embedded.shape[:-2]  # [B] or [S, B]; steps are [T, B, …] or [T, S·B, …]
        steps = embedded.flatten(0, -3).transpose(0, 1)
        steps, lead = _recur(self.lstm1, steps, lead, enter.recurrence("lstm1"))
        steps, lead = _recur(self.lstm2, steps, lead, enter.recurrence("lstm2"))
        h = self.dropout(steps[-1].unflatten(0, lead))
        h = F.relu(enter("hidden", h, per_row(self.norm, self.hidden(h), 1)))
        h = self.dropout(h)
        return enter("output", h, self.output(h))


def _recur(
    lstm: nn.LSTM, steps: Tensor, lead: torch.Size, given: Recurrence
) -> tuple[Tensor, torch.Size]:
    """Run one layer over steps [T, rows, in], rows being `lead` ([B] or [S, B]) flattened.

    The fused kernels take no bias per row, so a latent widens the input of every step.
    """
    if not given:
        with recurring(steps) as steps:
            return lstm(steps)[0], lead
    parts = [z for z, _ in given.inputs] + ([] if given.state is None else [given.state])
    wide = torch.broadcast_shapes(lead, *(part.shape[:-1] for part in parts))  # [S, B]
    if wide != lead:
        steps = steps.unsqueeze(1).expand(-1, *wide, -1).flatten(1, 2)
    rows = steps.shape[1]
    constant = [z.flatten(0, 1).expand(len(steps), rows, -1) for z, _ in given.inputs]
    steps = torch.cat([steps, *constant], dim=-1)
    own, *others = lstm.all_weights[0]  # input to gates; state to gates, and both biases
    matrix = torch.cat([own, *(loading for _, loading in given.inputs)], dim=1)
    first = steps.new_zeros(2, 1, rows, lstm.hidden_size)
    if given.state is not None:
        h, c = given.state.flatten(0, 1).chunk(2, dim=-1)
        first = torch.stack([torch.tanh(h), c]).unsqueeze(1)
    weights = [matrix, *others]
    # arguments: has biases, layers, dropout, training, bidirectional, batch first
    with recurring(steps) as steps:
        state = list(first.to(steps.dtype))
        out = torch.lstm(steps, state, weights, True, 1, 0.0, lstm.training, False, False)
    return out[0], wide


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
