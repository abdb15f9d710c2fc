"""Covariances of groups' laws in whatever form they are held, as the groups' steps ask for them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def times(matrix: Tensor, values: Tensor) -> Tensor:
    """Return a symmetric matrix, [Z] where it is diagonal, times values [*, Z]."""
    return values * matrix if matrix.dim() == 1 else values @ matrix


def diagonal(matrix: Tensor, batch: int = 2) -> Tensor:
    """Return the diagonal of matrices, which are it themselves with `batch` axes."""
    return matrix if matrix.dim() == batch else matrix.diagonal(dim1=-2, dim2=-1)


@dataclass(frozen=True)
class Covariance:
    """Covariances by their values: [U, Z] where they are diagonal, else [U, Z, Z]."""

    values: Tensor

    def variance(self) -> Tensor:
        """Return the diagonal, [U, Z]."""
        return diagonal(self.values)

    def precision(self) -> Tensor:
        """Return the diagonal of the inverse, [U, Z]."""
        if self.values.dim() == 2:
            return 1 / self.values
        return torch.linalg.inv_ex(self.values)[0].diagonal(dim1=1, dim2=2)

    def trace(self, precision: Tensor) -> Tensor:
        """Return the diagonal of the covariance times a precision, [Z] or [Z, Z]: [U, Z]."""
        if self.values.dim() == 2 or precision.dim() == 1:
            return self.variance() * diagonal(precision, 1)
        return (self.values * precision).sum(-1)


@dataclass(frozen=True)
class Along(Covariance):
    """diag(own) + U Uᵀ, by own, the `values` [U, Z], and the columns U [U, Z, r]."""

    columns: Tensor

    def variance(self) -> Tensor:
        return self.values + self.columns.square().sum(-1)

    def precision(self) -> Tensor:
        return (1 - leverage(self.columns / self.values.sqrt().unsqueeze(-1))[0]) / self.values

    def trace(self, precision: Tensor) -> Tensor:
        moved = times(precision, self.columns.mT).mT
        return self.values * diagonal(precision, 1) + (self.columns * moved).sum(-1)


@dataclass(frozen=True)
class Within(Covariance):
    """Those of mixtures: the variances within parts, the `values`, and √w_k (m_k − m) [U, K, Z]."""

    between: Tensor

    def variance(self) -> Tensor:
        return self.values + self.between.square().sum(1)

    def precision(self) -> Tensor:
        """Return that of a part, [U, Z]."""
        return 1 / self.values

    def trace(self, precision: Tensor) -> Tensor:
        along = (self.between * times(precision, self.between)).sum(1)
        return self.values * diagonal(precision, 1) + along


def leverage(columns: Tensor) -> tuple[Tensor, Tensor]:
    """Return the diagonal [*, Z] of B (I + BᵀB)⁻¹ Bᵀ, and B (I + BᵀB)⁻¹, of columns B [*, Z, r]."""
    eye = torch.eye(columns.shape[-1], dtype=columns.dtype, device=columns.device)
    solved = torch.linalg.solve_ex(eye + columns.mT @ columns, columns.mT)[0].mT
    return (columns * solved).sum(-1), solved
