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


def below(tril: Tensor) -> Tensor:
    """Return what lies below the diagonal of matrices [*, Z, Z], row by row: [*, Z(Z-1)/2]."""
    width = tril.shape[-1]
    return tril.flatten(-2).index_select(-1, _lower_index(width, tril.device))


def root_of_inverse(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return L [*, Z, Z], lower triangular, with L Lᵀ the inverse of positive definite matrices.

    Beside it 0 [*], or another number where a matrix is not positive definite, and L nothing. It
    does not wait for a GPU.
    """
    tril, info = torch.linalg.cholesky_ex(matrix.flip(-2, -1))
    upper = tril.flip(-2, -1)  # matrix = upper · upperᵀ
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    return torch.linalg.solve_triangular(upper, eye.expand_as(upper), upper=True).mT, info
