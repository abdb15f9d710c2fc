"""Cholesky factors from unconstrained numbers."""

from functools import cache

import torch
from torch import Tensor


def num_lower(width: int) -> int:
    """Return the entries below the diagonal of a width × width matrix."""
    return width * (width - 1) // 2


@cache
def _lower_index(width: int, device: torch.device) -> Tensor:
    row, column = torch.tril_indices(width, width, offset=-1, device=device)
    return row * width + column


def scale_tril(log_diagonal: Tensor, lower: Tensor) -> Tensor:
    """Return L [*, Z, Z] from the log of its diagonal [*, Z] and what lies below it [*, Z(Z-1)/2].

    `lower` runs row by row.
    """
    width = log_diagonal.shape[-1]
    flat = torch.diag_embed(log_diagonal.exp()).flatten(-2)
    index = _lower_index(width, flat.device)
    return flat.index_copy(-1, index, lower).unflatten(-1, (width, width))
