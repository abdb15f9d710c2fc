"""Mean-field normal posterior."""

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from hlvnn.latents.covariance import Covariance
from hlvnn.latents.divergence import kl_of_diagonal
from hlvnn.latents.posteriors.base import LARGEST, MOST_WIDENED, Posterior, Sight


class MeanField(Posterior):
    """q(z_g) = N(m_g, diag(s_g²)).

    Parameters of a group: m [Z], log s [Z].
    """

    normal = True
    natural = True
    linked = True

    @staticmethod
    def num_parameters(width: int) -> int:
        return 2 * width

    def start(self, width: int, scale: Tensor) -> Tensor:
        return torch.cat([torch.zeros(width), scale.log()])

    def law(self, parameters: Tensor) -> Distribution:
        mean, log_sd = parameters.split(self.width, dim=-1)
        return Independent(Normal(mean, log_sd.exp(), validate_args=False), 1, validate_args=False)

    def kl(self, q: Distribution, p: Distribution) -> Tensor:
        return kl_of_diagonal(q, p)

    def natural_step(
        self, rows: Tensor, gradient: Tensor, sight: Sight, factor: float | Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the step −S ∇ and log SDs, see `Posterior.natural_step`.

        A natural step of the precision is its own gradient: s⁻² (1 + ∇ in log s). With a curvature
        it is its closed form, 1/τ² + n h; the mean's S is that of the rows seen so far.
        """
        log_sd = rows[:, self.width :]
        if sight.curvature is None:
            gradient = gradient / sight.weight  # q's precision is that of the loss over β
        of_mean, of_log_sd = gradient.split(self.width, dim=-1)
        prior = sight.precision if sight.precision.dim() == 1 else sight.precision.diagonal()
        if sight.curvature is None:
            log_sd = log_sd - 0.5 * torch.log1p(of_log_sd.clamp(min=MOST_WIDENED, max=1e6))
            variance = (2 * log_sd).exp()
        else:
            if sight.stiffness is not None:
                prior = prior + sight.stiffness
            h = sight.curvature if sight.curvature.dim() == 1 else sight.curvature.diagonal()
            log_sd = -0.5 * torch.log(prior + sight.rows * h / sight.weight)
            variance = 1 / (sight.beta * prior + sight.seen * h)
        most = LARGEST * variance.sqrt()
        step = factor * variance * of_mean
        return -torch.maximum(torch.minimum(step, most), -most), log_sd

    def covariance(self, rows: Tensor) -> Covariance:
        return Covariance((2 * rows[:, self.width :]).exp())

    def size_gradient(self, rows: Tensor, gradient: Tensor) -> Tensor:
        return gradient[:, self.width :]

    def in_size(self, rows: Tensor, size: Tensor) -> Tensor:
        mean, log_sd = rows.split(self.width, dim=-1)
        by_mean, by_sd = size.split(self.width)
        return torch.cat([mean * by_mean, log_sd + by_sd.log()], dim=-1)
