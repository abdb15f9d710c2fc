"""Minibatches of whole blocks: sets of rows that have to be seen together."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from hlvnn.data.batches import Batch, is_fitting
from hlvnn.data.grouped import Split


class BlockBatches:
    """The minibatches of a split in whole blocks; every block once per pass.

    Each batch has the same number of blocks, about `batch_size` rows on average and at least one
    block; the last may have fewer. So each is a uniform sample of blocks, whatever their sizes, as
    an unbiased estimate of a sum over blocks needs (batches filled up to so many rows are none:
    large blocks would come in the company of few). Each pass has a fresh order of blocks, drawn
    from the generator, or without one that of their numbers. `batch_size=None` is one batch of
    everything, its rows in order.

    least: rows of a batch; where a last batch could have fewer it joins the one before it.

    block: [N] int64, each row's block, 0..M-1, none empty.
    """

    def __init__(
        self,
        split: Split,
        block: Tensor,
        batch_size: int | None,
        *,
        generator: torch.Generator | None,
        device: torch.device | str = "cpu",
        least: int = 1,
    ) -> None:
        self.device = torch.device(device)
        on_cpu = self.device.type == "cpu"
        self.split = (
            split.to(self.device) if not on_cpu and is_fitting(split, self.device) else split
        )
        self.block = block.cpu()
        self.generator = generator
        self.number = int(self.block.max()) + 1
        rows = len(split)
        self.batch_size = rows if batch_size is None else batch_size
        self.per_batch = min(self.number, max(1, round(self.batch_size * self.number / rows)))
        left = self.number % self.per_batch
        smallest = int(torch.bincount(self.block).min())
        self.joins = 0 < left * smallest < least and self.number > self.per_batch

    def __len__(self) -> int:
        return math.ceil(self.number / self.per_batch) - self.joins

    def __iter__(self) -> Iterator[Batch]:
        if len(self) == 1:  # the order of one batch cannot matter
            yield self._gather(torch.arange(len(self.split)))
            return
        place = torch.empty(self.number, dtype=torch.int64)
        blocks = torch.arange(self.number)
        drawn = self.generator is not None
        place[torch.randperm(self.number, generator=self.generator) if drawn else blocks] = blocks
        step = (place[self.block] // self.per_batch).clamp(max=len(self) - 1)
        order = step.argsort(stable=True)
        for index in order.split(torch.bincount(step).tolist()):
            yield self._gather(index)

    def _gather(self, index: Tensor) -> Batch:
        split = self.split
        at = index.to(split.y.device)
        batch = Batch(split.x.take(at), split.groups[at], split.y[at], at)
        return Batch(*(part.to(self.device) for part in batch))
