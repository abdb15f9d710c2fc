"""Searchers: they learn from earlier trials, repeat nothing, and count a grid."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from hlvnn import search_space
from hlvnn.errors import ConfigError
from hlvnn.records.journal import Journal
from hlvnn.records.searchers import SEARCHERS
from hlvnn.sweep import plan
from hlvnn.sweep.options import SweepConfig
from hlvnn.sweep.searchers import grid_size, sampler
from tests.spaces import loaded

GRID = """
BASE = {"dataset": "digits", "backbone": "mlp", "hidden": [8], "num_epochs": 2}
METRIC, MODE = "val_acc", "max"

def space(trial):
    drawn = {"latent_config": trial.suggest_categorical("latent_config", ["none", "factor"])}
    drawn["dropout"] = trial.suggest_float("dropout", 0.0, 0.4, step=0.2)
    if drawn["latent_config"] == "factor":
        drawn["z_dim"] = trial.suggest_int("z_dim", 1, 4)
    return drawn
"""


def test_earlier_trials_inform_the_search_and_its_startup_is_not_repeated(here: Path) -> None:
    """An extended sweep opens the same journal in a new process and asks for more."""
    space = search_space.load("study")

    def distances(journal: Journal, count: int, seed: int) -> list[float]:
        study = optuna.load_study(
            study_name="sweep",
            storage=journal.storage,
            sampler=sampler("tpe", seed, len(journal)),
        )
        found = []
        for _ in range(count):
            one = study.ask()
            off = abs(math.log10(space.function(one)["lr"]) + 2)  # best at 0.01
            study.tell(one, -(off**2))
            found.append(off)
        return found

    first: list[float] = []
    more: list[float] = []
    for seed in range(4):
        folder = here / str(seed)
        folder.mkdir()
        first += distances(Journal.create(folder, "max"), 16, seed)[:10]
        more += distances(Journal.open(folder), 8, seed)  # startup would be 10 draws at random
    assert np.median(more) < 0.6 * np.median(first)


def test_every_searcher_proposes_and_goes_on_without_repeating_itself(here: Path) -> None:
    space = search_space.load("study")
    for name in set(SEARCHERS) - {"grid"}:
        folder = here / name
        folder.mkdir()
        journal = Journal.create(folder, "max")
        for _ in range(2):  # a start, and a resumption
            study = optuna.load_study(
                study_name="sweep", storage=journal.storage, sampler=sampler(name, 3, len(journal))
            )
            for _ in range(6):
                one = study.ask()
                study.tell(one, -((math.log10(space.function(one)["lr"]) + 2) ** 2))
        drawn = [one.params["lr"] for one in journal.study.trials]
        assert len(set(drawn)) == 12, name


def test_the_grid_is_counted_and_every_point_is_drawn_once(here: Path) -> None:
    space = loaded(GRID, "grid")
    assert grid_size(space) == 3 + 3 * 4
    study = optuna.create_study(sampler=sampler("grid", 0))
    for _ in range(15):
        one = study.ask()
        space.function(one)
        with pytest.raises(RuntimeError) if one.number == 14 else _nothing():
            study.tell(one, 0.0)  # after the last point the sampler asks for the study's end
    assert len({str(sorted(one.params.items())) for one in study.trials}) == 15


def _nothing() -> Any:
    from contextlib import nullcontext

    return nullcontext()


def test_a_grid_that_cannot_be_is_refused(here: Path) -> None:
    loaded(GRID, "grid")
    assert len(plan.new_plan(SweepConfig(space="grid", searcher="grid", num_trials=15)).sample) > 0
    with pytest.raises(
        ConfigError, match=r"15 points, --num-trials 16 is more; give --num-tri.*15"
    ):
        plan.new_plan(SweepConfig(space="grid", searcher="grid", num_trials=16))
    with pytest.raises(ConfigError, match="draws 'lr' as a real number without steps"):
        plan.new_plan(SweepConfig(space="study", searcher="grid"))
    loaded(GRID.replace("1, 4", "1, 4000"), "large")
    with pytest.raises(ConfigError, match="more than 2000 points"):
        plan.new_plan(SweepConfig(space="large", searcher="grid"))
    with pytest.raises(ConfigError, match="--max-concurrent 2: hyperband's trials wait"):
        plan.new_plan(SweepConfig(space="study", scheduler="hyperband", max_concurrent=2))
