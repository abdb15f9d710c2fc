"""What a linear mixed model needs of its rows: sums over them, gathered once.

A row's standardised target is y = x·β + Σ_levels a·u_g + noise: x are the columns of the fixed
effects with a leading 1, a what a level's coordinates are multiplied by, u_g those of its group.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hlvnn.data.grouped import Split
from hlvnn.latents.exact_law import Layout
from hlvnn.latents.placements.base import LinearPlacement
from hlvnn.models.model import HierarchicalModel

ROWS_AT_ONCE = 65536
"""Rows that are read at a time."""


@dataclass(frozen=True)
class RowSums:
    """Sums over rows, float64 on the CPU. W: a level's coordinates; F: columns of x, and y.

    sizes: groups by level; largest: the level with most coordinates, whose groups are eliminated
    one by one; the groups of all others have R coordinates together, from `place` [G] int64 on.

    own: [G, W, W], Σ a aᵀ of each group of the largest level; own_fixed: [G, W, F], Σ a (x, y)ᵀ.
    rest: [R, R], rest_fixed: [R, F]: the same of all others. fixed: [F, F], Σ (x, y)(x, y)ᵀ.
    first, column, meetings: Σ a a_restᵀ of each group g of the largest level: its columns that are
    not 0 are column[first[g]] … column[first[g + 1] − 1], each [W] of `meetings` [M, W].
    """

    layout: Layout
    number: int
    sizes: dict[int, int]
    largest: int
    place: dict[int, Tensor]
    own: Tensor
    own_fixed: Tensor
    rest: Tensor
    rest_fixed: Tensor
    fixed: Tensor
    first: Tensor
    column: Tensor
    meetings: Tensor

    @property
    def group_of(self) -> Tensor:
        """The group of the largest level that each entry of `column` belongs to, [M] int64."""
        return torch.repeat_interleave(torch.arange(len(self.own)), self.first.diff())


def layout_of(model: HierarchicalModel) -> Layout:
    """Return how a model's latents lie."""
    return Layout.of(list(model.latents), model.latents.parent)


def largest_of(model: HierarchicalModel) -> tuple[int, int]:
    """Return the level with most coordinates, and how many the others have together."""
    widths = layout_of(model).widths
    numbers = {level: len(model.latents.counts(level)) * w for level, w in widths.items()}
    largest = max(numbers, key=lambda level: numbers[level])
    return largest, sum(numbers.values()) - numbers[largest]


class Designs:
    """What multiplies fixed effects and latents in each row, in float64."""

    def __init__(self, model: HierarchicalModel) -> None:
        self.latents, self.layout = model.latents, layout_of(model)
        self.likelihood: Any = copy.deepcopy(model.likelihood).cpu().double()
        self.backbone: Any = copy.deepcopy(model.backbone).cpu().double()
        self.placements: list[list[LinearPlacement]] = []
        for latent in self.latents:
            entries = [copy.deepcopy(entry).cpu() for entry in latent.entries()]
            assert all(isinstance(entry, LinearPlacement) for entry in entries)
            self.placements.append(entries)  # type: ignore[arg-type]

    @torch.no_grad()
    def __call__(
        self, split: Split, index: Tensor
    ) -> tuple[Tensor, dict[int, Tensor], dict[int, Tensor]]:
        """Return of rows [B] int64 the design (x, y) [B, F], by level a [B, W], and groups."""
        index = index.to(split.y.device)
        x = split.x.take(index).cpu().flatten(1).double()
        y = (split.y[index].cpu().double() - self.likelihood.center) / self.likelihood.scale
        one = torch.ones(len(x), 1, dtype=torch.float64)
        fixed = torch.cat([one, self.backbone.design(x), y[:, None]], dim=1)
        h = self.backbone.input(x)
        gains: list[Tensor] = []
        for latent, placements in zip(self.latents, self.placements, strict=True):
            eye = torch.eye(latent.width, dtype=torch.float64)[:, None, :]  # [Z, 1, Z]
            gain = torch.zeros(len(x), latent.width, dtype=torch.float64)
            for placement in placements:
                found = placement.gain(h, eye)[..., 0]  # [Z, 1 or B]
                gain = gain + found.expand(-1, len(x)).T
            gains.append(gain)
        for place in reversed(range(len(gains))):
            if (parent := self.latents.parent[place]) is not None:
                gains[parent] = gains[parent] + gains[place]
        by_level: dict[int, list[Tensor]] = {level: [] for level in self.layout.widths}
        for (level, _), gain in zip(self.layout.at, gains, strict=True):
            by_level[level].append(gain)
        groups = split.groups[index].long().cpu()
        return (
            fixed,
            {level: torch.cat(gains, dim=1) for level, gains in by_level.items()},
            {level: groups[:, level] for level in by_level},
        )


def row_sums(model: HierarchicalModel, split: Split) -> RowSums:
    """Return the sums over rows of groups that all are known."""
    design = Designs(model)
    sizes = {level: len(model.latents.counts(level)) for level in design.layout.widths}
    parts = (design(split, index) for index in torch.arange(len(split)).split(ROWS_AT_ONCE))
    return summed(parts, design.layout, sizes, largest_of(model)[0])


def summed(
    parts: Iterable[tuple[Tensor, dict[int, Tensor], dict[int, Tensor]]],
    layout: Layout,
    sizes: dict[int, int],
    largest: int,
) -> RowSums:
    """Return the sums over parts of rows: (x, y) [B, F], by level a [B, W], by level groups [B]."""
    place, columns = {largest: torch.full((sizes[largest],), -1)}, 0
    for level, width in layout.widths.items():
        if level != largest:
            place[level] = columns + width * torch.arange(sizes[level])
            columns += width * sizes[level]
    others = [level for level in layout.widths if level != largest]
    wide, number = layout.widths[largest], 0
    total: dict[str, Tensor] = {}
    keys, values = [torch.zeros(0, dtype=torch.int64)], [_zeros(0, wide)]
    for f, a, groups in parts:
        if not total:
            total = {
                "own": _zeros(sizes[largest], wide, wide),
                "own_fixed": _zeros(sizes[largest], wide, f.shape[1]),
                "rest": _zeros(columns, columns),
                "rest_fixed": _zeros(columns, f.shape[1]),
                "fixed": _zeros(f.shape[1], f.shape[1]),
            }
        number += len(f)
        mine, group = a[largest], groups[largest]
        total["fixed"] += f.T @ f
        total["own"].index_add_(0, group, mine[:, :, None] * mine[:, None, :])
        total["own_fixed"].index_add_(0, group, mine[:, :, None] * f[:, None, :])
        if not others:
            continue
        at = torch.cat(
            [place[k][groups[k]][:, None] + torch.arange(layout.widths[k]) for k in others], 1
        )
        theirs = torch.cat([a[level] for level in others], dim=1)  # [B, K], at columns `at`
        flat = at[:, :, None] * columns + at[:, None, :]
        product = theirs[:, :, None] * theirs[:, None, :]
        total["rest"].view(-1).index_add_(0, flat.flatten(), product.flatten())
        of_fixed = (theirs[:, :, None] * f[:, None, :]).flatten(0, 1)
        total["rest_fixed"].index_add_(0, at.flatten(), of_fixed)
        meeting = (theirs[:, :, None] * mine[:, None, :]).flatten(0, 1)
        found = _by_key((group[:, None] * columns + at).flatten(), meeting)
        keys.append(found[0])
        values.append(found[1])
    key, meetings = _by_key(torch.cat(keys), torch.cat(values))
    counts = torch.bincount(key // max(1, columns), minlength=sizes[largest])
    first = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    return RowSums(
        *(layout, number, sizes, largest, place, total["own"], total["own_fixed"], total["rest"]),
        *(total["rest_fixed"], total["fixed"], first, key % max(1, columns), meetings),
    )


def _zeros(*size: int) -> Tensor:
    return torch.zeros(size, dtype=torch.float64)


def _by_key(key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Return distinct keys [M], sorted, and the sums of their values [M, W]."""
    found, inverse = key.unique(return_inverse=True)
    return found, value.new_zeros(len(found), value.shape[1]).index_add_(0, inverse, value)
