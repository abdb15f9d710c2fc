"""What a caller of `fit` may be told while it runs, and how it ends the fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from hlvnn.errors import ConfigError
from hlvnn.marks import TOLD, marking
from hlvnn.models.model import HierarchicalModel
from hlvnn.random import seeding
from hlvnn.training.epoch_report import EpochReport
from hlvnn.training.profile import Profile

NAMES = ON_STEP, ON_EPOCH, ON_PROFILE = "on_step", "on_epoch", "on_profile"
"""Methods of a callback; it has one of them, or several."""

Told: TypeAlias = Callable[[HierarchicalModel, Any], object]


@dataclass(frozen=True)
class StepReport:
    """A step of a fit that was just done.

    number: of the fit, from 1, and the epoch that it is in; loss: of the batch, before the step;
    index: the batch's rows, their numbers among the training rows, [B] int64; lr: the network's.
    """

    number: int
    epoch: int
    loss: float
    index: Tensor
    lr: float


class Callbacks:
    """The callbacks of a fit: objects with `on_step(model, step)`, `on_epoch(model, epoch)`.

    Or `on_profile(model, profile)`, which ends no fit.
    What they draw from torch's random streams changes nothing of the fit.
    Raises `ConfigError` for an object without either, and for an answer but None, True or False.
    """

    def __init__(self, given: object, model: HierarchicalModel) -> None:
        self.model = model
        several = given if isinstance(given, Iterable) else (given,)
        callbacks: list[object] = list(several)
        for one in callbacks:
            if not any(callable(getattr(one, name, None)) for name in NAMES):
                raise ConfigError(
                    f"callbacks: {one!r} has neither on_step(model, step) nor on_epoch(model, "
                    "epoch); give an object with such a method"
                )
        self.on_step, self.on_epoch, self.on_profile = (
            [getattr(one, name) for one in callbacks if callable(getattr(one, name, None))]
            for name in NAMES
        )

    def step(self, step: StepReport) -> bool:
        """Tell of a step; return whether the fit is to end."""
        return self._tell(ON_STEP, self.on_step, step)

    def epoch(self, epoch: EpochReport) -> bool:
        """Tell of an evaluated epoch; return whether the fit is to end."""
        return self._tell(ON_EPOCH, self.on_epoch, epoch)

    def profile(self, profile: Profile) -> None:
        """Tell of where the time goes."""
        self._tell(ON_PROFILE, self.on_profile, profile)

    def _tell(self, name: str, told: list[Told], what: StepReport | EpochReport | Profile) -> bool:
        if not told:
            return False
        training = self.model.training
        with seeding(0, self.model.device), torch.enable_grad(), marking(TOLD):
            answers = [_truth(name, one(self.model, what)) for one in told]
        self.model.train(training)
        return any(answers)


def _truth(name: str, answer: object) -> bool:
    if answer is None or isinstance(answer, bool | np.bool_):
        return bool(answer)
    raise ConfigError(f"{name} returned {answer!r:.80}; expected True to end the fit, or nothing")
