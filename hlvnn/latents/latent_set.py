"""The ordered set of all latents of a model, which is sampled as one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution

from hlvnn.data.grouped import Level, Split
from hlvnn.latents.divergence import cholesky
from hlvnn.latents.draws import Draws, Held, LatentRows
from hlvnn.latents.exact_law import ExactLaw
from hlvnn.latents.latent import Latent
from hlvnn.latents.noise import Source
from hlvnn.latents.normals import shifted, standard, whiten
from hlvnn.latents.placing import check_within, take_in
from hlvnn.latents.posteriors.base import LevelPosterior
from hlvnn.latents.under_law import UnderLaw
from hlvnn.random import Mirrored

Columns = dict[tuple[str, int], Tensor]
"""Factors [B, Z, K] of a normal vector, one per independent source of noise: z − E z is the sum
over sources of factor · ε, ε ~ N(0, I). Latents that depend on each other share sources."""


class LatentSet(nn.Module):
    """All latents of a model, each after those it depends on.

    It alone samples them and says what they cost.

    `counts_0`, `counts_1`, …: [G] int64, the training rows n_g of each group of each level. A row
    whose group is −1, beyond G or has no training rows is unseen: it draws from the prior.

    law: the exact law of all latents together, where the model was fitted exactly; the posteriors'
    tables then hold its marginals, and everything else is asked of it. It is in the state dict.
    """

    law: ExactLaw | None

    def __init__(self, latents: Sequence[Latent], num_groups: Sequence[int]) -> None:
        super().__init__()
        self.latents = nn.ModuleList(latents)
        self.num_levels = len(num_groups)
        self.levels: Sequence[Level] = ()  # for messages
        self.held: set[int] = set()  # latents that a fit holds at z = 0, gradients passing
        self.by_row = False  # whether a fit needs each row's own gradient in every latent
        self.source = Source()
        index = {latent.name: number for number, latent in enumerate(latents)}
        self.parent = [index[x.parent_name] if x.parent_name else None for x in latents]
        self.given = [index[x.given_name] if x.given_name else None for x in latents]
        for level, size in enumerate(num_groups):
            self.register_buffer(f"counts_{level}", torch.zeros(size, dtype=torch.int64))
        self.register_module("law", None)
        self.register_load_state_dict_pre_hook(_take_law)

    @property
    def under_law(self) -> UnderLaw | None:
        """The set as its exact law has it, None without one."""
        return None if self.law is None else UnderLaw(self, self.law)

    def __iter__(self) -> Iterator[Latent]:
        for latent in self.latents:
            assert isinstance(latent, Latent)
            yield latent

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, index: int) -> Latent:
        latent = self.latents[index]
        assert isinstance(latent, Latent)
        return latent

    def counts(self, level: int) -> Tensor:
        """Return the training rows of each group of a level, [G] int64."""
        return self.get_buffer(f"counts_{level}")

    def observe(self, train: Split) -> None:
        """Take over which groups the training rows are in, and what posteriors read of them.

        Raises `DataError` where a group has to lie in one group of another level and does not.
        """
        for latent in self:
            latent.posterior.observe(train, latent.level)
        sizes = [len(self.counts(level)) for level in range(self.num_levels)]
        fresh = [torch.ones(size, dtype=torch.bool) for size in sizes]
        take_in(self, train.groups.long(), fresh)

    @torch.no_grad()
    def grow(self, numbers: Sequence[int], groups: Tensor) -> list[Tensor]:
        """Add `numbers[level]` groups to each level, after the others, which stay as they are.

        groups: [N, L] int, in which the rows of new groups lie. A new group starts at its prior's
        mean and SD; one without rows stays unseen, and may get rows another time.

        Returns for each level which of its groups are new and have rows, [G] bool. Raises
        `DataError` where a group has to lie in one group of another level and does not.
        """
        for level, number in enumerate(numbers):
            self.register_buffer(f"counts_{level}", F.pad(self.counts(level), (0, number)))
        for index, latent in enumerate(self):
            given = self.given[index]
            latent.grow(numbers[latent.level], None if given is None else self[given])
        groups = groups.long()
        fresh = [self.counts(level) == 0 for level in range(self.num_levels)]
        for level, mask in enumerate(fresh):
            mask &= torch.bincount(groups[:, level], minlength=len(mask)) > 0
        take_in(self, groups, fresh)
        self.at(groups, unseen=True)  # refuses a known group that has moved
        for index, latent in enumerate(self):
            parent, new = self.parent[index], fresh[latent.level]
            if parent is not None and latent.centred and self.law is None:
                mean = self.moments_at(parent, latent.within[new])[0]
                latent.posterior.table[new, : latent.width] = mean
        return fresh

    def refresh(self) -> None:
        """Bring up to date what posteriors keep of their groups; before any evaluation."""
        for latent in self:
            latent.posterior.refresh()

    def at(
        self,
        groups: Tensor,
        *,
        unseen: bool,
        distinct: bool = False,
        index: Tensor | None = None,
    ) -> LatentRows:
        """Return the latents' laws at rows with the groups [B, L].

        `unseen` says whether some groups may be unseen (prediction); in training none is.
        `distinct`: compute a law once for all groups rather than for each row, where there are more
        rows. index: [B] int64, the rows' numbers in the training set, for a training step: laws
        that are read off rows are then read off a random part of them (see `Posterior.in_part`).
        """
        rows = LatentRows(groups, [], [], [], [], [], [])
        for latent in self:
            group = groups[:, latent.level].long()
            mask = None
            if unseen:
                counts = self.counts(latent.level)
                mask = (group >= 0) & (group < len(counts))
                group = torch.where(mask, group, 0)
                mask = mask & (counts[group] > 0)
                check_within(self, latent, group, mask, groups)
            with self.source.lending(index is not None):
                part = None if index is None else latent.posterior.in_part(index)
            inverse = None
            if (
                part is None
                and distinct
                and not self.by_row
                and not unseen
                and len(group) >= latent.posterior.num_groups
            ):
                inverse = group
                group = torch.arange(latent.posterior.num_groups, device=group.device)
            q, sizes = part or (latent.posterior(group), self.counts(latent.level)[group])
            rows.at.append(group)
            rows.inverse.append(inverse)
            rows.posteriors.append(q)
            rows.sizes.append(sizes)
            rows.priors.append(latent.prior())
            rows.seen.append(mask)
        return rows

    def sample(self, rows: LatentRows, num_samples: int) -> list[Tensor]:
        """Draw every latent, [S, B, Z] each: each row draws for its own group.

        Rows of unseen groups draw from the prior, one draw a row. A row draws what several of its
        latents depend on once.
        """
        if (law := self.under_law) is not None:
            return law.sample(rows, num_samples)
        draws = self._draws(rows, by_group=False).draw(num_samples)
        for index in self.held if self.training else ():
            draws[index] = draws[index] - draws[index].detach()
        return draws

    def sample_mirrored(self, rows: LatentRows, num_samples: int) -> list[Tensor]:
        """Draw as `sample` does, in pairs on either side of a normal law's mean (`Mirrored`)."""
        with self.source.using(Mirrored()):
            return self.sample(rows, num_samples)

    def sample_groups(
        self, rows: LatentRows, num_samples: int, repeats: tuple[int, int] | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Draw every latent once for each group, shared by the group's rows (none is unseen).

        repeats: (level, R): latents of the other levels keep each draw for R samples in turn (the
        number of samples is a multiple of R).

        Returns the draws [S, B, Z] and log p(z) − log q(z) of each row's group given those it
        depends on, [S, B]; summed over latents and over distinct groups these are the log ratio of
        all z together.
        """
        if (law := self.under_law) is not None:
            return law.sample_groups(rows, num_samples)
        draws = self._draws(rows, by_group=True, repeats=repeats)
        return draws.draw(num_samples), draws.ratios

    def sample_held(
        self, rows: LatentRows, num_samples: int
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Draw as `sample_groups` does; hold the parameters of q in log q (all latents are normal).

        Returns draws, log ratios, and the tensors that are drawn (see `Held.variables`): by them
        alone does the gradient of whatever is made of draws and ratios reach the parameters of q.
        """
        draws = self._draws(rows, by_group=True)
        held = Held(draws)
        return draws.draw(num_samples, held), draws.ratios, held.variables

    def _draws(self, rows: LatentRows, **how: Any) -> Draws:
        of_set = (list(self), self.parent, self.given, rows)
        return Draws(*of_set, noise=self.source.noise, **how)

    def moments(self, rows: LatentRows) -> list[tuple[Tensor, Columns]]:
        """Return each (normal) latent's mean [B, Z] and the factors of its deviation."""
        if (law := self.under_law) is not None:
            return law.moments(rows)
        result: list[tuple[Tensor, Columns]] = []
        for index in range(len(self)):
            mean, columns = self.moments_at(index, rows.at[index], rows.posteriors[index])
            if index in self.held and self.training:
                mean = mean - mean.detach()
                columns = {source: 0 * part for source, part in columns.items()}
            inverse, seen, parent = rows.inverse[index], rows.seen[index], self.parent[index]
            if inverse is not None:
                mean = mean[inverse]
                columns = {source: part[inverse] for source, part in columns.items()}
            if seen is not None:
                p = rows.priors[index]
                tril = cholesky(p)
                new_mean = p.mean.expand_as(mean)
                new: Columns = {("new", index): tril.expand(len(seen), *tril.shape)}
                if parent is not None:
                    new_mean = new_mean + result[parent][0]
                    new |= result[parent][1]
                mean = torch.where(seen[:, None], mean, new_mean)
                mask = seen[:, None, None]
                known = {source: part * mask for source, part in columns.items()}
                columns = _add(known, {source: part * ~mask for source, part in new.items()})
            result.append((mean, columns))
        return result

    def moments_at(
        self, index: int, group: Tensor, q: Distribution | None = None
    ) -> tuple[Tensor, Columns]:
        """Return a normal latent's mean [U, Z] and the factors of its deviation at groups [U]."""
        if (law := self.under_law) is not None:
            return law.moments_at(index, group)
        latent, parent, given = self[index], self.parent[index], self.given[index]
        q = latent.posterior(group) if q is None else q
        mean = q.mean
        columns: Columns = {("own", index): latent.posterior.factor(q, group)}
        if given is not None:
            slopes = latent.dependence(group)
            if latent.dense:
                upper: Columns = {("own", given): self._whole(given)}
            else:
                upper = self.moments_at(given, latent.within[group])[1]
            columns = _add(columns, {source: slopes @ part for source, part in upper.items()})
        if not latent.centred:
            tril = cholesky(latent.prior())
            mean = mean @ tril.T
            columns = {source: tril @ part for source, part in columns.items()}
            if parent is not None:
                above = self.moments_at(parent, latent.within[group])
                mean, columns = mean + above[0], _add(columns, above[1])
        return mean, columns

    def around_prior(self, index: int, group: Tensor) -> tuple[Tensor, Columns]:
        """Return as `moments_at` does, of z less its prior's mean."""
        if (law := self.under_law) is not None:
            return law.around_prior(index, group)
        mean, columns = self.moments_at(index, group)
        parent = self.parent[index]
        if parent is None:
            return mean, columns
        above = self.moments_at(parent, self[index].within[group])
        return mean - above[0], _add(columns, {source: -part for source, part in above[1].items()})

    def _whole(self, index: int) -> Tensor:
        posterior = self[index].posterior
        assert isinstance(posterior, LevelPosterior)
        return posterior.whole()

    def marginal(self, index: int) -> tuple[Tensor, Tensor]:
        """Return the mean and the SD of every group's z, [G, Z] each, all noise counted."""
        if (law := self.under_law) is not None:
            return law.marginal(index)
        latent = self[index]
        group = torch.arange(latent.posterior.num_groups, device=latent.posterior.table.device)
        q = latent.posterior(group)
        plain = self.given[index] is None and latent.centred
        if plain or not latent.posterior.random:
            return q.mean, q.variance.sqrt()
        mean, columns = self.moments_at(index, group, q)
        variance = torch.stack([part.square().sum(-1) for part in columns.values()]).sum(0)
        return mean, variance.sqrt()

    def kl_rows(self, rows: LatentRows) -> list[Tensor]:
        """Return each latent's KL(q_g ‖ p) / n_g for every row, [B] each.

        Summed over all training rows this is the whole KL.
        """
        if (law := self.under_law) is not None:
            return law.kl_rows(rows)
        result = []
        for index in range(len(self)):
            inverse = rows.inverse[index]
            value = self._kl(index, rows.at[index], rows.posteriors[index], rows.priors[index])
            value = value / rows.sizes[index]
            result.append(value if inverse is None else value[inverse])
        return result

    def _kl(self, index: int, group: Tensor, q: Distribution, p: Distribution) -> Tensor:
        """Return the groups' shares [U] of a latent's KL, averaged over what it depends on.

        With prior mean C z_b (C = I for a nested prior, else 0) and E = Λ − C it is
        KL(N(m − C m_b, S) ‖ N(0, T)) + ½ tr T⁻¹ E V_b Eᵀ.
        """
        latent, parent, given = self[index], self.parent[index], self.given[index]
        if not latent.centred:
            p = standard(p)
        if isinstance(latent.posterior, LevelPosterior):
            return latent.posterior.kl_shares(group, p)
        if parent is None and given is None:
            with self.source.lending(not latent.is_drawn_by_noise):  # it may be an estimate
                return latent.posterior.kl(q, p)
        excess: Columns = {}
        if given is not None:
            slopes = latent.dependence(group)
            if latent.dense:
                above: Columns = {("own", given): self._whole(given)}
            else:
                above = self.moments_at(given, latent.within[group])[1]
            excess = {source: slopes @ part for source, part in above.items()}
        if parent is not None and latent.centred:
            mean, columns = self.moments_at(parent, latent.within[group])
            p = shifted(p, mean)
            excess = _add(excess, {source: -part for source, part in columns.items()})
        with self.source.lending(not latent.is_drawn_by_noise):
            value = latent.posterior.kl(q, p)
        for part in excess.values():
            value = value + 0.5 * whiten(p, part).square().sum((-1, -2))
        return value

    @torch.no_grad()
    def kl_totals(self, chunk: int = 65536) -> list[float]:
        """Return each latent's KL, summed over all groups."""
        if (law := self.under_law) is not None:
            return [float(law.kl(index).sum()) for index in range(len(self))]
        totals = []
        for index, latent in enumerate(self):
            prior = latent.prior()
            groups = torch.arange(
                latent.posterior.num_groups, device=self.counts(latent.level).device
            )
            # a mixture's KL compares the draws of each component with every component
            size = max(1, chunk // latent.posterior.strata**2)
            parts = [
                self._kl(index, part, latent.posterior(part), prior).double().sum()
                for part in groups.split(size)
            ]
            totals.append(float(torch.stack(parts).sum()))
        return totals


def _add(first: Columns, second: Columns) -> Columns:
    """Return the factors of a sum: those of a shared source add up."""
    total = dict(first)
    for source, part in second.items():
        total[source] = total[source] + part if source in total else part
    return total


def _take_law(module: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Give a set that takes a state dict the exact law that is in it, or none."""
    assert isinstance(module, LatentSet)
    begin = f"{prefix}law."
    parts = {k.removeprefix(begin): v for k, v in state.items() if k.startswith(begin)}
    device = module.counts(0).device if module.num_levels else None
    like = {name: torch.empty_like(part, device=device) for name, part in parts.items()}
    module.law = ExactLaw(like) if like else None
