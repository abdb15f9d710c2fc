"""Inputs fetched by row index: from a tensor, from windows of one text, from part of either.

Every member of `Rows` gathers a whole batch in one tensor operation and keeps the stored type, so
that images can stay bytes and a text is kept once however much its windows overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


class Rows(Protocol):
    """The inputs of N rows, to be taken by index."""

    def __len__(self) -> int: ...

    def take(self, index: Tensor) -> Tensor:
        """Return the rows `index`: [B] int64 as one tensor [B, ...] of the stored type."""
        ...

    def all(self) -> Tensor:
        """Return all rows in order, without a copy where there is one tensor."""
        ...

    def subset(self, index: Tensor) -> Rows:
        """Return the rows `index`: [M] int64 as `Rows` of their own, without copying the inputs."""
        ...

    def to(self, device: torch.device | str) -> Rows:
        """Return the rows with their tensors on the device."""
        ...

    def sources(self) -> list[tuple[str, Tensor]]:
        """Return the stored tensors with the file or name each came from."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes these rows need on a device."""
        ...


class TensorRows:
    """Rows of one tensor [N, ...], in memory or memory-mapped.

    Integers keep their type; floats come out as float32, whatever is stored. `origin` is the file
    or name that error messages give for it.
    """

    def __init__(self, tensor: Tensor, origin: str = "x") -> None:
        self.tensor = tensor
        self.origin = origin
        self.dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def take(self, index: Tensor) -> Tensor:
        """Gather rows."""
        return self.tensor.index_select(0, index).to(self.dtype)

    def all(self) -> Tensor:
        """Return the tensor itself."""
        return self.tensor.to(self.dtype)

    def subset(self, index: Tensor) -> Rows:
        """Return a view by index."""
        return SubsetRows(self, index)

    def to(self, device: torch.device | str) -> TensorRows:
        """Move the tensor."""
        return TensorRows(self.tensor.to(device, self.dtype), self.origin)

    def sources(self) -> list[tuple[str, Tensor]]:
        """Return the tensor."""
        return [(self.origin, self.tensor)]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return self.tensor.nbytes


class WindowRows:
    """Windows of `length` tokens of one text.

    tokens: [T] uint8 or int16, the texts one after the other
    starts: [N] int64, where each row's window begins
    """

    def __init__(self, tokens: Tensor, starts: Tensor, length: int = 80) -> None:
        self.tokens = tokens
        self.starts = starts
        self.length = length
        self.windows = tokens.unfold(0, length, 1)  # [T - length + 1, length], a view

    def __len__(self) -> int:
        return self.starts.shape[0]

    def take(self, index: Tensor) -> Tensor:
        """Gather windows."""
        return self.windows.index_select(0, self.starts.index_select(0, index))

    def all(self) -> Tensor:
        """Gather all windows."""
        return self.windows.index_select(0, self.starts)

    def subset(self, index: Tensor) -> Rows:
        """Keep some of the starts."""
        return WindowRows(self.tokens, self.starts[index], self.length)

    def to(self, device: torch.device | str) -> WindowRows:
        """Move the text and the starts."""
        return WindowRows(self.tokens.to(device), self.starts.to(device), self.length)

    def sources(self) -> list[tuple[str, Tensor]]:
        """Return the text and the starts."""
        return [("tokens", self.tokens), ("starts", self.starts)]

    @property
    def nbytes(self) -> int:
        """Bytes of the text and the starts."""
        return self.tokens.nbytes + self.starts.nbytes


class SubsetRows:
    """Some rows of other rows, by index: how a validation split is cut without copying."""

    def __init__(self, rows: Rows, index: Tensor) -> None:
        self.rows = rows
        self.index = index

    def __len__(self) -> int:
        return self.index.shape[0]

    def take(self, index: Tensor) -> Tensor:
        """Gather rows of the parent."""
        return self.rows.take(self.index.index_select(0, index))

    def all(self) -> Tensor:
        """Gather every row of the subset."""
        return self.rows.take(self.index)

    def subset(self, index: Tensor) -> Rows:
        """Compose the indices."""
        return SubsetRows(self.rows, self.index[index])

    def to(self, device: torch.device | str) -> TensorRows:
        """Gather the subset and move only that."""
        return TensorRows(self.all().to(device))

    def sources(self) -> list[tuple[str, Tensor]]:
        """Return the parent's tensors and the index."""
        return [*self.rows.sources(), ("index", self.index)]

    @property
    def nbytes(self) -> int:
        """Bytes of the subset once gathered."""
        return len(self) * self.rows.take(self.index[:1]).nbytes


class JoinedRows:
    """Rows of several parts, one after the other: how held-out groups join the test rows."""

    def __init__(self, parts: Sequence[Rows]) -> None:
        self.parts = tuple(parts)
        self.ends = torch.tensor([len(part) for part in self.parts]).cumsum(0)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def take(self, index: Tensor) -> Tensor:
        """Gather from each part what lies in it."""
        part_of = torch.bucketize(index, self.ends, right=True)
        places = [torch.nonzero(part_of == i).squeeze(1) for i in range(len(self.parts))]
        begins = [0, *self.ends.tolist()]
        taken = [
            part.take(index[place] - begin)
            for part, place, begin in zip(self.parts, places, begins, strict=False)
        ]
        return torch.cat(taken)[torch.cat(places).argsort()]

    def all(self) -> Tensor:
        """Join the parts' tensors."""
        return torch.cat([part.all() for part in self.parts])

    def subset(self, index: Tensor) -> Rows:
        """Return a view by index."""
        return SubsetRows(self, index)

    def to(self, device: torch.device | str) -> TensorRows:
        """Join the parts and move the result."""
        return TensorRows(self.all().to(device))

    def sources(self) -> list[tuple[str, Tensor]]:
        """Return every part's tensors."""
        return [source for part in self.parts for source in part.sources()]

    @property
    def nbytes(self) -> int:
        """Bytes of all parts once gathered."""
        return sum(
            len(part) * part.take(torch.arange(min(len(part), 1))).nbytes for part in self.parts
        )
