"""Reading tables with one row per group."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor

_dense: ContextVar[bool] = ContextVar("dense", default=False)


def table_rows(table: Tensor, group: Tensor) -> Tensor:
    """Return the rows of the groups [B]: [B, P].

    The gradient is sparse, so that a step touches the groups of its batch only; inside
    `keeping_gradients_dense` it is an ordinary tensor.
    """
    return F.embedding(group, table, sparse=torch.is_grad_enabled() and not _dense.get())


def is_dense() -> bool:
    """Return whether a step has to be the same operations on the same memory every time."""
    return _dense.get()


@contextmanager
def keeping_gradients_dense() -> Iterator[None]:
    """Give tables gradients of fixed size, as a recorded step needs them, inside the block."""
    token = _dense.set(True)
    try:
        yield
    finally:
        _dense.reset(token)
