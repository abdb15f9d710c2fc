"""How busy a GPU is during an epoch."""

from __future__ import annotations

import time

import torch

from hlvnn.columns import GPU_PERCENT

PERIOD = 0.5
"""Seconds between two looks: one takes up to a millisecond."""


class GpuMeter:
    """The mean of looks at a GPU. Of a CPU, or without NVIDIA's library, it knows nothing.

    (The library is the package `nvidia-ml-py`.)
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seen: list[float] = []
        self.next = 0.0

    def sample(self) -> None:
        """Look, if it is time to."""
        if self.device.type != "cuda" or (now := time.perf_counter()) < self.next:
            return
        self.next = now + PERIOD
        try:
            self.seen.append(float(torch.cuda.utilization(self.device)))
        except (ModuleNotFoundError, RuntimeError):
            self.device = torch.device("cpu")  # it does not tell: ask no more

    def read(self) -> dict[str, float]:
        """Return `gpu_percent`, the mean since the last reading, or nothing."""
        seen, self.seen = self.seen, []
        return {GPU_PERCENT: sum(seen) / len(seen)} if seen else {}
