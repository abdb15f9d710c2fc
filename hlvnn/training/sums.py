"""Sums over the rows of an epoch."""

from __future__ import annotations

import torch
from torch import Tensor


class Sums:
    """Sums over rows of an epoch, added up some hundred steps at a time."""

    STEPS = 256

    def __init__(self, number: int, device: torch.device) -> None:
        self.total = torch.zeros(number, device=device)
        self.means: list[Tensor] = []
        self.rows: list[int] = []

    def add(self, means: list[Tensor], rows: int) -> None:
        """Add means over so many rows."""
        self.means += means
        self.rows.append(rows)
        if len(self.rows) == self.STEPS:
            self._add_up()

    def read(self) -> list[float]:
        """Return the sums, 0 for those that nothing was told of."""
        if self.rows:
            self._add_up()
        return [float(value) for value in self.total.tolist()]

    def _add_up(self) -> None:
        means = torch.stack(self.means).view(len(self.rows), -1).to(self.total.dtype)
        self.total[: means.shape[1]] += torch.tensor(self.rows).to(means) @ means
        self.means, self.rows = [], []
