"""What Ray asks for each new trial: Optuna's draw, made into a trial of the sweep."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import optuna

from hlvnn import search_space
from hlvnn.config import PLACES, flatten
from hlvnn.errors import ConfigError
from hlvnn.records.journal import DRAW, NUMBER, Draw
from hlvnn.sweep.context import Context
from hlvnn.words import Settings

OF_NOW = ("device", *PLACES)
"""Settings of a trial that goes on that are those of its driver, not of its draw."""


class Proposer:
    """The define-by-run function that Ray's OptunaSearch calls for each new trial.

    It adds the trial's number, settings and folder to the parameters that Optuna drew.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.earlier = context.journal.draws()
        self.next = max(self.earlier, default=-1) + 1

    def __call__(self, trial: optuna.Trial) -> dict[str, Any]:
        number = trial.user_attrs.get(NUMBER)
        if number is None:
            number, self.next = self.next, self.next + 1
            trial.set_user_attr(NUMBER, number)
        draw = self.draw(trial, number)
        if number in self.earlier and self.earlier[number].settings:
            # this time it was drawn for Optuna's sake: its settings stay
            draw = _second_start(self.earlier[number], draw)
        trial.set_user_attr(
            DRAW, {"settings": draw.settings, "drawn": draw.drawn, "problem": draw.problem}
        )
        self.context.board.add(draw)
        return {
            "trial": number,
            "settings": json.dumps(draw.settings),
            "folder": str(self.context.folder(number)),
            "problem": draw.problem,
        }

    def draw(self, trial: optuna.Trial, number: int) -> Draw:
        """Return one draw; an invalid one carries its problem and will be recorded as failed."""
        space, fixed = self.context.space, self.context.plan.fixed
        settings: Settings = {}
        try:
            drawing = space.drawing(trial, number, self.context.options.seed, fixed)
            settings = drawing.settings
            config = search_space.validated(space, drawing, number)
        except ConfigError as error:
            return Draw(number, _plain(settings), _plain(trial.params), str(error))
        return Draw(number, flatten(config), _plain(drawing.drawn))


def _plain(values: Settings) -> Settings:
    """Return values as JSON holds them."""
    plain: Settings = json.loads(json.dumps(values, default=str))
    return plain


def _second_start(before: Draw, now: Draw) -> Draw:
    """Return a draw for its second start, on the devices and the data's places of now."""
    of_now = {name: now.settings[name] for name in OF_NOW if name in now.settings}
    return replace(before, settings={**before.settings, **of_now})
