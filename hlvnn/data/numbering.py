"""Groups numbered anew: those with training rows first, 0..size-1, under the labels they had."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hlvnn.data.loaded import Split
from hlvnn.data.schema import Level


class Numbering(NamedTuple):
    """New numbers of a level's groups.

    new: [G] int32, old number -> new, -1 for a group that is gone; order: the old numbers in their
    new order; size: how many of them have training rows.
    """

    new: np.ndarray
    order: np.ndarray
    size: int


def numbering(level: Level, train: Tensor, others: Sequence[Tensor] | None = None) -> Numbering:
    """Number the groups of a level anew.

    train: the training rows' old numbers, [N]; others: those of other rows, whose groups alone stay
    beside those that train; None lets all stay.
    """
    total = level.size + len(level.new)
    trained = np.bincount(train.numpy(), minlength=total) > 0
    stays = np.full(total, others is None)
    for part in others if others is not None else ():
        stays |= np.bincount(part.numpy(), minlength=total) > 0
    order = np.concatenate([np.flatnonzero(trained), np.flatnonzero(~trained & stays)])
    new = np.full(total, -1, np.int32)
    new[order] = range(len(order))
    return Numbering(new, order, int(trained.sum()))


def renamed(level: Level, numbers: Numbering) -> Level:
    """Return the level with its labels in the new order, those without training rows apart."""
    if numbers.size == level.size and len(numbers.order) == len(numbers.new):
        return level
    names = [level.label(int(gid)) for gid in numbers.order]
    return Level(
        level.name, numbers.size, tuple(names[: numbers.size]), tuple(names[numbers.size :])
    )


def renumbered(part: Split, numbers: Sequence[Numbering]) -> Split:
    """Give the rows the new numbers; groups without training rows are -1 in `groups`."""
    old = part.gids.numpy()
    named = np.stack([one.new[old[:, i]] for i, one in enumerate(numbers)], axis=1)
    groups = np.where(named < [one.size for one in numbers], named, -1).astype(np.int32)
    kept = torch.from_numpy(named) if (groups < 0).any() else None
    return Split(part.x, torch.from_numpy(groups), part.y, kept)
