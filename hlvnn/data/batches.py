"""Minibatches straight from tensors.

The order of an epoch is drawn from a generator. Rows are gathered a chunk of batches at a time and
handed out as views, so a batch costs a fraction of a tensor operation. A split that fits is kept on
the GPU; a larger one is gathered into pinned memory and copied one chunk ahead of its use.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hlvnn.data.grouped import Split

CPU_CHUNK = 1 << 18
"""Bytes gathered at a time on the CPU: they are still in its cache when the batch is used."""
STREAM_CHUNK = 1 << 23
"""Bytes copied to the GPU at a time."""
RESIDENT_CHUNK = 1 << 26
"""Bytes gathered at a time from a split that is kept on the GPU."""
RESIDENT_SHARE = 1 / 3
"""Largest share of the GPU's free memory that a split may take."""


class Batch(NamedTuple):
    """One minibatch, on the device.

    x: [B, ...] inputs in their stored type
    groups: [B, L] int32, lowest level first, -1 = no training rows
    y: [B] int64 class numbers, or float64; [B, 2] float64, successes and trials
    index: [B] int64, the rows' numbers in the split
    """

    x: Tensor
    groups: Tensor
    y: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody needs


class Batches:
    """The minibatches of a split; every row once per pass.

    With a generator each pass has a fresh order drawn from it (same state, same order, on every
    device); without one the rows come in order. `batch_size=None` is one batch of all rows, which
    on the CPU is the split's own arrays. The last batch may be smaller. least: rows of a batch; a
    last batch of fewer joins the one before it.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int | None,
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
        least: int = 1,
    ) -> None:
        self.batch_size = max(1, len(split)) if batch_size is None else batch_size
        self.generator = generator
        self.device = torch.device(device)
        self.size = len(split)
        self.on_cpu = self.device.type == "cpu"
        self.resident = self.on_cpu or is_fitting(split, self.device)
        # on the CPU nothing is moved: a memory-mapped x stays on disk
        self.split = split.to(self.device) if self.resident and not self.on_cpu else split
        self.whole: Batch | None = None
        left = self.size % self.batch_size
        self.joins = 0 < left < least and self.size > self.batch_size

    def __len__(self) -> int:
        return math.ceil(self.size / self.batch_size) - self.joins

    @property
    def full(self) -> int:
        """Batches of exactly `batch_size` rows in a pass; what is left is the last one."""
        return self.size // self.batch_size - self.joins

    @property
    def num_batches(self) -> int:
        """Batches in a pass."""
        return len(self)

    def __iter__(self) -> Iterator[Batch]:
        if self.size == 0:
            return
        if self.batch_size >= self.size:
            # one batch: its order cannot matter, so nothing is drawn or gathered
            if self.whole is None:
                order = torch.arange(self.size, device=self.device)
                split = self.split if self.resident else self.split.to(self.device)
                self.whole = Batch(split.x.all(), split.groups, split.y, order)
            yield self.whole
            return
        order = self.order()
        parts = [order] if not self.joins else order.tensor_split([self.full * self.batch_size])
        chunks = [
            chunk for part in parts if len(part) for chunk in part.split(self._rows_per_chunk())
        ]
        fetched = map(self.gather, chunks) if self.resident else self._stream(chunks)
        for number, chunk in enumerate(fetched, start=1):
            rows = len(chunk.y) if self.joins and number == len(chunks) else self.batch_size
            yield from map(Batch, *(part.split(rows) for part in chunk))

    def order(self) -> Tensor:
        """Return the rows of the next pass in their order, [N] int64; draws one if need be."""
        if self.generator is None:
            order = torch.arange(self.size)
        else:
            order = torch.randperm(self.size, generator=self.generator)
        return order.to(self.device) if self.resident else order

    def _rows_per_chunk(self) -> int:
        on_gpu = RESIDENT_CHUNK if self.resident else STREAM_CHUNK
        limit = CPU_CHUNK if self.on_cpu else on_gpu
        one_row = self.gather(torch.zeros(1, dtype=torch.int64, device=self.split.y.device))
        row = sum(part.nbytes for part in one_row)
        return self.batch_size * max(1, limit // (row * self.batch_size))

    def gather(self, index: Tensor) -> Batch:
        """Return the rows `index` [B] int64 of the split, where it lies."""
        split = self.split
        return Batch(
            split.x.take(index),
            split.groups.index_select(0, index),
            split.y.index_select(0, index),
            index,
        )

    def _stream(self, chunks: Sequence[Tensor]) -> Iterator[Batch]:
        """Yield the chunks on the GPU, the next one being copied while one is used."""
        side = torch.cuda.Stream(self.device)
        ahead: Batch | None = None
        for index in [*chunks, None]:
            ready = ahead
            if ready is not None:
                current = torch.cuda.current_stream(self.device)
                current.wait_stream(side)
                for part in ready:
                    part.record_stream(current)
            if index is not None:
                with torch.cuda.stream(side):
                    pinned = (part.pin_memory() for part in self.gather(index))
                    ahead = Batch(*(part.to(self.device, non_blocking=True) for part in pinned))
            if ready is not None:
                yield ready


def is_fitting(split: Split, device: torch.device) -> bool:
    """Return whether a split may be kept on a device."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return split.nbytes <= free * RESIDENT_SHARE
