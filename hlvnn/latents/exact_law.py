"""The exact posterior of all groups of all levels together, where that is a normal law.

A linear model with normal noise whose latents have normal priors: all latents given the rows are
one normal vector. The largest level's groups are independent given the others, so that the law is

    u_rest = m + L ε,       u_g | u_rest = m_g + B_g (u_rest − m) + Q_g ε_g,

L [R, R] over all groups of all other levels, B_g zero but for those that the group's rows meet.
Nothing else would do where levels cross: one level given another does not hold it.

u is z less its prior's mean: z itself, or for a nested prior what it adds to its parent's z.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hlvnn.latents.latent import Latent

AT_ONCE = 2**22
"""Numbers that are in memory at a time beside the law's own."""
NEARLY = 1e-13
"""Share of the variances added before a Cholesky factor, against rounding."""


@dataclass(frozen=True)
class Layout:
    """Where each latent's coordinates lie: the latents of a level side by side, group by group.

    at: per latent its level and its place among the level's coordinates; above: per latent itself,
    its parent, its parent's parent …; widths: by level; levels in order.
    """

    at: tuple[tuple[int, slice], ...]
    above: tuple[tuple[int, ...], ...]
    widths: dict[int, int]

    @classmethod
    def of(cls, latents: Sequence[Latent], parent: Sequence[int | None]) -> Layout:
        """Lay out a set's latents; `parent` is each one's place of its prior's mean."""
        widths: dict[int, int] = {}
        at: list[tuple[int, slice]] = []
        above: list[tuple[int, ...]] = []
        for index, latent in enumerate(latents):
            first = widths.get(latent.level, 0)
            widths[latent.level] = first + latent.width
            at.append((latent.level, slice(first, first + latent.width)))
            up = parent[index]
            above.append((index, *(() if up is None else above[up])))
        return cls(tuple(at), tuple(above), dict(sorted(widths.items())))

    def levels_of(self, level: int) -> list[int]:
        """Return a level and those whose z the means of its latents' priors are."""
        found = {level}
        for index, (own, _) in enumerate(self.at):
            if own == level:
                found |= {self.at[other][0] for other in self.above[index]}
        return sorted(found)


class ExactLaw(nn.Module):
    """A normal law over all groups of all levels (see above), in float64.

    By level l, W its coordinates: `mean_l` [G, W]; `variance_l` [G, W, W], each group's own;
    `log_det_l` [G, W], whose sum is the log of the determinant of the whole law's factor;
    `place_l` [G] int64, where a group's coordinates begin in u_rest (−1 in the largest level).
    `root`: L. Of the largest level `own` [G, W, W], the Q_g, and B by its rows: group g has the
    entries first[g] to first[g + 1] (int64) of `column` [M] int64 and `share` [M, W].
    """

    root: Tensor
    own: Tensor
    first: Tensor
    column: Tensor
    share: Tensor

    def __init__(self, parts: Mapping[str, Tensor]) -> None:
        """Take the tensors above, by their names."""
        super().__init__()
        for name, tensor in parts.items():
            self.register_buffer(name, tensor)
        self._covariance: Tensor | None = None

    def parts(self) -> dict[str, Tensor]:
        """Return the law's tensors by their names."""
        return dict(self.named_buffers())

    def mean(self, level: int) -> Tensor:
        """Return E u of a level's groups, [G, W]."""
        return self.get_buffer(f"mean_{level}")

    def variance(self, level: int) -> Tensor:
        """Return each group's covariance, [G, W, W]."""
        return self.get_buffer(f"variance_{level}")

    def log_det(self, level: int) -> Tensor:
        """Return a level's shares of the log determinant, [G, W]."""
        return self.get_buffer(f"log_det_{level}")

    def place(self, level: int) -> Tensor:
        """Return where groups begin in u_rest, [G] int64."""
        return self.get_buffer(f"place_{level}")

    def is_largest(self, level: int) -> bool:
        """Return whether it is the level whose groups are independent given the others."""
        place = self.place(level)
        return len(place) == 0 or int(place[0]) < 0

    def rest(self) -> Tensor:
        """Return the covariance of u_rest, [R, R]."""
        kept = self._covariance
        if kept is None or (kept.device, kept.dtype, kept.shape) != (
            self.root.device,
            self.root.dtype,
            self.root.shape,
        ):
            kept = self._covariance = self.root @ self.root.mT
        return kept

    def columns(self, level: int, group: Tensor) -> Tensor:
        """Return the places in u_rest of groups [U] of a level: [U, W]."""
        width = self.mean(level).shape[1]
        return self.place(level)[group][:, None] + torch.arange(width, device=group.device)

    def covariance(self, groups: Mapping[int, Tensor]) -> Tensor:
        """Return the covariance of some levels' coordinates, side by side: [U, W, W].

        groups: by level the groups [U] that belong together.
        """
        levels = list(groups)
        rest = [level for level in levels if not self.is_largest(level)]
        widths = [self.mean(level).shape[1] for level in levels]
        ends = torch.tensor(widths).cumsum(0).tolist()
        at = {level: slice(e - w, e) for level, e, w in zip(levels, ends, widths, strict=True)}
        number = len(groups[levels[0]])
        total = self.root.new_zeros(number, ends[-1], ends[-1])
        for level in levels:
            total[:, at[level], at[level]] = self.variance(level)[groups[level]]
        index = {level: self.columns(level, groups[level]) for level in rest}
        for i, one in enumerate(rest):
            for other in rest[i + 1 :]:
                both = self.rest()[index[one][:, :, None], index[other][:, None, :]]
                _set_both(total, at[one], at[other], both)
        for level in set(levels) - set(rest):
            for other in rest:
                both = self._with_rest(groups[level], index[other])
                _set_both(total, at[level], at[other], both)
        return total

    def _with_rest(self, group: Tensor, index: Tensor) -> Tensor:
        """Return Cov(u_g, u_rest[index]) of the largest level's groups [U], index [U, K]."""
        result = self.root.new_zeros(len(group), self.share.shape[1], index.shape[1])
        entries = self.first[group + 1] - self.first[group]
        each = max(1, int(entries.max())) if len(entries) else 1
        size = max(1, AT_ONCE // (each * index.shape[1] * max(1, self.share.shape[1])))
        covariance = self.rest()
        for rows in torch.arange(len(group), device=group.device).split(size):
            entry, row = self.entries(group[rows])
            there = covariance[self.column[entry][:, None], index[rows][row]]  # [T, K]
            part = self.share[entry][:, :, None] * there[:, None, :]
            result.index_add_(0, rows[row], part)
        return result

    def entries(self, group: Tensor) -> tuple[Tensor, Tensor]:
        """Return the entries of B of the largest level's groups [U], and whose they are: [T] each.

        The latter count from 0, the first of `group`.
        """
        begin, end = self.first[group], self.first[group + 1]
        row = torch.repeat_interleave(torch.arange(len(group), device=group.device), end - begin)
        before = (end - begin).cumsum(0) - (end - begin)
        return torch.arange(len(row), device=group.device) - before[row] + begin[row], row

    def spread(self, group: Tensor) -> Tensor:
        """Return B Cov(u_rest) Bᵀ of the largest level's groups [U]: [U, W, W]."""
        result = self.own.new_zeros(len(group), *self.own.shape[1:])
        size = max(1, AT_ONCE // max(1, len(self.root) * self.own.shape[1]))
        for rows in torch.arange(len(group), device=group.device).split(size):
            entry, row = self.entries(group[rows])
            whole = self.own.new_zeros(len(rows), self.own.shape[1], len(self.root))
            whole[row, :, self.column[entry]] = self.share[entry]
            result[rows] = whole @ self.rest() @ whole.mT
        return result

    def against(self, level: int, group: int) -> dict[int, Tensor]:
        """Return the covariances of every group with one of a level: by level [G, W, W_one]."""
        one = torch.tensor([group], device=self.root.device)
        rest = self.rest()
        if self.is_largest(level):
            entry, _ = self.entries(one)
            with_rest = rest[:, self.column[entry]] @ self.share[entry]  # [R, W_one]
        else:
            with_rest = rest[:, self.columns(level, one)[0]]
        result = {}
        for other in self._levels():
            number, width = self.mean(other).shape
            if self.is_largest(other):
                found = rest.new_zeros(number, width, with_rest.shape[1])
                entry, row = self.entries(torch.arange(number, device=rest.device))
                part = self.share[entry][:, :, None] * with_rest[self.column[entry]][:, None, :]
                found.index_add_(0, row, part)
            else:
                every = torch.arange(number, device=rest.device)
                found = with_rest[self.columns(other, every)]
            result[other] = found
        result[level][group] = self.variance(level)[group]
        return result

    def _levels(self) -> list[int]:
        return [int(name.split("_")[1]) for name in self.parts() if name.startswith("mean_")]

    def _noise(self, *size: int) -> Tensor:
        return torch.randn(size, dtype=self.root.dtype, device=self.root.device)

    def draw(self, num_samples: int, group: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Draw everything at once.

        group: [U], distinct groups of the largest level. Returns u_rest − m and ε, [S, R] each, and
        of those groups u_g − m_g and ε_g, [S, U, W] each.
        """
        noise = self._noise(num_samples, len(self.root))
        rest = noise @ self.root.mT
        width = self.own.shape[1]
        own = self._noise(num_samples, len(group), width)
        value = (self.own[group] @ own.unsqueeze(-1)).squeeze(-1)
        entry, row = self.entries(group)
        for chunk in torch.arange(len(entry), device=rest.device).split(
            max(1, AT_ONCE // max(1, num_samples * width))
        ):
            at = entry[chunk]
            part = rest[:, self.column[at], None] * self.share[at]
            value.index_add_(1, row[chunk], part)
        return rest, noise, value, own


def _set_both(total: Tensor, one: slice, other: slice, block: Tensor) -> None:
    total[:, one, other] = block
    total[:, other, one] = block.mT


def factor_of(covariance: Tensor) -> Tensor:
    """Return Cholesky factors of covariances [*, W, W] that may be singular to rounding."""
    sd = covariance.diagonal(dim1=-2, dim2=-1).clamp(min=1e-300).sqrt()
    correlation = covariance / sd.unsqueeze(-1) / sd.unsqueeze(-2)
    eye = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
    for power in range(4):
        found, failed = torch.linalg.cholesky_ex(correlation + NEARLY * 100**power * eye)
        if not failed.any():
            break
    return found * sd.unsqueeze(-1)


def log_normal(noise: Tensor) -> Tensor:
    """Return log N(ε; 0, 1) of each number."""
    return -0.5 * (noise.square() + math.log(2 * math.pi))
