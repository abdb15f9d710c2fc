"""How exactly matrix products and convolutions are computed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Literal

import torch
from torch import Tensor

logger = logging.getLogger("hlvnn")

Precision = Literal["float32", "tf32", "bf16"]


@contextmanager
def multiplying_in(precision: Precision, device: torch.device) -> Iterator[None]:
    """Compute a network's products as said inside the block; all else stays float32.

    float32: as torch does by itself, which on a GPU has convolutions and LSTMs in TF32, 10 bits of
    mantissa; tf32: matrix products, too; bf16: all of them with 7 bits (torch's autocast).
    """
    if precision == "bf16":
        with torch.autocast(device.type, torch.bfloat16):
            yield
        return
    if precision == "float32":
        yield
        return
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


@contextmanager
def recurring(steps: Tensor) -> Iterator[Tensor]:
    """Hand an LSTM its input [T, B, D] as this machine computes one, inside the block.

    A CPU without AVX-512 has no LSTM in bf16: there it is computed in float32, told once.
    """
    lacking = (
        steps.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and not is_lstm_computed_in(torch.get_autocast_dtype("cpu"))
    )
    with torch.autocast("cpu", enabled=False) if lacking else nullcontext():
        yield steps.float() if lacking else steps


@cache
def is_lstm_computed_in(dtype: torch.dtype) -> bool:
    """Return whether this CPU computes an LSTM under autocast to a type; a small one is tried."""
    weights = [torch.zeros(*shape) for shape in ((4, 1), (4, 1), (4,), (4,))]
    state = [torch.zeros(1, 1, 1) for _ in range(2)]
    try:
        with torch.autocast("cpu", dtype):
            # arguments: has biases, layers, dropout, training, bidirectional, batch first
            torch.lstm(torch.zeros(1, 1, 1), state, weights, True, 1, 0.0, False, False, False)
    except RuntimeError:
        logger.warning(
            "--precision bf16: this CPU computes no LSTM in bf16 (it takes AVX-512); the LSTM "
            "layers are computed in float32, everything else as asked for"
        )
        return False
    return True
