"""The sweep's memory: an Optuna study in a journal file, which only the driver writes.

Each trial keeps its number in the sweep and its settings as attributes of the Optuna trial. A trial
that is queued again gets a new Optuna trial with the old number, so that it keeps its folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hlvnn import spaces
from hlvnn.config import flatten
from hlvnn.errors import ConfigError, RunError
from hlvnn.spaces import Settings, Space

JOURNAL = "optuna.journal"
STUDY = "sweep"
NUMBER = "trial"
"""Attribute of an Optuna trial: the number of its trial in the sweep."""
DRAW = "draw"
"""Attribute of an Optuna trial: the other fields of its `Draw`."""

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class Draw:
    """One trial as it was drawn."""

    number: int
    settings: Settings = field(default_factory=dict)
    """Every setting of the run, flat; as far as they are known where the draw is invalid."""
    drawn: Settings = field(default_factory=dict)
    """What was neither fixed nor in the space's BASE."""
    problem: str = ""
    """Why the draw is invalid, or ""."""


class Journal:
    """An Optuna study on a sweep's journal file."""

    def __init__(self, storage: JournalStorage) -> None:
        self.storage = storage
        self.study = optuna.load_study(study_name=STUDY, storage=storage)

    @classmethod
    def create(cls, sweep: Path, *modes: str) -> Journal:
        """Begin a study of one objective ("max" or "min"), or of several."""
        storage = JournalStorage(JournalFileBackend(str(sweep / JOURNAL)))
        directions = [
            StudyDirection.MAXIMIZE if mode == "max" else StudyDirection.MINIMIZE for mode in modes
        ]
        optuna.create_study(storage=storage, study_name=STUDY, directions=directions)
        return cls(storage)

    @classmethod
    def open(cls, sweep: Path) -> Journal:
        """Open a study; raise `RunError` when the sweep has none, or a damaged one."""
        path = sweep / JOURNAL
        if not path.exists():
            raise RunError(f"{path} is missing")
        try:
            return cls(JournalStorage(JournalFileBackend(str(path))))
        except (ValueError, KeyError) as error:
            raise RunError(f"{path} is damaged: {error}") from error

    def latest(self) -> dict[int, FrozenTrial]:
        """Return the newest Optuna trial of each trial, by the trial's number."""
        found = {}
        for trial in self.study.get_trials(deepcopy=False):
            if NUMBER in trial.user_attrs:
                found[trial.user_attrs[NUMBER]] = trial
        return found

    def draws(self) -> dict[int, Draw]:
        """Return every trial that was drawn, by its number."""
        found: dict[int, Draw] = {}
        for trial in self.study.get_trials(deepcopy=False):
            number = trial.user_attrs.get(NUMBER)
            if number is not None and (DRAW in trial.user_attrs or number not in found):
                found[number] = Draw(number, **trial.user_attrs.get(DRAW, {}))
        return dict(sorted(found.items()))

    def let_go(self) -> None:
        """Tell Optuna that no trial is running (its sampler keeps away from running ones)."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self.study.tell(trial.number, state=TrialState.FAIL)

    def queue_again(self, numbers: list[int]) -> None:
        """Put trials first in line, with the parameters that they were drawn with."""
        latest = self.latest()
        for number in numbers:
            trial = latest[number]
            if trial.state == TrialState.WAITING:
                continue
            params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
            self.study.enqueue_trial(params, user_attrs=trial.user_attrs)

    def __len__(self) -> int:
        return len(self.study.get_trials(deepcopy=False))


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
            drawn = spaces.drawn_only(self.space, self.fixed, settings)
            config = spaces.validated(self.space, settings, number)
        except ConfigError as error:
            plain = json.loads(json.dumps(settings, default=str))
            return Draw(number, plain, plain, str(error))
        return Draw(number, flatten(config), json.loads(json.dumps(drawn, default=str)))


def _again(before: Draw, now: Draw) -> Draw:
    """Return a draw for its second start, on the devices that the trials have now."""
    device = {"device": now.settings["device"]} if "device" in now.settings else {}
    return replace(before, settings={**before.settings, **device})


def mend(sweep: Path) -> None:
    """Repair what a killed driver can leave: half a last line, and a lock that nobody holds.

    Only for a driver that holds the sweep's own lock.
    """
    path = sweep / JOURNAL
    for lock in sweep.glob(f"{JOURNAL}.lock*"):
        lock.unlink()
    if path.exists():
        whole = path.read_bytes().rfind(b"\n") + 1
        if whole != path.stat().st_size:
            os.truncate(path, whole)
