"""Random numbers without touching the caller's: a seeded stream for the length of a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeding(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Seed torch's random stream inside the block, and give the caller's back afterwards.

    Dropout and `torch.distributions` take no generator of their own; this is how they get one.
    """
    device = torch.device(device)
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
