"""Two convolutions and a dense layer, for images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hlvnn.backbones.base import Backbone, dense_norm, one_width, per_row
from hlvnn.config import ModelConfig
from hlvnn.data.grouped import Schema
from hlvnn.errors import ConfigError
from hlvnn.stages import Enter, Stage, untouched

CHANNELS = {"small": (16, 32), "large": (32, 64)}
KERNEL = {"small": 3, "large": 5}
HIDDEN = {"small": 256, "large": 2048}


class CNN(Backbone):
    """conv, pool 2, conv, pool 2, dense. Stages: `conv1`, `conv2`, `hidden`, `output`.

    x: [B, H, W] or [B, C, H, W], bytes (scaled to 0..1) or floats. "same" padding, ReLU; dropout
    before and after the hidden layer. Convolutions run channels last.
    """

    x_kinds = frozenset({"image"})
    settings = frozenset({"model_size", "channels", "kernel_size", "hidden", "dropout", "norm"})

    def __init__(
        self,
        x_shape: tuple[int, ...],
        num_outputs: int,
        channels: tuple[int, ...],
        kernel_size: int,
        hidden: int,
        *,
        dropout: float = 0.0,
        norm: str = "none",
    ) -> None:
        super().__init__()
        inputs = x_shape[0] if len(x_shape) == 3 else 1
        height, width = x_shape[-2:]
        if min(height, width) < 4:
            raise ConfigError(
                f"backbone cnn needs images of at least 4×4 pixels, got {height}×{width}"
            )
        if len(channels) != 2:
            raise ConfigError(
                f"channels {channels}: the CNN has two convolutions, give two numbers"
            )
        first, second = channels
        flat = second * (height // 4) * (width // 4)
        self.conv1 = nn.Conv2d(inputs, first, kernel_size, padding="same")
        self.conv2 = nn.Conv2d(first, second, kernel_size, padding="same")
        self.hidden = nn.Linear(flat, hidden)
        self.output = nn.Linear(hidden, num_outputs)
        self.norm1, self.norm2 = (_conv_norm(norm, size) for size in channels)
        self.norm3 = dense_norm(norm, hidden)
        self.dropout = nn.Dropout(dropout)
        self.stages = {
            "conv1": Stage("conv1", "conv", inputs, first, kernel_size),
            "conv2": Stage("conv2", "conv", first, second, kernel_size),
            "hidden": Stage("hidden", "dense", flat, hidden),
            "output": Stage("output", "dense", hidden, num_outputs),
        }
        for parameter in self.parameters():
            if parameter.dim() == 4:
                # a copy: with one input channel `contiguous` would leave the strides as they are,
                # and the whole network would run channels first
                last = torch.empty_like(parameter, memory_format=torch.channels_last)
                parameter.data = last.copy_(parameter.data).detach()

    def forward(self, x: Tensor, enter: Enter = untouched) -> Tensor:
        h = x.unsqueeze(1) if x.dim() == 3 else x
        h = h.float() / 255 if h.dtype == torch.uint8 else h
        h = h.contiguous(memory_format=torch.channels_last)
        h = self._convolve("conv1", self.conv1, self.norm1, h, enter)
        h = self._convolve("conv2", self.conv2, self.norm2, h, enter)
        h = self.dropout(h.flatten(-3))
        h = F.relu(enter("hidden", h, per_row(self.norm3, self.hidden(h), 1)))
        h = self.dropout(h)
        return enter("output", h, self.output(h))

    def _convolve(
        self, name: str, conv: nn.Module, norm: nn.Module, h: Tensor, enter: Enter
    ) -> Tensor:
        pre = enter(name, h, per_row(lambda rows: norm(conv(rows)), h, 3))
        # the maximum first: ReLU keeps order, so the result is the same, and costs a quarter
        return per_row(lambda rows: F.relu(F.max_pool2d(rows, 2)), pre, 3)


def _conv_norm(norm: str, channels: int) -> nn.Module:
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(1, channels) if norm == "layer" else nn.Identity()


def build(config: ModelConfig, schema: Schema, num_outputs: int) -> CNN:
    """Build the backbone for images; rows of a square number of columns are read as images."""
    size = config.model_size
    return CNN(
        schema.x_shape,
        num_outputs,
        config.channels or CHANNELS[size],
        config.kernel_size or KERNEL[size],
        one_width(config.hidden, HIDDEN[size]),
        dropout=config.dropout,
        norm=config.norm,
    )
