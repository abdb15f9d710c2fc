"""In which groups above them the groups of a set of latents lie, and how they meet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hlvnn.errors import DataError
from hlvnn.latents.collapse import not_nested
from hlvnn.latents.latent import Latent

if TYPE_CHECKING:
    from hlvnn.latents.latent_set import LatentSet


def take_in(latents: LatentSet, groups: Tensor, fresh: Sequence[Tensor]) -> None:
    """Take over from the groups [N, L] of rows how a level's `fresh` groups ([G] bool) lie."""
    for level, new in enumerate(fresh):
        counts = latents.counts(level)
        counts[new] = torch.bincount(groups[:, level], minlength=len(counts))[new]
    for index, latent in enumerate(latents):
        other = latents.given[index] if latents.given[index] is not None else latents.parent[index]
        if other is None:
            continue
        upper = latents[other]
        sizes = latent.posterior.num_groups, upper.posterior.num_groups
        new = fresh[latent.level]
        pair = groups[:, latent.level] * sizes[1] + groups[:, upper.level]
        pair = pair[new[groups[:, latent.level]]]
        if latent.is_within_another:
            _place_within(latents, latent, upper, pair.unique(), sizes[1])
        if latent.slopes is not None:
            if latent.dense:
                meetings = torch.bincount(pair, minlength=sizes[0] * sizes[1]).view(sizes)
            else:
                meetings = latents.counts(latent.level)[:, None]
            latent.start_dependence(upper, meetings[new].float(), new)


def _place_within(
    latents: LatentSet, latent: Latent, upper: Latent, pairs: Tensor, size: int
) -> None:
    group, above = pairs // size, pairs % size
    if (group[1:] == group[:-1]).any():
        raise DataError(not_nested(latent, upper, group, above, latents.levels))
    latent.within[group] = above


def check_within(
    latents: LatentSet, latent: Latent, group: Tensor, seen: Tensor, groups: Tensor
) -> None:
    """Raise `DataError` where rows' known groups [B] lie in another group above than in training.

    seen: [B] bool, whose group is known; groups: [B, L].
    """
    if not latent.is_within_another:
        return
    names = [other.name for other in latents]
    upper = latents[names.index(latent.parent_name or latent.given_name or "")]
    moved = seen & (latent.within[group] != groups[:, upper.level])
    if moved.any():
        row = int(moved.int().argmax())
        raise DataError(
            f"row {row} (rows count from 0): its group of latent {latent.name} lay in another "
            f"group of {upper.name} in training; a known group stays where it was, call a new "
            "one by a new label"
        )
