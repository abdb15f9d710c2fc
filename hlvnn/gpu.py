"""How busy a GPU is during an epoch."""

from __future__ import annotations

import torch

SAMPLES = 10
"""Times an epoch that the GPU is asked."""


class GpuMeter:
    """The mean of a few looks at a GPU. Of a CPU, or without NVIDIA's library, it knows nothing.

    (The library is the package `nvidia-ml-py`.)
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seen: list[float] = []

    def sample(self, step: int, steps: int) -> None:
        """Look, if it is time to, at step `step` (from 1) of an epoch's `steps`."""
        if self.device.type != "cuda" or step % max(1, steps // SAMPLES):
            return
        try:
            self.seen.append(float(torch.cuda.utilization(self.device)))
        except (ModuleNotFoundError, RuntimeError):
            self.device = torch.device("cpu")  # it does not tell: ask no more

    def read(self) -> dict[str, float]:
        """Return `gpu_percent`, the mean since the last reading, or nothing."""
        seen, self.seen = self.seen, []
        return {"gpu_percent": sum(seen) / len(seen)} if seen else {}
