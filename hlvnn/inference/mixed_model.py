"""A linear mixed model's marginal likelihood, with its gradient, and the law of its latents.

With Λ the Cholesky factors of the latents' covariances over the noise's SD σ, u = σ Λ b, and
A = Λᵀ Zᵀ Z Λ + I, fixed effects and noise at their best,

    −2 log p(y) = log |A| + n (1 + log(2π r²/n)),    r² = min over β, b of |y − X β − Z Λ b|² + |b|²

(Bates, Mächler, Bolker and Walker 2015). The largest level's groups are eliminated one by one; of
the others one dense Cholesky factor is taken. By the gradient d = 2 Λ⁻ᵀ (G − Σ_g E[b bᵀ]/σ²) it is
the fixed point of EM.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hlvnn.inference.row_sums import RowSums
from hlvnn.latents.exact_law import AT_ONCE, ExactLaw

if TYPE_CHECKING:
    from scipy import sparse  # an eighth of all that is imported at a start, for exact fits alone

DENSE = 0.1
"""Share of entries that are not 0 from which products are taken of whole matrices."""
NO_COLUMN = 1e-11
"""Eigenvalue of the fixed effects' columns, as a share of the largest, below which it is 0."""


class System:
    """The penalised least squares of a mixed model at given covariances.

    factors: by level Λ [W, W], lower triangular, positive on its diagonal. untold: by level the
    mean share [W] of b's prior variance that the rows leave, known once `gradients` were asked for.
    """

    def __init__(self, sums: RowSums, factors: Mapping[int, Tensor]) -> None:
        self.sums, self.factors = sums, factors
        self.untold: dict[int, Tensor] = {}
        mine = factors[sums.largest]
        eye = torch.eye(len(mine), dtype=mine.dtype)
        self.own = _cholesky(mine.T @ sums.own @ mine + eye)  # [G, W, W]
        self.whiten = _solve(self.own, mine.T.expand_as(self.own))  # own⁻¹ Λᵀ
        self.fixed = self.whiten @ sums.own_fixed  # [G, W, F]
        self.of = sums.group_of
        self.meetings = (self.whiten[self.of] @ sums.meetings.unsqueeze(-1)).squeeze(-1)
        matrices = self.matrices(self.meetings)
        rest, rest_fixed = sums.rest.clone(), sums.rest_fixed.clone()
        for place, matrix in enumerate(matrices):
            rest -= _gram(matrix, matrix)
            rest_fixed -= torch.from_numpy(matrix.T @ self.fixed[:, place].numpy())
        flat = self.fixed.flatten(0, 1)
        left = sums.fixed - flat.T @ flat
        scaled = self.scale(self.scale(rest).T)
        scaled.diagonal().add_(1)
        self.root = torch.linalg.cholesky(scaled)
        self.solved = _solve(self.root, self.scale(rest_fixed))  # [R, F]
        self.left = left - self.solved.T @ self.solved
        self.log_det = 2 * float(
            self.own.diagonal(dim1=-2, dim2=-1).log().sum() + self.root.diagonal().log().sum()
        )

    def matrices(self, values: Tensor) -> list[sparse.csr_array]:
        """Return a sparse [G, R] for each of the largest level's coordinates of values [M, W]."""
        from scipy import sparse

        shape = (len(self.own), len(self.sums.rest))
        index = self.sums.column.numpy(), self.sums.first.numpy()
        parts = values.T.contiguous().numpy()
        return [sparse.csr_array((part, *index), shape=shape) for part in parts] if shape[1] else []

    def scale(self, rows: Tensor) -> Tensor:
        """Return Λᵀ · rows [R, *] of the levels but the largest."""
        return self._times(rows, transposed=True)

    def unscale(self, rows: Tensor) -> Tensor:
        """Return Λ · rows [R, *]."""
        return self._times(rows, transposed=False)

    def _times(self, rows: Tensor, *, transposed: bool) -> Tensor:
        result = torch.empty_like(rows)
        for level, at in self.levels():
            factor = self.factors[level].T if transposed else self.factors[level]
            if len(factor) == 1:
                torch.mul(rows[at], factor[0, 0], out=result[at])
            else:
                part = rows[at].unflatten(0, (-1, len(factor)))  # [G, W, *]
                result[at] = (factor @ part).flatten(0, 1)
        return result

    def levels(self) -> list[tuple[int, slice]]:
        """Return the levels but the largest, each with where its coordinates are among the rest."""
        found, begin = [], 0
        for level, width in self.sums.layout.widths.items():
            if level != self.sums.largest:
                end = begin + width * self.sums.sizes[level]
                found.append((level, slice(begin, end)))
                begin = end
        return found

    def effects(self) -> tuple[Tensor, float]:
        """Return the best fixed effects [F − 1] and σ²; of columns that say the same, the least."""
        gram, right = self.left[:-1, :-1], self.left[:-1, -1]
        values, vectors = torch.linalg.eigh(gram)
        kept = values > NO_COLUMN * values.max().clamp(min=0)
        inverse = torch.where(kept, 1 / torch.where(kept, values, 1.0), 0.0)
        beta = vectors @ (inverse * (vectors.T @ right))
        return beta, self.squares(beta) / self.sums.number

    def squares(self, beta: Tensor) -> float:
        """Return the least |y − X β − Z Λ b|² + |b|² over b, at least rounding's."""
        whole = torch.cat([-beta, torch.ones(1, dtype=beta.dtype)])
        least = 1e-15 * float(self.sums.fixed[-1, -1]) + 1e-24 * self.sums.number
        return max(float(whole @ self.left @ whole), least)

    def modes(self, beta: Tensor) -> tuple[Tensor, Tensor]:
        """Return b at fixed effects β: of the rest [R], and of the largest level [G, W]."""
        whole = torch.cat([-beta, torch.ones(1, dtype=beta.dtype)])
        rest = _solve_transposed(self.root, (self.solved @ whole)[:, None]).squeeze(-1)
        told = self.fixed @ whole  # [G, W]
        u = self.unscale(rest[:, None]).squeeze(-1).numpy()
        for place, matrix in enumerate(self.matrices(self.meetings)):
            told[:, place] -= torch.from_numpy(matrix @ u)
        return rest, _solve_transposed(self.own, told.unsqueeze(-1)).squeeze(-1)

    def criterion(self, beta: Tensor | None = None, variance: float | None = None) -> float:
        """Return −2 log p(y) of the standardised target, at its best where not said otherwise."""
        n = self.sums.number
        if beta is None or variance is None:
            return self.log_det + n * (1 + math.log(2 * math.pi * self.effects()[1]))
        return self.log_det + n * math.log(2 * math.pi * variance) + self.squares(beta) / variance

    def gradients(self) -> dict[int, Tensor]:
        """Return the derivatives of the criterion by each level's Λ, [W, W]."""
        beta, variance = self.effects()
        rest, mine = self.modes(beta)
        result = {}
        inverse = torch.cholesky_inverse(self.root) if len(self.root) else self.root
        for level, at in self.levels():
            width = len(self.factors[level])
            number = self.sums.sizes[level]
            index = torch.arange(at.start, at.stop).view(number, width)
            b = rest[index]
            moment = inverse[index[:, :, None], index[:, None, :]].sum(0)
            self.untold[level] = moment.diagonal() / number
            moment = moment + b.T @ b / variance
            result[level] = self._gradient(level, number, moment)
        told = torch.cholesky_inverse(self.own).sum(0)
        if len(self.root):
            u_inverse = self.unscale(self.unscale(inverse).T)
            back = _solve_transposed(self.own[self.of], self.meetings.unsqueeze(-1)).squeeze(-1)
            matrices = self.matrices(back)
            for i, one in enumerate(matrices):
                for j, other in enumerate(matrices[: i + 1]):
                    told[i, j] += float((_gram(one, other) * u_inverse).sum())
                    told[j, i] = told[i, j]
        self.untold[self.sums.largest] = told.diagonal() / len(self.own)
        told = told + mine.T @ mine / variance
        result[self.sums.largest] = self._gradient(self.sums.largest, len(self.own), told)
        return result

    def _gradient(self, level: int, number: int, moment: Tensor) -> Tensor:
        eye = torch.eye(len(moment), dtype=moment.dtype)
        return 2 * _solve_transposed(self.factors[level], number * eye - moment)

    def law(self, beta: Tensor, variance: float) -> ExactLaw:
        """Return the law of u given the rows, at fixed effects β and σ²."""
        sums, sd = self.sums, math.sqrt(variance)
        rest, mine = self.modes(beta)
        parts: dict[str, Tensor] = {}
        eye = torch.eye(len(self.root), dtype=self.root.dtype)
        root = sd * self.unscale(_solve_transposed(self.root, eye))
        covariance = root @ root.mT
        u_rest = self.unscale(rest[:, None]).squeeze(-1)
        for level, at in self.levels():
            width, number = len(self.factors[level]), sums.sizes[level]
            index = torch.arange(at.start, at.stop).view(number, width)
            diagonal = self.factors[level].diagonal().log() + math.log(sd)
            parts[f"mean_{level}"] = u_rest[index]
            parts[f"variance_{level}"] = covariance[index[:, :, None], index[:, None, :]]
            parts[f"log_det_{level}"] = diagonal - self.root.diagonal().log()[index]
            parts[f"place_{level}"] = sums.place[level]
        own = sd * self.whiten.mT
        share = -(self.whiten[self.of].mT @ self.meetings.unsqueeze(-1)).squeeze(-1)
        diagonal = self.factors[sums.largest].diagonal().log() + math.log(sd)
        level = sums.largest
        parts[f"mean_{level}"] = mine @ self.factors[level].T
        parts[f"variance_{level}"] = own @ own.mT + self._spread(share, covariance)
        parts[f"log_det_{level}"] = diagonal - self.own.diagonal(dim1=-2, dim2=-1).log()
        parts[f"place_{level}"] = sums.place[level]
        parts |= {"root": root, "own": own, "share": share}
        return ExactLaw(parts | {"first": sums.first, "column": sums.column})

    def _spread(self, share: Tensor, covariance: Tensor) -> Tensor:
        """Return B_g Cov(u_rest) B_gᵀ of the largest level's groups, [G, W, W]."""
        number, width = self.own.shape[:2]
        result = torch.zeros(number * width, width, dtype=share.dtype)
        matrices = self.matrices(share)
        if not matrices:
            return result.view(number, width, width)
        dense, first = covariance.numpy(), self.sums.first
        for chunk in torch.arange(number).split(max(1, AT_ONCE // len(covariance))):
            begin, end = int(chunk[0]), int(chunk[-1]) + 1
            entry = slice(int(first[begin]), int(first[end]))
            row, column = self.of[entry], self.sums.column[entry]
            for place, matrix in enumerate(matrices):
                there = torch.from_numpy(matrix[begin:end] @ dense)[row - begin, column]
                result.index_add_(0, row * width + place, there[:, None] * share[entry])
        return result.view(number, width, width)


def _gram(one: sparse.csr_array, other: sparse.csr_array) -> Tensor:
    """Return oneᵀ · other, [R, R], of matrices with the same entries."""
    number, columns = one.shape
    if one.nnz < DENSE * number * columns:
        return torch.from_numpy((one.T @ other).toarray())
    total = torch.zeros(columns, columns, dtype=torch.float64)
    size = max(1, AT_ONCE // columns)
    for begin in range(0, number, size):
        parts = [torch.from_numpy(m[begin : begin + size].toarray()) for m in (one, other)]
        total += parts[0].T @ parts[1]
    return total


def _cholesky(matrix: Tensor) -> Tensor:
    return matrix.sqrt() if matrix.shape[-1] == 1 else torch.linalg.cholesky(matrix)


def _solve(lower: Tensor, right: Tensor) -> Tensor:
    if lower.shape[-1] == 1:
        return right / lower
    return torch.linalg.solve_triangular(lower, right, upper=False)


def _solve_transposed(lower: Tensor, right: Tensor) -> Tensor:
    if lower.shape[-1] == 1:
        return right / lower
    return torch.linalg.solve_triangular(lower.mT, right, upper=True)
