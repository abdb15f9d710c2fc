"""How many rows are computed at a time where that decides speed and memory, and nothing else."""

from __future__ import annotations

import torch

from hlvnn.data.grouped import Split
from hlvnn.models.model import HierarchicalModel

ROWS_AT_ONCE = 16384
"""Rows × draws on a CPU at most …"""
ROWS_AT_ONCE_GPU = 65536
"""… and on a GPU, which fewer rows would not fill."""
BYTES_AT_ONCE = 8 << 20
"""Size of the largest activation on a CPU: it stays in the cache, and the C library keeps memory
for tensors below 32 MB, where that of larger ones comes from the system anew, page by page. (As
measured, the small CNN is 2.3 times as fast with 256 rows as with 16,384, the LSTM 1.4.)"""


@torch.no_grad()
def rows_at_once(model: HierarchicalModel, rows: Split, draws: int) -> int:
    """Return how many rows a model in evaluation mode should compute at a time, `draws` of z each.

    A row's largest activation is looked up by sending the first one through.
    """
    if model.device.type == "cuda":
        return max(1, ROWS_AT_ONCE_GPU // draws)
    most = ROWS_AT_ONCE // draws
    if len(rows):
        size = model.bytes_a_row(rows.x.take(torch.zeros(1, dtype=torch.int64)), draws)
        most = min(most, BYTES_AT_ONCE // size)
    return max(1, most)
