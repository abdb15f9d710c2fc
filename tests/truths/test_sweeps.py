"""Truths planted in a sweep, asked back from its terminal, its tables and its report.

The table is `worlds.rules`: slopes of the wards' own are worth a quarter of all rows, and all that
they are worth lies in three wards. Of the learning rates one learns nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from hlvnn.analysis.gains import gains
from hlvnn.records import run_folder
from tests.conftest import Ended
from tests.truths import worlds
from tests.truths.asking import words_of
from tests.truths.swept import Swept, winner

pytestmark = [pytest.mark.ray, pytest.mark.timeout(280), pytest.mark.xdist_group("ray")]


def test_the_winner_is_the_one_that_was_planted(swept: Swept) -> None:
    results = swept.results
    best = winner(results)
    assert best["structure"].startswith("weights@output level=ward")
    assert best["best_val_acc"] == pytest.approx(0.95, abs=0.05)
    pooled = results.row(int(results.pooled_trial))
    assert pooled["lr"] == 0.05
    assert pooled["best_val_acc"] == pytest.approx(0.68, abs=0.08)
    # the terminal's leaderboard: rank, trial, and the metric to four digits
    first = next(line for line in swept.printed.splitlines() if re.match(r"│\s+1 │", line))
    assert f" {best['trial']} │" in first
    assert f"{best['best_val_acc']:.4g}" in first
    assert f"--from-trial results/wards/one/trial_{best['trial']:04d}" in swept.printed


def test_the_report_says_who_won(swept: Swept) -> None:
    best = winner(swept.results)
    text = words_of(swept.folder / "report.html")
    assert f"Best is trial {best['trial']}, latents weights@output level=ward" in text
    assert re.search(r"trials\s+4: 4 completed", text)
    assert "3 groups gain and 0 lose beyond their own error" in text
    # 30 % of the rows turn from nearly always wrong to right
    gain = re.search(r"the mean gain by latents in test accuracy is \+(0\.\d+)", text)
    assert gain is not None
    assert float(gain[1]) == pytest.approx(0.3 * 0.9, abs=0.08)


def test_the_groups_that_gain_are_those_whose_rule_is_turned_round(swept: Swept) -> None:
    table = gains(swept.results).set_index("label")["gain"]
    turned = table.index.isin(worlds.REVERSED)
    assert (table[turned] > 0.6).all()
    assert (table[~turned].abs() < 0.2).all()


def test_learning_nothing_is_seen_in_the_curves(swept: Swept) -> None:
    results = swept.results
    pooled = results.about["pooled"].astype(bool)  # groups learn, whatever the network's rate
    unmoved = results.trials.loc[(results.settings["lr"] < 1e-6) & pooled, "trial"]
    assert len(unmoved)
    for number in unmoved:
        metrics = results.epochs[results.epochs["trial"] == number]
        assert metrics["val_loss"].max() - metrics["val_loss"].min() < 1e-3
    assert winner(results)["final_val_loss"] < 0.4


def test_the_chosen_epoch_is_one_everywhere(swept: Swept) -> None:
    results = swept.results
    best = winner(results)
    metrics = run_folder.read_metrics(Path(best["folder"]))
    top = metrics[metrics["val_acc"] == metrics["val_acc"].max()]
    assert best["best_epoch"] in top["epoch"].tolist()
    row = metrics[metrics["epoch"] == best["best_epoch"]].iloc[0]
    for name in ("val_acc", "val_loss", "test_acc", "val_group_worst"):
        assert best[f"best_{name}"] == row[name]


def test_the_winner_repeats_itself(
    swept: Swept, train_one: Callable[..., Ended], tmp_path: Path
) -> None:
    best = winner(swept.results)
    ended = train_one("--from-trial", best["folder"], "--name", "again", "--results-dir", tmp_path)
    assert ended.code == 0, ended.err
    again = run_folder.read_metrics(tmp_path / "wards" / "again")
    assert (
        again["val_acc"].tolist()
        == run_folder.read_metrics(Path(best["folder"]))["val_acc"].tolist()
    )
