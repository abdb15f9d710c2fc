"""Draws of all latents at the rows of a batch, with what they depend on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from hlvnn.latents.divergence import as_multivariate_normal, check_normal, cholesky
from hlvnn.latents.latent import Latent
from hlvnn.latents.noise import drawn
from hlvnn.latents.normals import standard
from hlvnn.latents.posteriors.base import LevelPosterior
from hlvnn.random import Noise


@dataclass
class LatentRows:
    """The laws of all latents at the rows of one batch.

    groups: [B, L] int. Per latent: the groups [U] at which its law is computed; where each row
    finds its own among them ([B] int, or None where U = B, row by row); its own law there
    (posteriors, priors); the rows [U] int that share such a law and its KL (n_g; see
    `Posterior.in_part`); seen: [B] bool, or None where every row's group has training rows.
    """

    groups: Tensor
    at: list[Tensor]
    inverse: list[Tensor | None]
    posteriors: list[Distribution]
    priors: list[Distribution]
    sizes: list[Tensor]
    seen: list[Tensor | None]


class Draws:
    """One set of draws: every latent at every row, each after those it depends on.

    parent, given: each latent's place of the latents it depends on. by_group: one draw for each
    group, shared by its rows (none is unseen), with its density in `ratios`; else each row draws
    for itself. repeats: (level, R): latents of the other levels keep a draw for R samples in turn.
    noise: the stream that is drawn from; None is torch's own.

    ratios: log p(z) − log q(z) of each row's group given those it depends on, [S, B] per latent.
    """

    def __init__(
        self,
        latents: Sequence[Latent],
        parent: Sequence[int | None],
        given: Sequence[int | None],
        rows: LatentRows,
        *,
        by_group: bool,
        repeats: tuple[int, int] | None = None,
        noise: Noise | None = None,
    ) -> None:
        self.latents, self.parent, self.given, self.rows = latents, parent, given, rows
        self.by_group, self.repeats, self.noise = by_group, repeats, noise
        self.ratios: list[Tensor] = []
        self.whole: dict[int, Tensor] = {}

    def draw(self, num_samples: int, held: Held | None = None) -> list[Tensor]:
        """Return the draws, [S, B, Z] per latent.

        held: what gives draws by group another density (see `Held`).
        """
        draws: list[Tensor] = []
        deviations: list[Tensor] = []
        for index, latent in enumerate(self.latents):
            q, p = self.rows.posteriors[index], self.rows.priors[index]
            parent, given = self.parent[index], self.given[index]
            value, log_q = self._repeated(index, num_samples)
            if given is not None:
                u = self.whole[given] if latent.dense else deviations[given]
                slopes = latent.dependence(self.rows.at[index])
                value = value + (slopes @ u.unsqueeze(-1)).squeeze(-1)
            # only normal latents are depended on
            deviation = value - q.mean if latent.posterior.normal else value
            if held is not None:
                value, log_q = held.take(index, value, self.whole.get(index))
            if log_q is not None:
                law = p if latent.centred else standard(p)
                from_parent = latent.centred and parent is not None
                around = value - draws[parent or 0] if from_parent else value
                self.ratios.append(law.log_prob(around) - log_q)
            if not latent.centred:
                tril = cholesky(p)
                value, deviation = value @ tril.T, deviation @ tril.T
                if parent is not None:
                    value, deviation = value + draws[parent], deviation + deviations[parent]
            draws.append(self._with_new(index, value, num_samples, draws))
            deviations.append(deviation)
        return draws

    def _repeated(self, index: int, num_samples: int) -> tuple[Tensor, Tensor | None]:
        """Draw as `_own` does, each draw as often as `repeats` says."""
        if self.repeats is None or self.latents[index].level == self.repeats[0]:
            return self._own(index, num_samples)
        times = self.repeats[1]
        value, log_q = self._own(index, num_samples // times)
        if index in self.whole:
            self.whole[index] = self.whole[index].repeat_interleave(times, 0)
        log_q = None if log_q is None else log_q.repeat_interleave(times, 0)
        return value.repeat_interleave(times, 0), log_q

    def _own(self, index: int, num_samples: int) -> tuple[Tensor, Tensor | None]:
        """Draw from q before what it depends on is added: [S, B, Z].

        Returns it with its log density [S, B], which is None unless each group has one draw.
        """
        latent, group = self.latents[index], self.rows.at[index]
        if isinstance(latent.posterior, LevelPosterior):
            return self._of_level(index, latent.posterior, num_samples)
        size = torch.Size([num_samples])
        if not self.by_group:
            return drawn(self.rows.posteriors[index], size, self.noise), None
        distinct, inverse = group.unique(return_inverse=True)
        law = latent.posterior(distinct)
        own = drawn(law, size, self.noise)
        return own[:, inverse], law.log_prob(own)[:, inverse]

    def _of_level(
        self, index: int, posterior: LevelPosterior, num_samples: int
    ) -> tuple[Tensor, Tensor | None]:
        """Draw all groups of a level at once, for everybody or for each row; take each row's own.

        Its log density is a sum over the rows of L, which shares it out to the groups.
        """
        group = self.rows.at[index]
        tril = posterior.whole()
        each = 1 if self.by_group else len(group)
        shape = torch.Size([num_samples, each, len(tril)])
        noise = (
            torch.randn(shape, device=tril.device)
            if self.noise is None
            else self.noise.normal(shape, tril)
        )
        self.whole[index] = noise @ tril.T
        value = self.rows.posteriors[index].mean + posterior.of_rows(self.whole[index], group)
        if not self.by_group:
            return value, None
        return value, posterior.log_density(noise, tril, group)

    def _with_new(self, index: int, z: Tensor, num_samples: int, draws: list[Tensor]) -> Tensor:
        """Put draws from the prior where a row's group is unseen."""
        seen, parent = self.rows.seen[index], self.parent[index]
        if seen is None:
            return z
        size = torch.Size([num_samples, len(seen)])
        new = drawn(self.rows.priors[index], size, self.noise)
        if parent is not None:
            new = new + draws[parent]
        return torch.where(seen[:, None], z, new)


class Held:
    """log q of draws made one latent after the other, as functions of the draws and nothing else.

    With every parameter of q held, the gradient of log p(y, z) − log q(z) reaches them through the
    draws alone (Roeder, Wu and Duvenaud 2017), and `variables` are the one place where it passes.

    draws: what makes the draws; it hands each to `take`.

    variables: what q is the density of, z or ε (see `Latent.centred`), per latent [S, B, Z]; of a
    posterior over a whole level those of all its groups, [S, 1, G·Z]. Whatever makes use of a draw,
    but for the draws of other latents that q makes depend on it, does so through them: a hook on
    one sees the gradient of its draw.
    """

    def __init__(self, draws: Draws) -> None:
        self.latents, self.parent = draws.latents, draws.parent
        self.given, self.rows = draws.given, draws.rows
        self.variables: list[Tensor] = []
        self.deviations: list[Tensor] = []

    def take(self, index: int, value: Tensor, whole: Tensor | None) -> tuple[Tensor, Tensor]:
        """Take the next latent's draw; return it, to be used from now on, and log q of it, [S, B].

        value: [S, B, Z]; whole: the deviations of all groups, [S, 1, G·Z], of a
        posterior over a whole level.
        """
        latent, q = self.latents[index], self.rows.posteriors[index]
        if isinstance(latent.posterior, LevelPosterior):
            assert whole is not None
            value, log_q = self._of_level(index, latent.posterior, whole)
        else:
            value = value.view_as(value)
            self.variables.append(value)
            log_q = detached(q).log_prob(value - self._shift(index))
        self._deviate(index, value - q.mean.detach())
        return value, log_q

    def _of_level(
        self, index: int, posterior: LevelPosterior, whole: Tensor
    ) -> tuple[Tensor, Tensor]:
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
            assert isinstance(upper, LevelPosterior)
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
    if isinstance(law, Independent):
        check_normal(law)
        own = Normal(law.mean.detach(), law.stddev.detach(), validate_args=False)
        return Independent(own, 1, validate_args=False)
    full = as_multivariate_normal(law)
    return MultivariateNormal(
        full.mean.detach(), scale_tril=full.scale_tril.detach(), validate_args=False
    )
