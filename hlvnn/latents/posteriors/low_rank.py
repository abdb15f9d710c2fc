"""Low-rank normal posterior: mean field, and a few directions in which dimensions move together."""

import torch
from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
)

from hlvnn.errors import ConfigError
from hlvnn.latents.covariance import Along, Covariance, diagonal, leverage, times
from hlvnn.latents.divergence import divergence, inverse_factor, is_normal, kl_of_diagonal
from hlvnn.latents.normals import whiten
from hlvnn.latents.posteriors.base import LARGEST, MOST_WIDENED, Posterior, Sight

CORRELATED = 0.01
"""Largest share of a dimension's first variance that lies in U: U = 0 is a saddle of the ELBO."""
LEAST = 1e-4
"""Least square of a column of U over d, for the same reason."""
LEAST_OWN = 1e-3
"""Least share of 1/Λ_jj that d_j² keeps: where U explains all of a dimension, d would vanish, and
with it the units in which U is found."""
LEAST_BEND = 1e-6
"""Least of what q's precision is along a column of U, over that of diag(d²)."""
WIDEST = 256
"""Width up to which the curvature is known as a matrix; above it, by its diagonal alone, no
dimensions are found to move together."""
DEPTH = 5
"""Matrix powers that span the space in which U is found; a sixth may be rounding alone."""
TINY = 1e-20
"""Least length of what is made one long."""
SAFE = 1.9
"""Step of a gradient descent over the largest curvature; at 2 it would not come closer."""


class LowRank(Posterior):
    """q(z_g) = N(m_g, diag(d_g²) + U_g U_gᵀ), U_g: [Z, r]. For widths too large for `full_rank`.

    Parameters of a group: m [Z], log d [Z], U [Z·r], row by row. Raises `ConfigError` for a rank
    above the width.

    A natural step of the precision is Λ, which is not of this form: q is the nearest to N(m, Λ⁻¹)
    by its KL, at which d_j² = (Σ⁻¹)_jj d_j² / Λ_jj, Σ q's covariance, and U's columns are, over d,
    eigenvectors of D^½ Λ D^½ of least eigenvalues l, with squares 1/l − 1. Each step takes both
    once.
    """

    normal = True
    natural = True
    recordable = False
    options = ("posterior_rank",)

    def __init__(
        self, num_groups: int, width: int, scale: Tensor, *, posterior_rank: int = 1
    ) -> None:
        if posterior_rank > width:
            raise ConfigError(
                f"posterior_rank ({posterior_rank}): at most the latent's width ({width}); "
                "full_rank holds every covariance"
            )
        self.rank = posterior_rank
        self.has_matrix = width <= WIDEST
        super().__init__(num_groups, width, scale)

    @staticmethod
    def num_parameters(width: int, posterior_rank: int = 1) -> int:
        return (2 + posterior_rank) * width

    def start(self, width: int, scale: Tensor) -> Tensor:
        row, column = torch.arange(1.0, width + 1), torch.arange(1.0, self.rank + 1)
        pattern = torch.cos(torch.outer(row, column))  # no two entries, rows or columns alike
        spread = (CORRELATED / self.rank) ** 0.5 * scale[:, None] * pattern
        own = (scale.square() - spread.square().sum(1)).sqrt()
        return torch.cat([torch.zeros(width), own.log(), spread.flatten()])

    def law(self, parameters: Tensor) -> Distribution:
        z = self.width
        mean, log_own, spread = parameters.split([z, z, z * self.rank], dim=-1)
        return LowRankMultivariateNormal(
            mean,
            spread.unflatten(-1, (z, self.rank)),
            (2 * log_own).exp(),
            validate_args=False,
        )

    def natural_step(
        self, rows: Tensor, gradient: Tensor, sight: Sight, factor: float | Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the step −S ∇ and the other parameters, see `Posterior.natural_step`.

        By gradients Λ is known in its diagonal and along U: Σ⁻¹ plus ∇ in log d over d², and Σ⁻¹ U
        plus ∇ in U. With a curvature it is T⁻¹ + n H, and S that of the rows seen so far.
        """
        if sight.curvature is None:
            gradient = gradient / sight.weight  # q's precision is that of the loss over β
            own, columns = self._from_gradient(rows, gradient)
            of_mean = gradient[:, : self.width]
            along = (columns @ (columns.mT @ of_mean.unsqueeze(-1))).squeeze(-1)
            direction = own * of_mean + along
        else:
            own, columns = self._from_curvature(rows, sight, sight.curvature)
            direction = _solved(sight, sight.curvature, gradient[:, : self.width])
        most = LARGEST * Along(own, columns).variance().sqrt()
        step = torch.maximum(torch.minimum(factor * direction, most), -most)
        return -step, torch.cat([0.5 * own.log(), columns.flatten(1)], dim=-1)

    def _from_gradient(self, rows: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Return d² [U, Z] and U [U, Z, r] where Λ is known along U: columns turn by its residual.

        They are eigenvectors where they have none. A step is as long as the one of a gradient
        descent may be by Λ's trace.
        """
        own, columns = self._parts(rows)
        root = own.sqrt()
        lever, solved = leverage(columns / root.unsqueeze(-1))
        of_own, of_columns = gradient[:, self.width : 2 * self.width], self._columns(gradient)
        before = (1 - lever) / own
        bend = torch.maximum(before + of_own / own, (1 + MOST_WIDENED) * before)
        moved = solved / root.unsqueeze(-1) + of_columns  # Λ U
        own = (1 - lever).clamp(min=LEAST_OWN) / bend
        root = own.sqrt().unsqueeze(-1)
        scaled, moved = columns / root, moved * root
        length = scaled.norm(dim=-2, keepdim=True)
        basis, upper = torch.linalg.qr(scaled / length)
        moved = torch.linalg.solve_triangular(upper, moved / length, upper=True, left=False)
        bends, turn = _eigen(basis.mT @ moved)
        basis, moved = basis @ turn, moved @ turn
        residual = moved - basis * bends.unsqueeze(-2)
        rest = (own * bend).sum(-1, keepdim=True) - bends.sum(-1, keepdim=True) - bends
        # where the other eigenvalues are all 1 the first of these goes all the way
        length = torch.minimum(1 / (1 - bends).clamp(min=0.05), SAFE / rest.clamp(min=0.05))
        basis, upper = torch.linalg.qr(basis - residual * length.unsqueeze(-2))
        basis = basis * upper.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
        return own, root * _like(scaled, basis, bends)

    def _from_curvature(
        self, rows: Tensor, sight: Sight, curvature: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the same of Λ = T⁻¹ + n H / β, once for all groups with as many rows."""
        numbers, inverse = sight.rows.squeeze(1).unique(return_inverse=True)
        index = torch.arange(len(rows), device=rows.device)
        index = index + len(rows) * (sight.share.squeeze(1) == 0)  # of groups in the batch first
        first = torch.full_like(numbers, 2 * len(rows), dtype=torch.int64)
        first = first.scatter_reduce(0, inverse, index, "amin") % len(rows)
        n = (numbers / sight.weight).unsqueeze(-1)
        own, columns = self._parts(rows[first])
        lever, _ = leverage(columns / own.sqrt().unsqueeze(-1))
        bend = diagonal(sight.precision, 1) + n * diagonal(curvature, 1)
        kept = (1 - lever).clamp(min=LEAST_OWN)
        own = kept / bend
        root = own.sqrt().unsqueeze(-1)
        by_prior, by_data = _beside(sight.precision), _beside(curvature)

        def moved(vectors: Tensor) -> Tensor:  # (D^½ Λ D^½ − I) times vectors, [V, Z, *]
            turned = (root * vectors).mT
            turned = times(by_prior, turned) + n.unsqueeze(-1) * times(by_data, turned)
            return root * turned.mT + (kept - 1).unsqueeze(-1) * vectors

        scaled = columns / root
        powers = [_unit(scaled)]
        while len(powers) < DEPTH and len(powers) * self.rank < self.width:
            powers.append(_unit(moved(powers[-1])))
        space, _ = torch.linalg.qr(torch.cat(powers, dim=-1))
        bends, turn = _eigen(space.mT @ moved(space))
        basis, bends = space @ turn[..., : self.rank], 1 + bends[..., : self.rank]
        columns = root * _like(scaled, basis, bends)
        return own[inverse], columns[inverse]

    def _columns(self, rows: Tensor) -> Tensor:
        return rows[:, 2 * self.width :].unflatten(1, (self.width, self.rank))

    def _parts(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return d² [U, Z] and U [U, Z, r]."""
        return (2 * rows[:, self.width : 2 * self.width]).exp(), self._columns(rows)

    def covariance(self, rows: Tensor) -> Covariance:
        return Along(*self._parts(rows))

    def size_gradient(self, rows: Tensor, gradient: Tensor) -> Tensor:
        of_columns = (self._columns(rows) * self._columns(gradient)).sum(-1)
        return gradient[:, self.width : 2 * self.width] + of_columns

    def in_size(self, rows: Tensor, size: Tensor) -> Tensor:
        z = self.width
        mean, log_own, columns = rows.split([z, z, z * self.rank], dim=-1)
        by_mean, by_sd = size.split(z)
        columns = columns * by_sd.repeat_interleave(self.rank)
        return torch.cat([mean * by_mean, log_own + by_sd.log(), columns], dim=-1)

    def kl(self, q: Distribution, p: Distribution) -> Tensor:
        """Return KL(N(m, D + U Uᵀ) ‖ p): what N(m, D) pays, and what U changes.

        With T the prior's covariance U adds ½ tr T⁻¹U Uᵀ and takes ½ ln|I + UᵀD⁻¹U|, the matrix
        determinant lemma; no row has a matrix of size Z × Z.
        """
        assert isinstance(q, LowRankMultivariateNormal)
        if not is_normal(p):
            return divergence(q, p)
        own = q.cov_diag.sqrt()
        diagonal = Independent(Normal(q.mean, own, validate_args=False), 1, validate_args=False)
        if isinstance(
            p, MultivariateNormal
        ):  # solving with its factor would copy that for each row
            whitened = inverse_factor(p) @ q.cov_factor
        else:
            whitened = whiten(p, q.cov_factor)
        added = whitened.square().sum((-1, -2))
        scaled = q.cov_factor / own.unsqueeze(-1)
        eye = torch.eye(scaled.shape[-1], dtype=scaled.dtype, device=scaled.device)
        tril = torch.linalg.cholesky(eye + scaled.mT @ scaled)
        log_det = 2 * tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return kl_of_diagonal(diagonal, p) + 0.5 * (added - log_det)

    def factor(self, q: Distribution, group: Tensor) -> Tensor:
        """Return [diag(d), U] (K = Z + r), without a Cholesky factorisation."""
        assert isinstance(q, LowRankMultivariateNormal)
        own = torch.diag_embed(q.cov_diag.sqrt())
        return torch.cat([own, q.cov_factor], dim=-1)


def _unit(columns: Tensor) -> Tensor:
    return columns / columns.norm(dim=-2, keepdim=True).clamp(min=TINY)


def _beside(matrix: Tensor) -> Tensor:
    """Return what of a symmetric matrix is not its diagonal, as it is, [Z] or [Z, Z]."""
    return matrix * 0 if matrix.dim() == 1 else matrix - matrix.diagonal().diag()


def _eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return a matrix' eigenvalues, the least first, and vectors; of what is not finite, nothing's.

    What is not finite is told of by the loss.
    """
    return torch.linalg.eigh(torch.nan_to_num(0.5 * (matrix + matrix.mT), posinf=0, neginf=0))


def _like(before: Tensor, basis: Tensor, bends: Tensor) -> Tensor:
    """Return columns over d [*, Z, r] by their directions and bends l, turned to be like `before`.

    Any rotation of them is the same law; laws between two are between them if they are alike.
    """
    square = (1 / bends.clamp(min=LEAST_BEND) - 1).clamp(min=LEAST)
    columns = basis * square.sqrt().unsqueeze(-2)
    left, _, right = torch.linalg.svd(torch.nan_to_num(columns.mT @ before, posinf=0, neginf=0))
    return columns @ (left @ right)


def _solved(sight: Sight, curvature: Tensor, gradient: Tensor) -> Tensor:
    """Return (β T⁻¹ + n H)⁻¹ times the groups' gradients [U, Z], n the rows seen so far."""
    precision = sight.precision
    if precision.dim() == curvature.dim() == 1:
        return gradient / (sight.beta * precision + sight.seen * curvature)
    # T⁻¹ = L Lᵀ; in L⁻¹ H L⁻ᵀ's eigenvectors the matrices of all groups are diagonal
    if precision.dim() == 1:
        inverse = precision.rsqrt().diag()
    else:
        eye = torch.eye(len(precision), dtype=precision.dtype, device=precision.device)
        lower = torch.linalg.cholesky_ex(precision)[0]
        inverse = torch.linalg.solve_triangular(lower, eye, upper=False)
    bends, turn = _eigen(inverse @ times(curvature, inverse).mT)
    basis = inverse.mT @ turn
    scale = sight.beta + sight.seen * bends.clamp(min=0)
    return (gradient @ basis / scale) @ basis.mT
