"""Which rows are in which group, for picking some of each."""

from __future__ import annotations

import torch
from torch import Tensor


class Members:
    """The rows of each group.

    group: [N] int64, 0..G-1, of each row. counts: [G] int64; order: [N] int64, row numbers, group
    by group.
    """

    def __init__(self, group: Tensor, num_groups: int) -> None:
        self.group = group
        self.order = self.shuffled = group.argsort(stable=True)
        self.counts = torch.bincount(group, minlength=num_groups)
        self.first = self.counts.cumsum(0) - self.counts
        self.place = torch.empty_like(self.order)
        self.left = 0

    def spread(self, most: int, groups: Tensor | None = None) -> Tensor:
        """Return up to `most` rows of each group (all, or [U]), evenly spread, −1 for none."""
        first, counts = self.first, self.counts
        if groups is not None:
            first, counts = first[groups], counts[groups]
        step = (counts[:, None] / most).clamp(min=1)
        place = (torch.arange(most) * step).long()
        return _rows_at(self.order, first[:, None], place, counts[:, None])

    def parts(self, index: Tensor, most: int) -> tuple[Tensor, Tensor]:
        """Return random parts of groups, each with one of the rows [B]: (rows read, sizes).

        A size [B] int64 is from 1 to n_g, log-uniform: what is learned from few rows weighs as much
        as what is learned from many. Of a larger part `most` rows are read: [B, most] int64, −1 for
        none. Parts are runs of neighbours in an order that is shuffled once for a pass over all
        rows, so that each is any set of its size with the same probability.
        """
        if self.left <= 0:
            self._shuffle()
        self.left -= len(index)
        group = self.group[index]
        counts, first = self.counts[group], self.first[group]
        share = torch.rand(2, len(index), dtype=torch.float64)
        sizes = ((counts + 1).log() * share[0]).exp().long().clamp(max=counts)
        read = sizes.clamp(max=most)
        own = share[1] * sizes < read  # of a part that is not read whole the row may be left out
        offset = torch.arange(most)
        place = self.place[index] - first + (~own).long()
        place = (place[:, None] + offset) % counts[:, None]
        place = torch.where(offset < read[:, None], place, counts[:, None])
        return _rows_at(self.shuffled, first[:, None], place, counts[:, None]), sizes

    def _shuffle(self) -> None:
        """Bring the rows of each group into a new order."""
        mixed = torch.randperm(len(self.order))
        self.shuffled = mixed[self.group[mixed].argsort(stable=True)]
        self.place[self.shuffled] = torch.arange(len(self.order))
        self.left = len(self.order)


def _rows_at(order: Tensor, first: Tensor, place: Tensor, counts: Tensor) -> Tensor:
    """Return the rows at places in their groups, −1 beyond the groups' ends."""
    found = order[(first + place).clamp(max=len(order) - 1)]
    return torch.where(place < counts, found, -1)
