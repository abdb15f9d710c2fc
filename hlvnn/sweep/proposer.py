"""What Ray asks for each new trial: Optuna's draw, made into a trial of the sweep."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna

from hlvnn import search_space
from hlvnn.config import flatten
from hlvnn.errors import ConfigError
from hlvnn.records.journal import DRAW, NUMBER, Draw
from hlvnn.search_space import Space
from hlvnn.words import Settings


class Proposer:
    """The define-by-run function that Ray's OptunaSearch calls for each new trial.

    It adds the trial's number, settings and folder to the parameters that Optuna drew.
    """

    def __init__(
        self,
        space: Space,
        *,
        seed: int,
        fixed: Settings,
        earlier: dict[int, Draw],
        folder_of: Callable[[int], Path],
        on_draw: Callable[[Draw], None],
    ) -> None:
        self.space = space
        self.seed = seed
        self.fixed = fixed
        self.earlier = earlier
        self.next = max(earlier, default=-1) + 1
        self.folder_of = folder_of
        self.on_draw = on_draw

    def __call__(self, trial: optuna.Trial) -> dict[str, Any]:
        number = trial.user_attrs.get(NUMBER)
        if number is None:
            number, self.next = self.next, self.next + 1
            trial.set_user_attr(NUMBER, number)
        draw = self.draw(trial, number)
        if number in self.earlier and self.earlier[number].settings:
            draw = _again(self.earlier[number], draw)  # drawn for Optuna's sake: settings stay
        trial.set_user_attr(
            DRAW, {"settings": draw.settings, "drawn": draw.drawn, "problem": draw.problem}
        )
        self.on_draw(draw)
        return {
            "trial": number,
            "settings": json.dumps(draw.settings),
            "folder": str(self.folder_of(number)),
            "problem": draw.problem,
        }

    def draw(self, trial: optuna.Trial, number: int) -> Draw:
        """Return one draw; an invalid one carries its problem and will be recorded as failed."""
        settings: Settings = {}
        try:
            settings = self.space.settings(trial, number, self.seed, self.fixed)
            drawn = search_space.drawn_only(self.space, self.fixed, settings)
            config = search_space.validated(self.space, settings, number)
        except ConfigError as error:
            plain = json.loads(json.dumps(settings, default=str))
            return Draw(number, plain, plain, str(error))
        return Draw(number, flatten(config), json.loads(json.dumps(drawn, default=str)))


def _again(before: Draw, now: Draw) -> Draw:
    """Return a draw for its second start, on the devices that the trials have now."""
    device = {"device": now.settings["device"]} if "device" in now.settings else {}
    return replace(before, settings={**before.settings, **device})
