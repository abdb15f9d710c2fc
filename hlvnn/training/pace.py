"""How far the steps of groups, priors and noise go in the course of a fit."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

PASSES = 5.0
"""Passes over the rows of which a group's mean is the average, at most."""
FINDING = 3.0
"""The same at the fit's end where loadings are learned or lie below what is: what a mean is to be
changes with them, and passes of long ago hold it back."""
KEPT = 0.98
"""What running means keep for each batch that is taken in."""


TINY = 1e-12
"""Least value of what is divided by."""
LEAST_NOISE = 0.5
"""Least share of its first steps that the noise takes in later epochs: rows that are far out would
have it follow the last batches."""
HELD = 0.5
"""Share of a fit in which the prior of a latent that starts small does not fall below its start:
until its loadings have found a direction, its groups cannot show that they differ."""


class Pace(NamedTuple):
    """How far a step goes, as shares of a whole one: of means; of priors and sizes; of the noise.

    finding: of means whose effect the network learns as well (`Latent.starts_small`). floor: share
    of its start below which a prior that starts small does not fall.
    """

    means: float | Tensor
    finding: float | Tensor
    priors: float | Tensor
    noise: float | Tensor
    floor: float | Tensor


def pace(progress: float, done: float, passes: float = PASSES, *, held: bool = True) -> Pace:
    """Return the pace of a step at a share of the fit, 0..1, `done` epochs after its beginning.

    passes: of which a mean is the average, at most; 1 where gradients are without noise. held:
    whether priors that start small are held at first.
    """
    left = 1 - progress
    priors = min(1.0, 10 * left)
    floor = min(1.0, max(0.0, 10 * (left - 1 + HELD))) if held else 0.0
    noise = priors * max(LEAST_NOISE, 1 / max(1.0, done))
    if passes == 1:
        return Pace(1.0, 1.0, priors, priors, floor)
    last = min(1.0, 4 * left)
    means = last / min(passes, max(1.0, done))
    finding = last / min(passes, max(1.0, FINDING * (1 - left)))
    return Pace(means, finding, priors, noise, floor)


class Running:
    """A mean that forgets. Each of its values is of so many batches."""

    def __init__(self, like: Tensor, batches: int) -> None:
        self.kept = KEPT**batches
        self.total = torch.zeros_like(like)
        self.weight = torch.zeros((), device=like.device)

    def add(self, value: Tensor) -> None:
        """Take in a batch's value."""
        self.weight.mul_(self.kept).add_(1 - self.kept)
        self.total.mul_(self.kept).add_(value, alpha=1 - self.kept)

    def forget(self) -> None:
        """Begin anew."""
        self.weight.zero_()
        self.total.zero_()

    @property
    def mean(self) -> Tensor:
        return self.total / self.weight.clamp(min=1e-12)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"total": self.total, "weight": self.weight}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what a checkpoint kept."""
        self.total.copy_(state["total"])
        self.weight.copy_(state["weight"])
