"""Worlds that leave a run in doubt: it learns nothing, it overfits, its data change behind it."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import hlvnn
from hlvnn.analysis import load_runs
from hlvnn.errors import DataError
from hlvnn.records import run_folder
from hlvnn.records.predictions import read_predictions
from tests.truths import worlds
from tests.truths.asking import EXACT, analysed, first_screen, reported, runs, table, trained

MLP = ("--backbone", "mlp", "--lr", "0.01", "--batch-size", "20", "--val-fraction", "0.3")
FEW = ",".join(worlds.MEASURES)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def overfitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of two runs that overfit, alike but for what chooses their epochs."""
    root = tmp_path_factory.mktemp("few")
    with contextlib.chdir(root):
        worlds.few(root / "few.csv")
        for metric in ("val_loss", "val_acc"):
            flags = table("few.csv", "sick", "ward", FEW, *MLP, "--select-on", metric, name=metric)
            said = trained(*flags, "--num-epochs", 15, "--seed", 1)
            better = "lowest" if metric == "val_loss" else "highest"
            assert f"the epoch that counts (best.pt): of the {better} {metric}" in said
    return root / "results" / "few"


def chosen(metrics: pd.DataFrame, metric: str) -> int:
    """Return the epoch that the rule of the README chooses, written out anew."""
    ordered = metrics.assign(value=-metrics["val_acc"] if metric == "val_acc" else 0.0)
    return int(ordered.sort_values(["value", "val_loss", "epoch"])["epoch"].iloc[0])


def test_certainty_grows_long_after_the_best_epoch_and_each_measure_has_its_own(
    overfitted: Path,
) -> None:
    metrics = run_folder.read_metrics(overfitted / "val_loss")
    by_loss, by_acc = chosen(metrics, "val_loss"), chosen(metrics, "val_acc")
    assert by_loss != by_acc
    assert by_loss < 6
    assert metrics["val_loss"].iloc[-1] > metrics["val_loss"].min() + 0.2
    again = run_folder.read_metrics(overfitted / "val_acc")
    assert again["val_loss"].tolist() == metrics["val_loss"].tolist()


@pytest.mark.parametrize("metric", ["val_loss", "val_acc"])
def test_weights_rows_table_and_latents_are_of_the_chosen_epoch(
    overfitted: Path, metric: str
) -> None:
    folder = overfitted / metric
    metrics = run_folder.read_metrics(folder)
    epoch = chosen(metrics, metric)
    row = metrics[metrics["epoch"] == epoch].iloc[0]
    run = hlvnn.load_run(folder, "best")
    assert run.epoch == epoch
    with contextlib.chdir(overfitted.parents[1]):
        assert run.data.val is not None
        anew = hlvnn.evaluate(run.model, run.data.val).scalars
    kept = read_predictions(folder)
    assert kept is not None
    assert kept.epoch == epoch
    val = kept.table[kept.table["split"] == "val"]
    for found in (anew["loss"], -val["log_prob"].mean()):
        assert found == pytest.approx(row["val_loss"], rel=1e-5)
    for found in (anew["acc"], (val["y"] == val["prediction"]).mean()):
        assert found == pytest.approx(row["val_acc"])
    results = load_runs(overfitted)
    told = results.trials.loc[metric]
    assert told["best_epoch"] == epoch
    assert results.chosen.loc[metric, "test_loss"] == row["test_loss"]


def test_the_report_ranks_each_at_its_own_epoch_and_says_so(overfitted: Path) -> None:
    metrics = run_folder.read_metrics(overfitted / "val_loss")
    epoch = chosen(metrics, "val_loss")
    page = first_screen(reported(overfitted))
    loss = metrics["val_loss"].min()
    assert f"Best is trial 1 (val_loss) without latents at epoch {epoch} of 15: " in page
    assert f"validation nats a row {loss:#.4g}".rstrip(".") in page
    assert "chosen by different measures (val_acc, val_loss)" in page


def test_a_run_that_is_worse_than_guessing_says_so_beside_completed(
    here: Path, overfitted: Path
) -> None:
    worlds.few(here / "few.csv", signal=0.0)
    fit = (*MLP, "--num-epochs", 30, "--eval-every", 30)
    said = trained(*table("few.csv", "sick", "ward", FEW, *fit, name="wild"))
    row = runs("results/few").row(0)
    data = hlvnn.load_run("results/few/wild").data
    assert data.val is not None
    share = (float(data.train.y.double().sum()) + 1) / (len(data.train) + 2)
    sick = data.val.y.double().numpy()
    nats = -(sick * np.log(share) + (1 - sick) * np.log(1 - share)).mean()
    assert row["best_val_loss"] > nats + 0.3
    told = (
        f"its validation loss never fell below {row['best_val_loss']:.4g}, and guessing by the "
        f"training rows' distribution alone has {nats:.4g}"
    )
    assert row["status"] == "completed"
    assert row["reason"] == told
    assert told in said
    page = reported("results/few")
    assert f"Beware of it, completed as it is: {told}." in first_screen(page)
    assert f"0 wild completed {told}" in page
    # noise learned by heart: certain, and right in half of 60 rows
    assert "The best trial's probabilities are too sure: on test rows" in page
    # and where there is something to learn, and it was learned, nothing is said
    assert load_runs(overfitted).trials["reason"].tolist() == ["", ""]


def test_a_table_times_1000_is_not_taken_for_what_a_run_was_trained_on(here: Path) -> None:
    worlds.level_ground(here / "sales.csv")
    fit = (*EXACT, "--backbone", "linear", "--eval-every", 200)
    latents = ("--latents", "bias@output level=shop")
    trained(*table("sales.csv", "y", "shop", "x", *fit, *latents, name="before"))
    before = reported("results/sales")
    assert "Beware: not everything" not in before
    frame = pd.read_csv("sales.csv")
    frame.assign(y=1000 * frame["y"]).to_csv("sales.csv", index=False)
    changed = r"the data set sales has changed since \(hash \w+, was \w+\)"
    with pytest.raises(DataError, match=changed):
        _ = hlvnn.load_run("results/sales/before").data
    with pytest.raises(DataError, match=changed):
        analysed("calibration", "results/sales/before")
    for flags, said in (
        (("--resume", "results/sales/before"), "is not the one that results/sales/before began"),
        (("--from-trial", "results/sales/before", "--name", "again"), "are not those that it was"),
    ):
        with pytest.raises(DataError, match=said):
            trained(*flags)
    assert "the data set sales has changed since" in first_screen(reported("results/sales"))
    # a run on the new numbers beside it: their losses are ln 1000 apart, which means nothing
    trained(*table("sales.csv", "y", "shop", "x", *fit, name="after"))
    results = load_runs("results/sales")
    loss = results.trials["best_val_loss"]
    assert loss["after"] - loss["before"] == pytest.approx(np.log(1000), abs=0.15)
    (problem,) = results.problems
    assert problem.startswith("these runs were trained on different data (by hash, ")
    page = first_screen(reported("results/sales"))
    assert problem in page
    assert "The two were trained on different data" in page
