"""Another sweep's trials: learned from, extended, and told where they do not fit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from benchmarks import recorded
from hlvnn import search_space
from hlvnn.commands import tune_search
from hlvnn.errors import ConfigError, RunError
from hlvnn.files import write_rows
from hlvnn.records import outcomes, run_folder, sweep_folder
from hlvnn.records.journal import Journal
from hlvnn.records.outcomes import Outcome, Status
from hlvnn.sweep import plan, warm
from hlvnn.sweep.options import SweepConfig
from hlvnn.sweep.searchers import sampler
from tests.spaces import SPACE, loaded


def sweep_of(
    space: search_space.Space, folder: Path, lrs: list[float], statuses: list[Status] | None = None
) -> Path:
    """Write what a sweep leaves of trials with these learning rates."""
    folder.mkdir(parents=True)
    journal = Journal.create(folder, space.mode)
    for number, lr in enumerate(lrs):
        status = statuses[number] if statuses else Status.COMPLETED
        journal.study.enqueue_trial({"lr": lr})
        one = journal.study.ask()
        settings = space.function(one)
        one.set_user_attr("trial", number)
        one.set_user_attr("draw", {"settings": settings, "drawn": settings, "problem": ""})
        journal.study.tell(one, 0.5)
        outcomes.write(folder, Outcome(trial=number, status=status))
        told = {"seconds": 1.0, "diverged": 0.0}
        metrics = [{"epoch": e, **told, "val_acc": lr * e, "val_loss": e} for e in (1, 2)]
        write_rows(outcomes.trial_folder(folder, number) / run_folder.METRICS, metrics)
    options = SweepConfig(space=space.name, num_trials=len(lrs)).model_dump(mode="json")
    record = sweep_folder.Record(
        space.name, space.sha256, space.objectives, base={}, fixed={}, options=options, starts=[]
    )
    sweep_folder.write_record(folder, record)
    return folder


def test_another_sweeps_trials_become_completed_trials_of_the_study(here: Path) -> None:
    space = search_space.load("study")
    statuses = [Status.COMPLETED, Status.STOPPED, Status.DIVERGED, Status.FAILED]
    source = sweep_of(space, here / "earlier", [0.01, 0.02, 0.03, 0.04], statuses)
    journal = Journal.create(here, "max")
    earlier = warm.read(source, space)
    for _ in range(2):  # a resumed sweep learns them once
        warm.learn(journal.study, earlier)
    told = [(one.state.name, one.params["lr"], one.value) for one in journal.study.trials]
    assert told == [
        ("COMPLETE", 0.01, 0.02),
        ("COMPLETE", 0.02, 0.04),
        ("COMPLETE", 0.03, -math.inf),
    ]
    assert journal.draws() == {}  # none is a trial of this sweep
    assert earlier.told().startswith("warm start: 3 trials of ")


def test_trials_that_do_not_fit_the_space_are_told(here: Path) -> None:
    source = sweep_of(search_space.load("study"), here / "earlier", [0.002, 0.05])
    narrow = loaded(SPACE.replace("1e-1", "1e-2"), "narrow")
    told = warm.read(source, narrow).told()
    assert "1 trials of" in told
    assert "1 do not fit this space, the first: trial 1: lr = 0.05 is not in 0.001 … 0.01" in told
    for text, why in (
        (SPACE.replace('"lr", 1e-3', '"lr", 0.06'), r"trial 0: lr = 0.002 is not in 0.06 … 0.1"),
        (
            SPACE.replace('suggest_float("lr"', 'suggest_float("rate"'),
            "rate is drawn here, and was",
        ),
        (SPACE.replace('trial.suggest_float("lr", 1e-3, 1e-1, log=True)', "0.1"), "it drew lr ="),
        (
            SPACE.replace("float", "categorical").replace("1e-3, 1e-1, log=True", "[0.5, 0.7]"),
            "lr = 0.002 is none of 0.5, 0.7",
        ),
    ):
        other = loaded(text, "other")
        with pytest.raises(ConfigError, match=f"none of its trials serves .*{why}"):
            warm.read(source, other)
        with pytest.raises(ConfigError, match="--warm-start"):
            plan.new_plan(SweepConfig(space="other", warm_start=str(source)))
    other = loaded(SPACE.replace("val_acc", "val_f1"), "other")
    with pytest.raises(
        ConfigError, match=r"did not measure val_f1.*they measured val_acc, val_los"
    ):
        warm.read(source, other)
    with pytest.raises(RunError, match="is not a sweep"):
        plan.new_plan(SweepConfig(space="study", warm_start=str(here)))
    assert not (here / "results").exists()


def test_extend_asks_for_that_many_more_of_a_finished_sweep(here: Path) -> None:
    space = search_space.load("study")
    source = sweep_of(space, here / "results" / "digits" / "done", [0.01, 0.02])
    options = tune_search.parse(["--extend", str(source), "--num-trials", "5"])
    planned = plan.of(options)
    assert planned.options.num_trials == 2 + 5
    assert (planned.sweep, planned.options.extend) == (source, None)
    outcomes.write(source, Outcome(trial=1, status=Status.STOPPED, unfinished=True))
    with pytest.raises(RunError, match=r"trial 1 has not ended; finish the sweep first: .*--resum"):
        plan.of(options)
    with pytest.raises(ConfigError, match="give only one of them"):
        tune_search.parse(["--extend", str(source), "--resume", str(source)])


TABLE = """
from benchmarks.recorded import GRID

BASE = {"dataset": "digits", "dropout": 0.0}
METRIC, MODE = "val_acc", "max"

def space(trial):
    drawn = {"lr": GRID["lr"][trial.suggest_int("lr", 0, 7)]}
    for name in ("batch_size", "latent_config", "weight_decay"):
        drawn[name] = trial.suggest_categorical(name, GRID[name])
    return drawn
"""


def test_a_warm_start_has_better_first_trials_than_a_cold_one(here: Path) -> None:
    """Recorded runs with dropout teach a search of those without: the first ten of each seed."""
    curves = recorded.load()["val_acc"]
    space = loaded(TABLE, "recorded")

    def measured(settings: dict[str, Any], dropout: float) -> list[float]:
        point = {**settings, "dropout": dropout}
        return curves.loc[tuple(point[name] for name in recorded.GRID)].tolist()

    def first_ten(folder: Path, seed: int, earlier: warm.Earlier | None) -> float:
        folder.mkdir(parents=True)
        journal = Journal.create(folder, "max")
        if earlier is not None:
            warm.learn(journal.study, earlier)
        study = optuna.load_study(
            study_name="sweep", storage=journal.storage, sampler=sampler("tpe", seed, len(journal))
        )
        for _ in range(10):
            one = study.ask()
            study.tell(one, measured(space.function(one), 0.0)[-1])
        return float(np.median([one.value for one in study.trials[-10:]]))

    cold, learned = [], []
    for seed in range(6):
        source = here / f"source_{seed}"
        drawing = optuna.create_study(sampler=sampler("random", 100 + seed))
        source.mkdir()
        journal = Journal.create(source, "max")
        for number in range(14):
            journal.study.enqueue_trial(_params(space, drawing))
            one = journal.study.ask()
            values = measured(space.function(one), 0.25)
            one.set_user_attr("trial", number)
            journal.study.tell(one, values[-1])
            outcomes.write(source, Outcome(trial=number, status=Status.COMPLETED))
            rows = [{"epoch": epoch, "val_acc": value} for epoch, value in enumerate(values, 1)]
            write_rows(outcomes.trial_folder(source, number) / run_folder.METRICS, rows)
        cold.append(first_ten(here / f"cold_{seed}", seed, None))
        learned.append(first_ten(here / f"warm_{seed}", seed, warm.read(source, space)))
    assert np.median(learned) > np.median(cold) + 0.005
    assert np.mean(np.array(learned) > np.array(cold)) > 0.7


def _params(space: search_space.Space, study: optuna.Study) -> dict[str, Any]:
    one = study.ask()
    space.function(one)
    return one.params
