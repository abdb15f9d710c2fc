"""Pooled references: trained as long as the winner, marked, in no ranking, and compared with it."""

from __future__ import annotations

import dataclasses
import html
import io
import shutil
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from hlvnn.analysis import compare, load_sweep
from hlvnn.analysis.gains import gains
from hlvnn.analysis.report import write_report
from hlvnn.commands import prune, tune_search
from hlvnn.files import write_rows
from hlvnn.records import outcomes, run_folder, trials_table
from hlvnn.records.outcomes import Outcome, Status
from hlvnn.records.references import REFERENCE
from hlvnn.sweep import plan, references
from hlvnn.sweep.context import Context
from hlvnn.sweep.driver import Plan
from tests.rayless import run_sweep

SPACE = """
BASE = {"dataset": "digits", "backbone": "mlp", "hidden": [12], "batch_size": 64, "num_epochs": 4}
METRIC, MODE = "val_acc", "max"

def space(trial):
    lr = trial.suggest_float("lr", 1e-4, 1e-1, log=True)
    if trial.number == 0:
        return {"lr": 0.02, "latent_config": "factor", "z_dim": 3, "patience": 3}
    return {"lr": 3e-3 if trial.number == 1 else 1e-5, "latent_config": "none"}
"""
EPOCHS, CUT = 4, 2


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep that latents win, and whose best pooled trial was stopped after two epochs."""
    root = tmp_path_factory.mktemp("made") / "root"
    sweep = run_sweep(root, SPACE, 3, ["--num-trials", "3"])
    folder = outcomes.trial_folder(sweep, 1)
    rows = run_folder.read_metrics(folder).head(CUT).to_dict("records")
    write_rows(folder / run_folder.METRICS, rows)
    outcomes.write(sweep, Outcome(trial=1, status=Status.STOPPED, reason="a rung"))
    return root


@pytest.fixture
def context(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    shutil.copytree(made, tmp_path / "root")
    monkeypatch.chdir(tmp_path / "root")
    sweep = Path("results/digits/s")
    planned: Plan = plan.of(tune_search.parse(["--resume", str(sweep)]))
    return Context.of(planned, 1, Console(file=io.StringIO(), width=200))


def table(context: Context) -> pd.DataFrame:
    return context.save_table(alive=False)


def test_the_winner_and_the_pooled_trial_that_was_cut_are_trained_as_long_as_the_winner(
    context: Context,
) -> None:
    tasks, why = references.wanted(context, table(context))
    assert why == ""
    assert [task.reference.source for task in tasks] == [0, 1]
    assert [task.reference.name for task in tasks] == [
        "reference_0000_own_4",
        "reference_0000_pooled_0001_4",
    ]
    own, pooled = (task.settings for task in tasks)
    assert (own["lr"], own["latent_config"], own["patience"]) == (0.02, ["none"], None)
    assert (pooled["lr"], pooled["num_epochs"]) == (3e-3, EPOCHS)
    for task in tasks:
        assert references.run(task) == ""
    before = trials_table.ranked(table(context), context.space)["trial"].tolist()
    assert before == [0, 1, 2]

    results = load_sweep(context.sweep)
    assert results.problems == []
    assert results.trials["trial"].tolist() == [0, 1, 2]
    assert results.references[["trial", "winner", "source"]].to_numpy().tolist() == [
        [-1, 0, 0],
        [-2, 0, 1],
    ]
    assert results.references["epochs"].tolist() == [EPOCHS, EPOCHS]
    assert results.baselines(0) == [-1, -2]  # what learned nothing is behind
    assert int(results.groups.read(["trial"])["trial"].min()) >= 0
    assert set(results.epochs["trial"]) == {0, 1, 2}
    frame = gains(results)
    assert frame.attrs["trials"] == (0, -1)
    assert frame.attrs["fair"].epochs == tuple(
        int(results.row(number)["best_epoch"]) for number in (0, -1)
    )
    assert frame.attrs["fair"].is_whole
    assert frame.attrs["test"] is not None
    whole = compare([results])
    expected = results.row(0)["best_val_acc"] - results.row(-1)["best_val_acc"]
    assert whole["gain"][0] == pytest.approx(expected)
    assert whole["gain_over"][0] == "trial 0's own settings without latents"
    page = html.unescape(write_report(results, num_samples=2).read_text(encoding="utf-8"))
    assert "(the pooled model, trial 0's own settings without latents) has test accuracy" in page
    assert "Both trained for 4 epochs." in page
    assert "Over the best pooled trial, 1, trained as long, both at 4 epochs, the mean gain" in page

    assert references.wanted(context, table(context)) == ([], "")  # they are there
    found, _ = prune.waste(context.sweep, keep=0)
    assert found
    assert not [one for one in found if "reference_" in str(one.path)]


def test_time_that_is_over_leaves_a_reference_for_resume(context: Context) -> None:
    tasks, _ = references.wanted(context, table(context))
    hurried = dataclasses.replace(tasks[0], seconds=0.0)
    assert references.run(hurried) == ""
    assert len(run_folder.read_metrics(Path(hurried.folder))) == 1
    assert len(load_sweep(context.sweep).references) == 0, "half a reference compares with nothing"
    again, _ = references.wanted(context, table(context))
    assert [task.reference for task in again] == [task.reference for task in tasks]
    assert references.run(again[0]) == ""
    assert len(run_folder.read_metrics(Path(again[0].folder))) == EPOCHS


def test_no_reference_is_trained_that_is_not_wanted(context: Context) -> None:
    frame = table(context)
    unfinished = frame.assign(unfinished=[False, False, True])
    assert references.wanted(context, unfinished) == ([], ""), "a trial has not ended"
    options = context.options.model_copy(update={"pooled_reference": False})
    without = dataclasses.replace(context, plan=dataclasses.replace(context.plan, options=options))
    assert references.wanted(without, frame) == ([], "")
    shown = frame.assign(best_val_acc=[0.0, 0.9, 0.1])
    assert references.wanted(context, shown) == (
        [],
        "no pooled reference: the best trial has no latents itself",
    )


def test_another_winner_has_references_of_its_own_and_the_earlier_ones_stay(
    context: Context,
) -> None:
    tasks, _ = references.wanted(context, table(context))
    assert references.run(tasks[0]) == ""
    path = context.sweep / tasks[0].reference.name / REFERENCE
    path.write_text(path.read_text().replace('"winner": 0', '"winner": 7'), encoding="utf-8")
    results = load_sweep(context.sweep)
    assert len(results.references) == 1
    assert results.baselines(0) == [1], "of another winner: the pooled trial as it is"
    path.write_text("{", encoding="utf-8")
    assert any(REFERENCE in problem for problem in load_sweep(context.sweep).problems)
