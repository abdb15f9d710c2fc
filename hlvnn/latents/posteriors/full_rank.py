"""Full-rank normal posterior."""

import torch
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal

from hlvnn.latents.covariance import Covariance
from hlvnn.latents.posteriors.base import LARGEST, Posterior, Sight
from hlvnn.latents.triangular import below, num_lower, root_of_inverse, scale_tril


class FullRank(Posterior):
    """q(z_g) = N(m_g, L_g L_gᵀ) with a Cholesky factor L_g of its own for each group.

    Parameters of a group: m [Z], log of L's diagonal [Z], L below the diagonal [Z(Z-1)/2], row by
    row.
    """

    normal = True
    natural = True
    linked = True
    full = True
    has_matrix = True

    @staticmethod
    def num_parameters(width: int) -> int:
        return 2 * width + num_lower(width)

    def start(self, width: int, scale: Tensor) -> Tensor:
        return torch.cat([torch.zeros(width), scale.log(), torch.zeros(num_lower(width))])

    def law(self, parameters: Tensor) -> Distribution:
        z = self.width
        mean, log_diagonal, lower = parameters.split([z, z, num_lower(z)], dim=-1)
        return MultivariateNormal(
            mean, scale_tril=scale_tril(log_diagonal, lower), validate_args=False
        )

    def natural_step(
        self, rows: Tensor, gradient: Tensor, sight: Sight, factor: float | Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the step −S ∇ and L's parameters, see `Posterior.natural_step`.

        With M = Lᵀ ∇_L, of which the lower half is known and which is symmetric, a natural step of
        the precision is L⁻ᵀ (I + M) L⁻¹. With a curvature it is its closed form, T⁻¹ + n H.
        """
        z = self.width
        tril = self._tril(rows)
        if sight.curvature is None:
            gradient = gradient / sight.weight  # q's precision is that of the loss over β
        of_mean, of_log_diagonal, of_lower = gradient.split([z, z, num_lower(z)], dim=-1)
        prior = sight.precision.diag() if sight.precision.dim() == 1 else sight.precision
        if sight.curvature is None:
            of_tril = scale_tril(torch.zeros_like(of_log_diagonal), of_lower)
            diagonal = of_log_diagonal / tril.diagonal(dim1=-2, dim2=-1)
            of_tril = of_tril - torch.eye(z, device=rows.device) + torch.diag_embed(diagonal)
            half = (tril.mT @ of_tril).tril()
            symmetric = half + half.tril(-1).mT
            eye = torch.eye(z, device=rows.device)
            new, info = root_of_inverse(eye + symmetric)
            new = torch.where((info == 0)[:, None, None], tril @ new, tril)
            direction = (new @ (new.mT @ of_mean.unsqueeze(-1))).squeeze(-1)
        else:
            if sight.stiffness is not None:
                prior = prior + sight.stiffness
            h = sight.curvature
            new, _ = root_of_inverse(prior + sight.rows.unsqueeze(-1) * h / sight.weight)
            gain, _ = root_of_inverse(sight.beta * prior + sight.seen.unsqueeze(-1) * h)
            direction = (gain @ (gain.mT @ of_mean.unsqueeze(-1))).squeeze(-1)
        most = LARGEST * new.square().sum(-1).sqrt()
        step = torch.maximum(torch.minimum(factor * direction, most), -most)
        return -step, torch.cat([new.diagonal(dim1=-2, dim2=-1).log(), below(new)], dim=-1)

    def covariance(self, rows: Tensor) -> Covariance:
        tril = self._tril(rows)
        return Covariance(tril @ tril.mT)

    def size_gradient(self, rows: Tensor, gradient: Tensor) -> Tensor:
        z = self.width
        lower = scale_tril(torch.zeros_like(rows[:, :z]), rows[:, 2 * z :] * gradient[:, 2 * z :])
        return gradient[:, z : 2 * z] + lower.sum(-1) - 1

    def in_size(self, rows: Tensor, size: Tensor) -> Tensor:
        z = self.width
        mean, log_diagonal, lower = rows.split([z, z, num_lower(z)], dim=-1)
        by_mean, by_sd = size.split(z)
        row = torch.tril_indices(z, z, offset=-1, device=rows.device)[0]
        return torch.cat([mean * by_mean, log_diagonal + by_sd.log(), lower * by_sd[row]], dim=-1)

    def _tril(self, rows: Tensor) -> Tensor:
        z = self.width
        return scale_tril(rows[:, z : 2 * z], rows[:, 2 * z :])
