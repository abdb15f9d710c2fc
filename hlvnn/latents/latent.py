"""A latent, and the ordered set of all latents of a model, which is sampled as one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from hlvnn.latents.divergence import cholesky, kl
from hlvnn.latents.placements.base import Placement
from hlvnn.latents.posteriors.base import Posterior
from hlvnn.latents.priors.base import Prior


class Latent(nn.Module):
    """One random vector per group of one level: its law, and the placements where it enters.

    placements: one per stage, in the order of the configuration.
    """

    def __init__(
        self,
        name: str,
        level: int,
        posterior: Posterior,
        prior: Prior,
        placements: Sequence[Placement],
    ) -> None:
        super().__init__()
        self.name = name
        self.level = level
        self.width = posterior.width
        self.posterior = posterior
        self.prior = prior
        self.placements = nn.ModuleList(placements)

    def entries(self) -> Iterator[Placement]:
        """Yield the placements with their type."""
        for placement in self.placements:
            assert isinstance(placement, Placement)
            yield placement


@dataclass
class LatentRows:
    """The laws of all latents at the rows of one batch.

    groups: [B, L] int; posteriors, priors: one distribution per latent; seen: per latent [B] bool,
    or None where every row's group is known to have training rows.
    """

    groups: Tensor
    posteriors: list[Distribution]
    priors: list[Distribution]
    seen: list[Tensor | None]


class LatentSet(nn.Module):
    """All latents of a model, in order. It alone samples them and says what they cost.

    `counts_0`, `counts_1`, …: [G] int64, the training rows n_g of each group of each level. A row
    whose group is −1 (it has no training rows) is unseen: it draws from the prior.
    """

    def __init__(self, latents: Sequence[Latent], num_groups: Sequence[int]) -> None:
        super().__init__()
        self.latents = nn.ModuleList(latents)
        self.num_levels = len(num_groups)
        for level, size in enumerate(num_groups):
            self.register_buffer(f"counts_{level}", torch.zeros(size, dtype=torch.int64))

    def __iter__(self) -> Iterator[Latent]:
        for latent in self.latents:
            assert isinstance(latent, Latent)
            yield latent

    def __len__(self) -> int:
        return len(self.latents)

    def counts(self, level: int) -> Tensor:
        """Return the training rows of each group of a level, [G] int64."""
        return self.get_buffer(f"counts_{level}")

    def observe(self, counts: Sequence[Tensor]) -> None:
        """Take over the training rows of each group, one [G] tensor per level."""
        for level, rows in enumerate(counts):
            self.counts(level).copy_(rows)

    def at(self, groups: Tensor, *, unseen: bool) -> LatentRows:
        """Return the latents' laws at rows with the groups [B, L].

        `unseen` says whether some groups may be −1 (prediction); in training none is.
        """
        posteriors, priors, seen = [], [], []
        for latent in self:
            group = groups[:, latent.level]
            mask = None
            if unseen:
                mask = group >= 0
                group = group.clamp(min=0)
            posteriors.append(latent.posterior(group))
            priors.append(latent.prior())
            seen.append(mask)
        return LatentRows(groups, posteriors, priors, seen)

    def sample(self, rows: LatentRows, num_samples: int) -> list[Tensor]:
        """Draw every latent, [S, B, Z] each: each row draws for its own group.

        Rows of unseen groups draw from the prior, one draw a row.
        """
        draws = []
        for q, p, seen in zip(rows.posteriors, rows.priors, rows.seen, strict=True):
            z = q.rsample(torch.Size([num_samples]))
            if seen is not None:
                new = p.rsample(z.shape[:2])
                z = torch.where(seen[:, None], z, new)
            draws.append(z)
        return draws

    def moments(self, rows: LatentRows) -> list[tuple[Tensor, Tensor]]:
        """Return each (normal) latent's mean [B, Z] and covariance's Cholesky factor [B, Z, Z]."""
        result = []
        for q, p, seen in zip(rows.posteriors, rows.priors, rows.seen, strict=True):
            mean, factor = q.mean, cholesky(q)
            if seen is not None:
                mean = torch.where(seen[:, None], mean, p.mean)
                factor = torch.where(seen[:, None, None], factor, cholesky(p))
            result.append((mean, factor))
        return result

    def kl_rows(self, rows: LatentRows) -> list[Tensor]:
        """Return each latent's KL(q_g ‖ p) / n_g for every row, [B] each.

        Summed over all training rows this is Σ_g KL(q_g ‖ p).
        """
        return [
            kl(q, p) / self.counts(latent.level)[rows.groups[:, latent.level]]
            for latent, q, p in zip(self, rows.posteriors, rows.priors, strict=True)
        ]

    @torch.no_grad()
    def kl_totals(self, chunk: int = 65536) -> list[float]:
        """Return each latent's Σ_g KL(q_g ‖ p) over all groups."""
        totals = []
        for latent in self:
            prior = latent.prior()
            groups = torch.arange(
                latent.posterior.num_groups, device=self.counts(latent.level).device
            )
            parts = [
                kl(latent.posterior(part), prior).double().sum() for part in groups.split(chunk)
            ]
            totals.append(float(torch.stack(parts).sum()))
        return totals
