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
from hlvnn.latents.divergence import divergence, inverse_factor, is_normal, kl_of_diagonal
from hlvnn.latents.normals import whiten
from hlvnn.latents.posteriors.base import Posterior

CORRELATED = 0.01
"""Largest share of a dimension's first variance that lies in U: U = 0 is a saddle of the ELBO."""


class LowRank(Posterior):
    """q(z_g) = N(m_g, diag(d_g²) + U_g U_gᵀ), U_g: [Z, r]. For widths too large for `full_rank`.

    Parameters of a group: m [Z], log d [Z], U [Z·r], row by row. Raises `ConfigError` for a rank
    above the width.
    """

    normal = True
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
