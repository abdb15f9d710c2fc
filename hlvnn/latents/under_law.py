"""What a set of latents says of itself where it has an exact law: draws, moments and KL.

`LatentSet` asks here for everything that its posteriors would tell otherwise.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hlvnn.latents.divergence import cholesky
from hlvnn.latents.draws import LatentRows
from hlvnn.latents.exact_law import ExactLaw, Layout, factor_of, log_normal
from hlvnn.latents.latent import Latent

if TYPE_CHECKING:
    from hlvnn.latents.latent_set import LatentSet


@torch.no_grad()
def prior_root(latent: Latent) -> Tensor:
    """Return the Cholesky factor of a prior's covariance, in float64 from its parameters on.

    Near a variance of 0 float32 knows nothing of it any more.
    """
    return cholesky(copy.deepcopy(latent.prior).double()())


Columns = dict[tuple[str, int], Tensor]
SOURCE = ("law", 0)
"""The one source of noise that all latents of a row share."""


class UnderLaw:
    """A set of latents together with the exact law of all of them."""

    def __init__(self, latents: LatentSet, law: ExactLaw) -> None:
        self.latents, self.law = latents, law
        self.layout = Layout.of(list(latents), latents.parent)

    def sample(self, rows: LatentRows, num_samples: int) -> list[Tensor]:
        """Draw as `LatentSet.sample` does: each row all of its latents at once."""
        means, factors = self._at_rows(rows)
        noise = torch.randn(
            (num_samples, *factors[0].shape[::2]), dtype=factors[0].dtype, device=factors[0].device
        )
        return [
            self._as_tables(mean + (factor @ noise.unsqueeze(-1)).squeeze(-1))
            for mean, factor in zip(means, factors, strict=True)
        ]

    def moments(self, rows: LatentRows) -> list[tuple[Tensor, Columns]]:
        """Return as `LatentSet.moments` does, a row's latents sharing one source of noise."""
        return [
            (self._as_tables(mean), {SOURCE: self._as_tables(factor)})
            for mean, factor in zip(*self._at_rows(rows), strict=True)
        ]

    def _at_rows(self, rows: LatentRows) -> tuple[list[Tensor], list[Tensor]]:
        """Return each latent's mean [B, Z] at rows, and factors [B, Z, W] of the noise they share.

        Groups that are unseen have the prior.
        """
        seen: dict[int, Tensor] = {}
        groups: dict[int, Tensor] = {}
        priors: dict[int, Tensor] = {}
        for index, (level, _) in enumerate(self.layout.at):
            mask = rows.seen[index]
            group = rows.groups[:, level].long()
            seen[level] = torch.ones_like(group, dtype=torch.bool) if mask is None else mask
            groups[level] = torch.where(seen[level], group, 0)
            priors[index] = prior_root(self.latents[index])
        groups = {level: groups[level] for level in self.layout.widths}
        total = self.law.covariance(groups)
        means = {level: self.law.mean(level)[groups[level]] for level in groups}
        if not all(bool(mask.all()) for mask in seen.values()):
            known = torch.cat(
                [
                    seen[level][:, None].expand(-1, width)
                    for level, width in self.layout.widths.items()
                ],
                dim=1,
            )
            total = total * (known[:, :, None] & known[:, None, :])
            begins = self._begins(list(groups))
            for index, (level, own) in enumerate(self.layout.at):
                at = slice(begins[level] + own.start, begins[level] + own.stop)
                prior = priors[index] @ priors[index].mT
                total[:, at, at] += prior * ~seen[level][:, None, None]
            means = {level: mean * seen[level][:, None] for level, mean in means.items()}
        return self._latents_of(means, factor_of(total), range(len(self.latents)))

    def _begins(self, levels: list[int]) -> dict[int, int]:
        """Return where each level's coordinates begin, side by side."""
        begins, first = {}, 0
        for level in levels:
            begins[level] = first
            first += self.layout.widths[level]
        return begins

    def _latents_of(
        self, means: dict[int, Tensor], factor: Tensor, indices: range | list[int]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return latents' z from the u of levels side by side: their means and factors.

        means: by level [U, W]; factor: [U, all, all].
        """
        begins = self._begins(list(means))
        z, factors = [], []
        for index in indices:
            parts = [self.layout.at[other] for other in self.layout.above[index]]
            z.append(torch.stack([means[level][:, own] for level, own in parts]).sum(0))
            of = [factor[:, slice(begins[a] + own.start, begins[a] + own.stop)] for a, own in parts]
            factors.append(torch.stack(of).sum(0))
        return z, factors

    def moments_at(self, index: int, group: Tensor) -> tuple[Tensor, Columns]:
        """Return as `LatentSet.moments_at` does; latents of a level share their source of noise."""
        level = self.layout.at[index][0]
        groups = {}
        for other in self.layout.levels_of(level):
            groups[other] = group if other == level else self._group_above(level, other, group)
        means = {other: self.law.mean(other)[at] for other, at in groups.items()}
        factor = factor_of(self.law.covariance(groups))
        (mean,), (own,) = self._latents_of(means, factor, [index])
        return mean, {("law", level): own}

    def _group_above(self, level: int, above: int, group: Tensor) -> Tensor:
        """Return in which groups of a level above groups [U] lie, through their parents."""
        for index, (own, _) in enumerate(self.layout.at):
            found = group
            if own != level:
                continue
            for below, other in zip(
                self.layout.above[index], self.layout.above[index][1:], strict=False
            ):
                found = self.latents[below].within[found]
                if self.layout.at[other][0] == above:
                    return found
        raise AssertionError(f"level {above} is not above level {level}")

    def around_prior(self, index: int, group: Tensor) -> tuple[Tensor, Columns]:
        """Return as `LatentSet.around_prior` does."""
        level, own = self.layout.at[index]
        factor = factor_of(self.law.variance(level)[group])
        return self.law.mean(level)[group][:, own], {("law", level): factor[:, own]}

    def marginal(self, index: int) -> tuple[Tensor, Tensor]:
        """Return as `LatentSet.marginal` does."""
        level, own = self.layout.at[index]
        mean = self.law.mean(level)[:, own]
        variance = self.law.variance(level).diagonal(dim1=-2, dim2=-1)[:, own]
        if len(self.layout.above[index]) > 1:
            group = torch.arange(len(mean), device=self.law.root.device)
            mean, columns = self.moments_at(index, group)
            (factor,) = columns.values()
            variance = factor.square().sum(-1)
        return self._as_tables(mean), self._as_tables(variance.sqrt())

    def variances_from(self, index: int, group: int) -> Tensor:
        """Return Var(z_a − z_b) of all groups a of a latent's level and one group b: [G, Z, Z]."""
        level = self.layout.at[index][0]
        every = torch.arange(len(self.law.mean(level)), device=self.law.root.device)
        chain = self.layout.above[index]
        at = {self.layout.at[one][0]: every for one in chain[:1]}
        for one in chain[1:]:
            above = self.layout.at[one][0]
            at[above] = self._group_above(level, above, every)
        (factor,) = self.moments_at(index, every)[1].values()
        variance = factor @ factor.mT
        common = torch.zeros_like(variance)
        for other in chain:
            there, coordinates = self.layout.at[other]
            found = self.law.against(there, int(at[there][group]))
            for one in chain:
                here, mine = self.layout.at[one]
                common += found[here][at[here]][:, mine, coordinates]
        return variance + variance[group] - common - common.mT

    def kl(self, index: int) -> Tensor:
        """Return what each group's latent gives to the KL of the whole law, [G] float64.

        By the chain rule: KL of its law given the coordinates before it, averaged over these.
        """
        level, own = self.layout.at[index]
        root = prior_root(self.latents[index])
        mean, variance = self.law.mean(level)[:, own], self.law.variance(level)[:, own, own]
        moment = variance + mean[:, :, None] * mean[:, None, :]
        precision = torch.cholesky_inverse(root)
        spread = (precision * moment).sum((-1, -2))
        log_det = root.diagonal().log().sum() - self.law.log_det(level)[:, own].sum(-1)
        return 0.5 * (spread - len(root)) + log_det

    def kl_rows(self, rows: LatentRows) -> list[Tensor]:
        """Return as `LatentSet.kl_rows` does."""
        result = []
        for index, (level, _) in enumerate(self.layout.at):
            group = rows.groups[:, level].long()
            share = self.kl(index)[group]
            result.append(self._as_tables(share / self.latents.counts(level)[group]))
        return result

    def sample_groups(
        self, rows: LatentRows, num_samples: int
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return as `LatentSet.sample_groups` does: one draw of everything a sample."""
        law, groups = (
            self.law,
            {level: rows.groups[:, level].long() for level in self.layout.widths},
        )
        largest = [level for level in groups if law.is_largest(level)]
        distinct, inverse = groups[largest[0]].unique(return_inverse=True)
        rest, noise, own, own_noise = law.draw(num_samples, distinct)
        u, density = {}, {}
        for level, group in groups.items():
            if law.is_largest(level):
                deviation, log_q = own[:, inverse], log_normal(own_noise)[:, inverse]
            else:
                places = law.columns(level, group)
                deviation, log_q = rest[:, places], log_normal(noise[:, places])
            u[level] = law.mean(level)[group] + deviation
            density[level] = log_q - law.log_det(level)[group]
        draws: list[Tensor] = []
        ratios = []
        for index, (level, at) in enumerate(self.layout.at):
            own_u = u[level][..., at]
            root = prior_root(self.latents[index])
            scaled = torch.linalg.solve_triangular(root, own_u.unsqueeze(-1), upper=False)
            log_p = log_normal(scaled.squeeze(-1)).sum(-1) - root.diagonal().log().sum()
            ratios.append(log_p - density[level][..., at].sum(-1))
            parent = self.latents.parent[index]
            draws.append(own_u if parent is None else own_u + draws[parent])
        return [self._as_tables(draw) for draw in draws], ratios

    @torch.no_grad()
    def write_marginals(self) -> None:
        """Let the posteriors' tables hold each group's mean and SDs, for whoever looks there."""
        for index, latent in enumerate(self.latents):
            mean, sd = self.marginal(index)
            table = latent.posterior.table
            table.zero_()
            table[:, : latent.width] = mean.to(table)
            table[:, latent.width : 2 * latent.width] = sd.log().to(table)

    def _as_tables(self, values: Tensor) -> Tensor:
        """Return values in the numbers of the posteriors' tables, which the network expects."""
        return values.to(self.latents[0].posterior.table.dtype)
