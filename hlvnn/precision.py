"""How exactly matrix products and convolutions are computed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

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
