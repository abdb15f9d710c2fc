"""Schedulers: whom the median rule stops, how hyperband holds its brackets, who is left to end."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, get_args

import pytest

from hlvnn.records.schedulers import SCHEDULERS, Halving
from hlvnn.records.searchers import SEARCHERS
from hlvnn.sweep.options import SweepConfig
from hlvnn.sweep.schedulers import MAKERS, Rules
from hlvnn.sweep.trainable import scalars
from tests.sweep.epochs import rows


def test_the_flags_offer_what_the_tables_hold() -> None:
    fields = SweepConfig.model_fields
    assert set(get_args(fields["scheduler"].annotation)) == {*SCHEDULERS}
    assert set(get_args(fields["searcher"].annotation)) == {*SEARCHERS}
    assert SweepConfig().scheduler == "asha"


class Controller:
    """What Ray's schedulers see of the loop that calls them: the trials, and stopping one."""

    def __init__(self) -> None:
        self.stopped: list[int] = []
        self.scheduler: Any = None

    def stop_trial(self, trial: Any) -> None:
        self.scheduler.on_trial_remove(self, trial)
        self.stopped.append(trial.config["trial"])

    def get_live_trials(self) -> list[Any]:
        return []


def trial(number: int) -> Any:
    return SimpleNamespaceHashable(
        trial_id=f"id{number}", config={"trial": number}, status="RUNNING", is_saving=False
    )


class SimpleNamespaceHashable(SimpleNamespace):
    __hash__ = object.__hash__


RULES = Rules("val_acc", "max", max_epochs=9, grace_period=1, reduction_factor=3)


def test_the_median_rule_stops_who_is_behind_and_takes_up_an_earlier_sweep() -> None:
    for replayed in (False, True):
        scheduler = MAKERS["median"](RULES)
        past = [rows([0.5, 0.6, 0.7]), rows([0.6, 0.7, 0.8]), rows([0.4, 0.5, 0.6])]
        if replayed:
            scheduler.refill(past, {})
        bad = trial(9)
        scheduler.on_trial_add(Controller(), bad)
        decision = scheduler.on_trial_result(Controller(), bad, rows([0.1])[0])
        assert decision == ("STOP" if replayed else "CONTINUE")
        assert ("behind the median" in scheduler.reasons.get("id9", "")) == replayed


def test_a_band_is_as_large_as_its_brackets() -> None:
    scheduler = MAKERS["hyperband"](RULES)
    for number in range(SCHEDULERS["hyperband"].drawn_at_once(Halving(9, 1, 3), 1)):
        scheduler.on_trial_add(Controller(), trial(number))
    assert scheduler.debug_string().count("Round") == 1
    scheduler.on_trial_add(Controller(), trial(99))
    assert scheduler.debug_string().count("Round") == 2


def test_hyperband_lets_a_third_of_a_bracket_go_on() -> None:
    scheduler, controller = MAKERS["hyperband"](RULES), Controller()
    controller.scheduler = scheduler
    trials = [trial(number) for number in range(3 + 5)]  # a bracket of 3 at 9 epochs, 5 at 3
    for one in trials:
        scheduler.on_trial_add(controller, one)
    bracket = trials[3:]
    for one in bracket:
        values = [0.1 * one.config["trial"]] * 3
        *_, last = (scheduler.on_trial_result(controller, one, row) for row in rows(values))
        if one is not bracket[-1]:
            assert last == "PAUSE"
            one.status = "PAUSED"
    assert last == "CONTINUE"
    assert sorted(controller.stopped) == [3, 4, 5]
    assert "best 1/3 of its bracket" in scheduler.reasons["id3"]


@pytest.mark.parametrize("name", [*SCHEDULERS])
def test_a_diverged_or_ending_trial_is_left_to_end(name: str) -> None:
    scheduler, controller = MAKERS[name](RULES), Controller()
    controller.scheduler = scheduler
    scheduler.refill([rows([0.5] * 8)] * 4, {})
    lost, last = trial(1), trial(2)
    diverged = scalars({"epoch": 1, "diverged": 1.0}, 9, {"val_acc": -math.inf})
    for one, row in ((lost, diverged), (last, rows([0.1], num_epochs=1)[0])):
        scheduler.on_trial_add(controller, one)
        assert scheduler.on_trial_result(controller, one, row) == "CONTINUE"
        scheduler.on_trial_complete(controller, one, row)
    assert scheduler.reasons == {}
