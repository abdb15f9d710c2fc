"""What the searcher holds of a trial is its chosen epoch's value, whoever tells it, and when."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest

from hlvnn import search_space
from hlvnn.commands import tune_search
from hlvnn.errors import ConfigError
from hlvnn.files import write_rows
from hlvnn.records import outcomes, run_folder
from hlvnn.records.journal import STUDY, Journal
from hlvnn.records.outcomes import Outcome, Status
from hlvnn.sweep import taking_up, warm
from hlvnn.sweep.ray_search import JournaledSearch
from hlvnn.sweep.trainable import _Telling
from tests.spaces import SPACE, loaded
from tests.sweep.test_warm import sweep_of

ACCURACIES = [0.5, 0.9, 0.9, 0.7]
LOSSES = [0.2, 0.6, 0.4, 0.3]
"""The third epoch is chosen: among the best accuracies the lower loss."""
WORST = {"val_acc": -math.inf, "val_loss": math.inf}


def rows(count: int = len(ACCURACIES)) -> list[dict[str, float]]:
    return [
        {"epoch": e, "seconds": 1.0, "diverged": 0.0, "val_acc": acc, "val_loss": loss}
        for e, (acc, loss) in enumerate(zip(ACCURACIES, LOSSES, strict=True), start=1)
    ][:count]


def test_a_trial_tells_its_chosen_epoch_also_after_it_was_taken_up(tmp_path: Path) -> None:
    for begun_at in (1, 4):
        telling = _Telling(tmp_path, 4, WORST)
        for epoch in range(begun_at, 5):
            write_rows(tmp_path / run_folder.METRICS, rows(epoch))
            told = telling.of(rows()[epoch - 1])
        assert (told["val_acc"], told["best_val_acc"], told["best_val_loss"]) == (0.7, 0.9, 0.4)


def test_the_study_is_given_it_when_the_trial_ends(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path, "max")
    search = JournaledSearch(
        lambda trial: {"lr": trial.suggest_float("lr", 0.0, 1.0)},
        metric="val_acc",
        mode="max",
        storage=journal.storage,
        study_name=STUDY,
        sampler=optuna.samplers.RandomSampler(seed=0),
    )
    ending: Any = SimpleNamespace(is_winding_down=False, cut=set())
    search.take_up(ending, [])
    search.suggest("a")
    telling = _Telling(tmp_path, 4, WORST)
    for epoch in range(1, 5):
        write_rows(tmp_path / run_folder.METRICS, rows(epoch))
        told = telling.of(rows()[epoch - 1])
        search.on_trial_result("a", dict(told))
    search.on_trial_complete("a", dict(told))
    (trial,) = Journal.open(tmp_path).study.trials
    assert trial.value == 0.9
    assert [*trial.intermediate_values.values()] == ACCURACIES


def test_a_driver_that_takes_up_a_killed_sweep_tells_the_same(here: Path) -> None:
    space = search_space.load("study")
    folder = sweep_of(space, here / "s", [0.01])
    write_rows(outcomes.trial_folder(folder, 0) / run_folder.METRICS, rows())
    context: Any = SimpleNamespace(space=space, sweep=folder)
    for status, expected in (
        (Status.STOPPED, [0.9]),
        (Status.DIVERGED, [-math.inf]),
        (Status.FAILED, None),
    ):
        assert taking_up._values(context, Outcome(trial=0, status=status)) == expected
    earlier = warm.read(folder, space)
    assert [trial.value for trial in earlier.trials] == [0.9]


def test_a_space_says_by_its_metric_what_chooses_and_by_nothing_else(here: Path) -> None:
    config = search_space.draw(search_space.load("study"), 0)
    assert (config.train.select_on, config.train.select_mode) == ("val_acc", "max")
    twice = loaded(SPACE.replace("BASE = {", 'BASE = {"select_on": "val_loss", '), "twice")
    with pytest.raises(ConfigError, match="BASE sets 'select_on'; METRIC and MODE say"):
        search_space.draw(twice, 0)
    with pytest.raises(SystemExit):
        tune_search.parse(["study", "--select-on", "val_loss"])
