"""Matrices of which some are known to be diagonal, and hold their diagonals alone."""

from __future__ import annotations

import torch
from torch import Tensor


def times(matrix: Tensor, values: Tensor) -> Tensor:
    """Return a symmetric matrix, [Z] where it is diagonal, times values [*, Z]."""
    return values * matrix if matrix.dim() == 1 else values @ matrix


def joined(parts: tuple[Tensor, ...]) -> Tensor:
    """Return the rows of all parts, of which there is mostly one."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def diagonal(matrix: Tensor, batch: int = 2) -> Tensor:
    """Return the diagonal of matrices, which are it themselves with `batch` axes."""
    return matrix if matrix.dim() == batch else matrix.diagonal(dim1=-2, dim2=-1)


def inverse_diagonal(covariance: Tensor) -> Tensor:
    """Return the diagonal of the inverses, [U, Z]."""
    if covariance.dim() == 2:
        return 1 / covariance
    return torch.linalg.inv_ex(covariance)[0].diagonal(dim1=1, dim2=2)


def trace(covariance: Tensor, precision: Tensor) -> Tensor:
    """Return the diagonal of covariance · precision, [U, Z]."""
    if covariance.dim() == 2 or precision.dim() == 1:
        return diagonal(covariance) * diagonal(precision, 1)
    return (covariance * precision).sum(-1)
