"""Choices that neither JSON nor a sampler takes as they are reach the trials as they were."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import optuna
import pytest
from rich.console import Console

from hlvnn import search_space
from hlvnn.commands import tune_search
from hlvnn.config import run_config
from hlvnn.errors import ConfigError
from hlvnn.records import journal as journals
from hlvnn.records import outcomes
from hlvnn.records.journal import DRAW, NUMBER, Journal
from hlvnn.records.outcomes import Outcome, Status
from hlvnn.sweep import plan, warm
from hlvnn.sweep.context import Context
from hlvnn.sweep.rehearsal import rehearse
from hlvnn.sweep.searchers import sampler
from tests.rayless import proposer_of, run_sweep
from tests.spaces import loaded

SPACE = """
import enum
import numpy as np

class Structure(enum.Enum):
    PLAIN = "none"
    LATENT = "factor"

WIDTHS = [(8,), (8, 4), [4]]
BASE = {"dataset": "digits", "backbone": "mlp", "batch_size": np.int64(64), "num_epochs": 1}
METRIC, MODE = "val_loss", "min"

def space(trial):
    hidden = trial.suggest_categorical("hidden", WIDTHS)
    assert any(hidden is one for one in WIDTHS)  # the very object
    assert trial.params["hidden"] is hidden
    structure = trial.suggest_categorical("structure", list(Structure))
    assert isinstance(structure, Structure)
    return {
        "hidden": hidden,
        "latent_config": structure,
        "skip": trial.suggest_categorical("skip", [np.bool_(True), np.bool_(False)]),
        "eval_samples": trial.suggest_categorical("eval_samples", np.array([2, 3])),
    }
"""
LISTED = """
BASE = {"dataset": "digits", "num_epochs": 1}
METRIC, MODE = "val_loss", "min"

def space(trial):
    hidden = trial.suggest_categorical("hidden", [[8], [8, 4], None])
    return {"hidden": hidden, "lr": trial.suggest_float("lr", 1e-3, 1e-2)}
"""


@pytest.mark.parametrize("searcher", ["tpe", "gp", "qmc", "random", "grid"])
def test_every_searcher_draws_them_past_its_first_trials_and_trials_get_them(
    here: Path, searcher: str
) -> None:
    loaded(SPACE)
    flags = ["study", "--name", "s", "--searcher", searcher, "--num-trials", "16"]
    planned = plan.new_plan(tune_search.parse(flags))
    planned.sweep.mkdir(parents=True)
    plan.begin(planned)
    journal = Journal.create(planned.sweep, "min")
    proposer = proposer_of(planned)
    for number in range(14):
        journal.study.sampler = sampler(searcher, 0, number)
        trial = journal.study.ask()
        told = proposer(trial)
        assert not told["problem"]
        config = run_config(json.loads(told["settings"]), "test")
        assert config.model.hidden in {(8,), (8, 4), (4,)}
        assert config.train.batch_size == 64
        journal.study.tell(trial, number / 10)
    found = Journal.open(planned.sweep)
    for one in found.study.trials:
        assert one.params["hidden"] in {"[8]", "[8, 4]", "[4]"}
        assert one.params["structure"] in {"none", "factor"}
        assert type(one.params["skip"]) is bool
    drawn = [draw.drawn for draw in found.draws().values()]
    assert {tuple(one["hidden"]) for one in drawn} == {(8,), (8, 4), (4,)}
    if searcher == "grid":
        assert len({json.dumps(one, sort_keys=True) for one in drawn}) == 14


def test_a_sweep_of_them_runs_is_shown_and_teaches_another(here: Path, capsys: Any) -> None:
    sweep = run_sweep(here / "work", SPACE, 3)
    space = loaded(SPACE)
    assert tune_search.main(["study", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "8 4" in shown
    assert "factor" in shown
    journal = Journal.open(sweep)
    for number, trial in enumerate(journal.study.trials):
        journal.study.tell(trial.number, 0.5)
        assert outcomes.read(sweep, number) is not None
    assert len(warm.read(sweep, space).trials) == 3


def test_a_journal_begun_with_lists_goes_on_with_them(here: Path) -> None:
    """As it was written before: Optuna kept the lists themselves."""
    space = loaded(LISTED)
    planned = plan.new_plan(tune_search.parse(["study", "--name", "s", "--num-trials", "20"]))
    planned.sweep.mkdir(parents=True)
    plan.begin(planned)
    journal = Journal.create(planned.sweep, "min")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(12):
            trial = journal.study.ask()
            hidden = trial.suggest_categorical("hidden", [[8], [8, 4], None])  # type: ignore[list-item]
            drawn = {"hidden": hidden, "lr": trial.suggest_float("lr", 1e-3, 1e-2)}
            settings = {**space.base, **planned.fixed, "seed": number, **drawn}
            trial.set_user_attr(NUMBER, number)
            trial.set_user_attr(DRAW, {"settings": settings, "drawn": drawn, "problem": ""})
            journal.study.tell(trial, number / 10)
            outcomes.write(planned.sweep, Outcome(trial=number, status=Status.COMPLETED))
        again = plan.of(tune_search.parse(["--resume", str(planned.sweep)]))
        context = Context.of(again, 1, Console(quiet=True))
        context.journal.study.sampler = sampler("tpe", 0, 12)
        proposer = proposer_of(again)
        for _ in range(3):
            told = proposer(context.journal.study.ask())
            assert not told["problem"]
            assert json.loads(told["settings"])["hidden"] in ([8], [8, 4], None)
    assert len(Journal.open(planned.sweep).draws()) == 15
    known = journals.read_journal(planned.sweep, [])
    assert {json.dumps(one.params["hidden"]) for one in known.optuna.values()} <= {
        "[8]", "[8, 4]", "null"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("choices", "told"),
    [("[object(), 3]", "cannot be a choice"), ("[(1, 2), [1, 2]]", r"hold \[1, 2\] twice")],
)
def test_choices_that_nothing_tells_apart_are_refused(here: Path, choices: str, told: str) -> None:
    space = loaded(LISTED.replace("[[8], [8, 4], None]", choices))
    with pytest.raises(ConfigError, match=told):
        search_space.check(space)


def test_what_a_searcher_cannot_draw_is_seen_before_the_sweep(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it was: the study is given tuples, and its file brings lists back."""
    space = loaded(LISTED.replace("[[8], [8, 4], None]", "[(8,), (8, 4)]"))
    options = tune_search.parse(["study", "--num-trials", "20"])
    rehearse(options, space, {})

    def raw(trial: optuna.Trial) -> dict[str, Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            own = trial._trial  # type: ignore[attr-defined]  # past what keeps them as text
            return {"hidden": own.suggest_categorical("hidden", [(8,), (8, 4)])}  # type: ignore[list-item]

    object.__setattr__(space, "function", raw)
    with pytest.raises(ConfigError, match=r"--searcher tpe: .*cannot be drawn from in trial 1"):
        rehearse(options, space, {})
