"""Densities of draws under a posterior whose parameters are held: gradients of the path alone."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from hlvnn.latents.divergence import as_multivariate_normal, cholesky
from hlvnn.latents.draws import Draws
from hlvnn.latents.posteriors.joint import Joint


class Held:
    """log q of draws made one latent after the other, as functions of the draws and nothing else.

    With every parameter of q held, the gradient of log p(y, z) − log q(z) reaches them through the
    draws alone (Roeder, Wu and Duvenaud 2017), and `variables` are the one place where it passes.

    draws: what makes the draws; it hands each to `take`.

    variables: what q is the density of, z or ε (see `Latent.centred`), per latent [S, B, Z]; of a
    joint latent those of all its groups, [S, 1, G·Z]. Whatever makes use of a draw, but for the
    draws of other latents that q makes depend on it, does so through them: a hook on one sees the
    gradient of its draw.
    """

    def __init__(self, draws: Draws) -> None:
        self.latents, self.parent = draws.latents, draws.parent
        self.given, self.rows = draws.given, draws.rows
        self.variables: list[Tensor] = []
        self.deviations: list[Tensor] = []

    def take(self, index: int, value: Tensor, whole: Tensor | None) -> tuple[Tensor, Tensor]:
        """Take the next latent's draw; return it, to be used from now on, and log q of it, [S, B].

        value: [S, B, Z]; whole: for a joint latent the deviations of all groups, [S, 1, G·Z].
        """
        latent, q = self.latents[index], self.rows.posteriors[index]
        if isinstance(latent.posterior, Joint):
            assert whole is not None
            value, log_q = self._joint(index, latent.posterior, whole)
        else:
            value = value.view_as(value)
            self.variables.append(value)
            log_q = detached(q).log_prob(value - self._shift(index))
        self._deviate(index, value - q.mean.detach())
        return value, log_q

    def _joint(self, index: int, posterior: Joint, whole: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows' own part of a draw of all groups, and of its log density."""
        group = self.rows.at[index]
        mean, tril = posterior.whole_mean(), posterior.whole().detach()
        variable = mean + whole
        self.variables.append(variable)
        # [S, 1, G·Z] as rows: noise Lᵀ = z − m
        noise = torch.linalg.solve_triangular(
            tril.T, variable - mean.detach(), upper=True, left=False
        )
        log_q = posterior.log_density(noise, tril, group)
        return posterior.of_rows(variable, group), log_q

    def _shift(self, index: int) -> Tensor | float:
        """Return Λ u, by which the mean of q moves with the draw that it depends on: [S, B, Z]."""
        given, latent = self.given[index], self.latents[index]
        if given is None:
            return 0.0
        u = self.deviations[given]
        if latent.dense:
            upper = self.latents[given].posterior
            assert isinstance(upper, Joint)
            u = self.variables[given] - upper.whole_mean().detach()
        slopes = latent.dependence(self.rows.at[index]).detach()
        return (slopes @ u.unsqueeze(-1)).squeeze(-1)

    def _deviate(self, index: int, deviation: Tensor) -> None:
        """Keep z − E z, of which q's further densities are functions."""
        parent, latent = self.parent[index], self.latents[index]
        if not latent.centred:
            deviation = deviation @ cholesky(self.rows.priors[index]).detach().T
            if parent is not None:
                deviation = deviation + self.deviations[parent]
        self.deviations.append(deviation)


def detached(law: Distribution) -> Distribution:
    """Return a normal law with its parameters held."""
    if isinstance(law, Independent) and isinstance(law.base_dist, Normal):
        own = Normal(law.mean.detach(), law.stddev.detach(), validate_args=False)
        return Independent(own, 1, validate_args=False)
    full = as_multivariate_normal(law)
    return MultivariateNormal(
        full.mean.detach(), scale_tril=full.scale_tril.detach(), validate_args=False
    )
