"""Several objectives: how they are read, the front of what nobody beats, and its journal."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest

from hlvnn import terminal
from hlvnn.errors import ConfigError
from hlvnn.records import trials_table
from hlvnn.records.journal import Draw, Journal
from hlvnn.sweep.searchers import sampler
from tests.spaces import SPACE, loaded

TWO = SPACE.replace(
    'METRIC, MODE = "val_acc", "max"',
    'METRIC, MODE = ["val_acc", "val_group_p10", "val_loss"], ["max", "max", "min"]',
)


# objectives


def test_several_objectives_are_read_and_wrong_ones_refused(here: Path) -> None:
    space = loaded(TWO, "two")
    assert space.metric == "val_acc"
    assert space.objectives == (("val_acc", "max"), ("val_group_p10", "max"), ("val_loss", "min"))
    assert space.worsts == {"val_acc": -math.inf, "val_group_p10": -math.inf, "val_loss": math.inf}
    both = loaded(TWO.replace('["max", "max", "min"]', '"max"'), "two")
    assert {mode for _, mode in both.objectives} == {"max"}
    with pytest.raises(ConfigError, match="METRIC lists 3 objectives; MODE must be a list of as"):
        loaded(TWO.replace('["max", "max", "min"]', '["max", "min"]'), "two")
    with pytest.raises(ConfigError, match="names an objective twice"):
        loaded(TWO.replace("val_group_p10", "val_acc"), "two")
    with pytest.raises(ConfigError, match="'test_acc': a sweep selects on validation"):
        loaded(TWO.replace("val_group_p10", "test_acc"), "two")


def test_the_pareto_front_is_what_nobody_beats(here: Path) -> None:
    space = loaded(TWO, "two")
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.integers(0, 6, (200, 3)) / 6, columns=[*space.worsts])
    frame = frame.add_prefix("best_").assign(status=rng.choice(["completed", "failed"], 200))
    frame.loc[3, "best_val_acc"] = np.nan
    front = trials_table.on_front(frame, space)
    placed = frame[(frame["status"] == "completed") & frame["best_val_acc"].notna()]
    points = placed[["best_val_acc", "best_val_group_p10"]].assign(low=-placed["best_val_loss"])
    for row, point in points.iterrows():
        beaten = ((points >= point).all(axis=1) & (points > point).any(axis=1)).any()
        assert front[row] == (not beaten)
    assert not front[frame.index.difference(placed.index)].any()


# kept weights


def test_the_front_is_ranked_first_and_told(here: Path) -> None:
    space = loaded(TWO, "two")
    frame = pd.DataFrame(
        {
            "trial": range(4),
            "status": ["completed", "stopped", "completed", "failed"],
            "best_val_acc": [0.9, 0.8, 0.85, 0.99],
            "best_val_group_p10": [0.5, 0.7, 0.5, 0.9],
            "best_val_loss": [0.3, 0.3, 0.4, 0.1],
        }
    )
    frame[trials_table.PARETO] = trials_table.on_front(frame, space)
    ranked = trials_table.ranked(frame, space)
    assert ranked["trial"].tolist() == [0, 1, 2, 3]
    lines = terminal.front(ranked, space)
    assert lines[0] == "Pareto front of val_acc (max), val_group_p10 (max), val_loss (min):"
    assert [line.split(":")[0] for line in lines[1:]] == ["  trial 1", "  trial 0"]
    assert terminal.front(ranked.drop(columns=trials_table.PARETO), space) == []


def test_the_journal_of_several_objectives_draws(here: Path) -> None:
    journal = Journal.create(here, "max", "min")
    study = optuna.load_study(
        study_name="sweep", storage=journal.storage, sampler=sampler("tpe", 0)
    )
    for value in (*np.linspace(0, 1, 12), math.inf):
        one = study.ask()
        one.suggest_float("lr", 0, 1)
        study.tell(one, (-value, value))  # the last one diverged
    assert len(study.best_trials) == 1
    assert study.ask().suggest_float("lr", 0, 1) >= 0
    assert Draw(0).problem == ""
