"""Optuna's journal: trials that go on, invalid draws, damage, and one driver at a time."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from rich.console import Console

from hlvnn import search_space
from hlvnn.errors import RunError
from hlvnn.records import journal
from hlvnn.records.journal import Journal
from hlvnn.records.sweep_folder import locking
from hlvnn.sweep.context import Context
from hlvnn.sweep.options import SweepConfig
from hlvnn.sweep.plan import Plan
from hlvnn.sweep.proposer import Proposer
from tests.spaces import SPACE


def proposer(here: Path) -> Proposer:
    planned = Plan(SweepConfig(space="study"), search_space.load("study"), here, {}, [])
    return Proposer(Context.of(planned, 1, Console(quiet=True)))


def test_a_trial_that_goes_on_is_the_same_optuna_trial(here: Path) -> None:
    study = Journal.create(here, "max")
    propose = proposer(here)
    first = [propose(study.study.ask()) for _ in range(3)]
    study.study.tell(0, 0.5)

    with (here / journal.JOURNAL).open("ab") as file:
        file.write(b'{"op_code":4,"wor')  # the driver was killed while it wrote
    (here / f"{journal.JOURNAL}.lock").symlink_to(here / journal.JOURNAL)
    journal.mend(here)
    again = Journal.open(here)
    again.study.ask()  # the driver was killed before it gave this one its number
    open_trials = again.to_continue([1, 2])
    assert again.to_continue([1, 2]) == open_trials  # killed once more before they ran
    propose = proposer(here)
    second = [propose(optuna.Trial(again.study, number)) for number in open_trials]
    assert [config["trial"] for config in second] == [1, 2, 3]
    assert second[:2] == first[1:]
    assert sorted(again.draws()) == [0, 1, 2, 3]
    states = [trial.state.name for trial in again.study.trials]
    assert states == ["COMPLETE", "RUNNING", "RUNNING", "RUNNING"]
    # one had ended, and the driver was killed before the study knew
    again.settle(1, 0.7)
    again.settle(2, None)
    again.settle(0, 0.1)  # told already
    told = [(trial.state.name, trial.value) for trial in again.study.trials]
    assert told == [("COMPLETE", 0.5), ("COMPLETE", 0.7), ("FAIL", None), ("RUNNING", None)]
    with pytest.raises(RunError, match=r"trial 1 is over in optuna\.journal"):
        again.to_continue([1])


def test_an_invalid_draw_is_recorded_with_its_problem(here: Path) -> None:
    text = SPACE.replace("return {", 'return {"lr": -1.0} if trial.number == 1 else {')
    (here / "search_spaces" / "study.py").write_text(text, encoding="utf-8")
    study = Journal.create(here, "max")
    propose = proposer(here)
    good, bad = (propose(study.study.ask()) for _ in range(2))
    assert good["problem"] == ""
    assert "lr: Input should be greater than 0" in bad["problem"]
    assert study.draws()[1].problem == bad["problem"]


def test_a_missing_or_damaged_journal_is_named(here: Path) -> None:
    with pytest.raises(RunError, match=r"optuna\.journal is missing"):
        Journal.open(here)
    (here / journal.JOURNAL).write_text("not a journal\n{}\n", encoding="utf-8")
    with pytest.raises(RunError, match=r"optuna\.journal is damaged"):
        Journal.open(here)


def test_two_drivers_do_not_work_on_one_sweep(here: Path) -> None:
    with (
        locking(here / "sweep"),
        pytest.raises(RunError, match=r"is being worked on by process \d+"),
        locking(here / "sweep"),
    ):
        pass
    with locking(here / "sweep"):
        pass
