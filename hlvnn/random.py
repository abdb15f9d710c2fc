"""Random numbers without touching the caller's: seeded streams beside torch's own, or in its place.

Dropout and most of `torch.distributions` take no generator; `seeding` is how they get one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

TORCHS, TORCHS_CUDA = "random", "random_cuda"
"""Names in a checkpoint of the states of torch's own streams, on the CPU and on the GPU …"""
NOISE, NOISE_CUDA = "noise", "noise_cuda"
"""… and of a `Noise`, of its parts there."""

OLD_NOISE = "the checkpoint has no random stream of the latents: it begins anew, from the seed"
"""What is told of one that was written before there was one."""


@contextmanager
def seeding(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Seed torch's random stream inside the block, and give the caller's back afterwards."""
    device = torch.device(device)
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


class Noise:
    """A random stream of its own, on the CPU and on a device, apart from torch's of the same seed.

    What draws from it leaves torch's own stream alone, and with it dropout, augmentation and
    whatever else comes after: two models that differ by such draws alone see the same of all that.
    """

    def __init__(self, seed: int, device: torch.device | str = "cpu") -> None:
        (own,) = np.random.SeedSequence([seed % 2**63, 1]).generate_state(1, np.uint64)
        devices = {torch.device("cpu").type: torch.device("cpu")}
        devices[torch.device(device).type] = torch.device(device)
        self.generators = {
            kind: torch.Generator(one).manual_seed(int(own) >> 1) for kind, one in devices.items()
        }

    def normal(self, size: torch.Size, like: Tensor) -> Tensor:
        """Return standard normal numbers [*size], of the kind and on the device of `like`."""
        generator = self.generators[like.device.type]
        return torch.randn(size, generator=generator, dtype=like.dtype, device=like.device)

    @contextmanager
    def lending(self) -> Iterator[None]:
        """Put this stream in the place of torch's own inside the block.

        For what draws without a generator. It waits for a GPU, so no CUDA graph can hold it.
        """
        pairs = [(_torchs(own.device), own) for own in self.generators.values()]
        before = [torchs.get_state() for torchs, _ in pairs]
        for torchs, own in pairs:
            torchs.set_state(own.get_state())
        try:
            yield
        finally:
            for (torchs, own), state in zip(pairs, before, strict=True):
                own.set_state(torchs.get_state())
                torchs.set_state(state)

    def state(self) -> dict[str, Tensor]:
        """Return where the stream is, for a checkpoint."""
        return {
            NOISE if kind == "cpu" else NOISE_CUDA: own.get_state()
            for kind, own in self.generators.items()
        }

    def take_up(self, state: dict[str, Any]) -> bool:
        """Go on from where a checkpoint's stream was; return whether it holds one.

        On another kind of device than the checkpoint's, that device's part stays at its start.
        """
        for kind, own in self.generators.items():
            name = NOISE if kind == "cpu" else NOISE_CUDA
            if name in state:
                own.set_state(state[name])
        return NOISE in state


class Mirrored(Noise):
    """Torch's own stream, with draws in pairs n and −n along the first axis.

    A mean over draws of z is so without the error of what is linear in z (antithetic variates;
    Hammersley and Morton 1956). The draws of a pair are not independent.
    """

    def __init__(self) -> None:
        self.generators = {}

    def normal(self, size: torch.Size, like: Tensor) -> Tensor:
        first = (size[0] + 1) // 2
        half = torch.randn((first, *size[1:]), dtype=like.dtype, device=like.device)
        return torch.cat([half, -half[: size[0] - first]])


def streams(device: torch.device) -> dict[str, Tensor]:
    """Return where torch's own streams are, for a checkpoint."""
    states = {TORCHS: torch.get_rng_state()}
    if device.type == "cuda":
        states[TORCHS_CUDA] = torch.cuda.get_rng_state(device)
    return states


def take_up_streams(state: dict[str, Any], device: torch.device) -> None:
    """Put torch's own streams where a checkpoint has them."""
    torch.set_rng_state(state[TORCHS])
    if device.type == "cuda" and TORCHS_CUDA in state:
        torch.cuda.set_rng_state(state[TORCHS_CUDA], device)


def _torchs(device: torch.device) -> torch.Generator:
    """Return the generator of torch's own stream on a device."""
    if device.type == "cpu":
        return torch.default_generator
    generator: torch.Generator = torch.cuda.default_generators[device.index]
    return generator
