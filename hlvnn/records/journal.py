"""The sweep's memory: an Optuna study in a journal file, which only the driver writes.

Each trial keeps its number in the sweep and its settings as attributes of its Optuna trial. One
that was cut short stays open there (RUNNING) until the sweep goes on with it, so that each trial of
the sweep is one trial of the study.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hlvnn.choices import meant
from hlvnn.config import in_todays_terms
from hlvnn.errors import RunError
from hlvnn.gone import values_set
from hlvnn.patience import Patience
from hlvnn.search_space import quieting_optuna
from hlvnn.words import Settings

JOURNAL = "optuna.journal"
STUDY = "sweep"
NUMBER = "trial"
"""Attribute of an Optuna trial: the number of its trial in the sweep."""
DRAW = "draw"
"""Attribute of an Optuna trial: the other fields of its `Draw`."""


def _meant(params: dict[str, Any]) -> Settings:
    return {name: meant(value) for name, value in params.items()}


@dataclass(frozen=True)
class Draw:
    """One trial as it was drawn."""

    number: int
    settings: Settings = field(default_factory=dict)
    """Every setting of the run, flat; as far as they are known where the draw is invalid. Of those
    that are gone (`hlvnn.gone`) there are the ones that were set."""
    drawn: Settings = field(default_factory=dict)
    """What Optuna drew, by its parameters' names."""
    problem: str = ""
    """Why the draw is invalid, or ""."""


class _File(JournalFileBackend):
    """Optuna's journal file, written by one process, which waits where storage fails."""

    def __init__(self, path: Path, patience: Patience | None) -> None:
        super().__init__(str(path))
        self.path = path
        self.patience = patience or Patience(0.0)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self.patience.patiently(lambda: self._append(logs), str(self.path))

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        yield from self.patience.patiently(lambda: self._read(log_number_from), str(self.path))

    def _read(self, log_number_from: int) -> list[dict[str, Any]]:
        return list(super().read_logs(log_number_from))

    def _append(self, logs: list[dict[str, Any]]) -> None:
        size = self.path.stat().st_size
        try:
            super().append_logs(logs)
        except OSError:
            with suppress(OSError):
                os.truncate(self.path, size)  # the part of a line that a full disk took
            raise


class Journal:
    """An Optuna study on a sweep's journal file."""

    def __init__(self, storage: JournalStorage) -> None:
        self.storage = storage
        self.study = optuna.load_study(study_name=STUDY, storage=storage)

    @classmethod
    def create(cls, sweep: Path, *modes: str, patience: Patience | None = None) -> Journal:
        """Begin a study of one objective ("max" or "min"), or of several."""
        storage = JournalStorage(_File(sweep / JOURNAL, patience))
        directions = [
            StudyDirection.MAXIMIZE if mode == "max" else StudyDirection.MINIMIZE for mode in modes
        ]
        with quieting_optuna():
            optuna.create_study(storage=storage, study_name=STUDY, directions=directions)
        return cls(storage)

    @classmethod
    def open(cls, sweep: Path, patience: Patience | None = None) -> Journal:
        """Open a study; raise `RunError` when the sweep has none, or a damaged one."""
        path = sweep / JOURNAL
        if not path.exists():
            raise RunError(f"{path} is missing")
        try:
            found = cls(JournalStorage(_File(path, patience)))
            found.draws()
            return found
        except RunError:
            raise
        except Exception as error:  # what damaged lines make Optuna raise has no end
            raise RunError(
                f"{path} is damaged ({type(error).__name__}: {error}); restore it from a copy"
            ) from error

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
                if not isinstance(number, int):
                    raise RunError(f"a trial's number must be an integer, got {number!r}")
                draw = Draw(number, **trial.user_attrs.get(DRAW, {}))
                old = values_set(draw.settings)  # to be shown
                draw = replace(draw, settings=in_todays_terms(draw.settings) | old)
                found[number] = replace(draw, drawn=_meant(trial.params)) if trial.params else draw
        return dict(sorted(found.items()))

    def settle(self, number: int, values: list[float] | None) -> None:
        """Tell Optuna how a trial ended, where the driver was killed before it could.

        values: the last of each metric, or None when it failed.
        """
        trial = self.latest()[number]
        if not trial.state.is_finished():
            state = TrialState.FAIL if values is None else TrialState.COMPLETE
            self.study.tell(trial.number, values, state=state)

    def reopen(self, number: int) -> None:
        """Begin an Optuna trial anew for a trial that failed: with what was drawn for it."""
        failed = self.latest()[number]
        again = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=failed.params,
            distributions=failed.distributions,
            user_attrs=failed.user_attrs,
        )
        self.study.add_trial(again)

    def to_continue(self, numbers: list[int]) -> list[int]:
        """Return the ids of the Optuna trials that go on: those of the sweep's trials `numbers`.

        One that was asked for and not yet numbered when the driver was killed comes last.
        """
        latest = self.latest()
        for number in numbers:
            if latest[number].state.is_finished():
                raise RunError(
                    f"trial {number} is over in {JOURNAL}, and has no outcome that says so; "
                    "restore its outcome.json, or start a new sweep"
                )
        unnumbered = [
            trial
            for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            if NUMBER not in trial.user_attrs
        ]
        return [trial._trial_id for trial in [*(latest[n] for n in numbers), *unnumbered]]

    def __len__(self) -> int:
        return len(self.study.get_trials(deepcopy=False))


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


DAMAGED = (ValueError, KeyError, TypeError, OSError, RunError)
"""What reading a damaged journal raises, beside Optuna's own."""


class _ReadOnly(BaseJournalBackend):
    """A journal that is read up to its last whole line, even while a driver writes it."""

    def __init__(self, path: Path) -> None:
        text = path.read_bytes()
        whole = text[: text.rfind(b"\n") + 1].splitlines()
        self.logs: list[dict[str, Any]] = [json.loads(line) for line in whole]

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        return self.logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        raise RunError("a sweep that is read is not written to")


@dataclass
class Drawn:
    """What the sweep's journal knows: each trial as it was drawn, and as Optuna knows it."""

    draws: dict[int, Draw] = field(default_factory=dict)
    optuna: dict[int, FrozenTrial] = field(default_factory=dict)


def read_journal(sweep: Path, problems: list[str]) -> Drawn:
    """Read the journal. What is wrong with it is added to `problems`, and the rest goes on."""
    path = sweep / JOURNAL
    if not path.exists():
        problems.append(f"{JOURNAL} is missing: trials that never began are not known by settings")
        return Drawn()
    try:
        journal = Journal(JournalStorage(_ReadOnly(path)))
        return Drawn(journal.draws(), journal.latest())
    except (*DAMAGED, optuna.exceptions.OptunaError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        problems.append(f"{JOURNAL} cannot be read ({said}): draws are taken from the trials")
        return Drawn()
