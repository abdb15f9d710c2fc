"""Truths planted in a sweep, asked back from its terminal, its tables and its report.

The table is `worlds.rules`: slopes of the wards' own are worth a quarter of all rows, and all that
they are worth lies in three wards. Of the learning rates one learns nothing.
"""

from __future__ import annotations

import contextlib
import io
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from hlvnn.analysis import load_sweep
from hlvnn.analysis.gains import gains
from hlvnn.analysis.results import Results
from hlvnn.commands import tune_search
from hlvnn.records import run_folder
from tests.conftest import Ended
from tests.spaces import write_space
from tests.truths import worlds

pytestmark = [pytest.mark.ray, pytest.mark.timeout(280), pytest.mark.xdist_group("ray")]

SPACE = '''"""Wards: does a rule of the ward's own help?

python tune_search.py wards
"""

BASE = {
    "dataset": "table", "table": "wards.csv", "target": "outcome", "groups": ["ward"],
    "features": ["dose", "age"], "backbone": "linear", "num_epochs": 12, "batch_size": 100,
}
METRIC, MODE = "val_acc", "max"
SWEEP = {"num_trials": 4, "searcher": "grid", "scheduler": "none", "max_concurrent": 1}
OWN = "weights@output level=ward posterior=full_rank prior=learned_full"


def space(trial):
    own = trial.suggest_categorical("own", [False, True])
    lr = trial.suggest_categorical("lr", [1e-7, 5e-2])
    return {"lr": lr, "latents": [OWN] if own else []}
'''


class Swept:
    """A sweep that has ended: its folder and what the terminal showed."""

    def __init__(self, folder: Path, printed: str) -> None:
        self.folder, self.printed = folder, printed

    @property
    def results(self) -> Results:
        return load_sweep(self.folder)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swept]:
    """Run the sweep as its command does, in this process."""
    root = tmp_path_factory.mktemp("wards")
    printed = io.StringIO()
    with contextlib.chdir(root):
        worlds.rules(root / "wards.csv")
        write_space(SPACE, "wards")
        with contextlib.redirect_stdout(printed):
            assert tune_search.main(["wards", "--name", "one", "--device", "cpu"]) == 0
        yield Swept(root / "results" / "wards" / "one", printed.getvalue())


def winner(results: Results) -> pd.Series:
    return results.row(int(results.best_trial))


def test_the_winner_is_the_one_that_was_planted(swept: Swept) -> None:
    results = swept.results
    best = winner(results)
    assert best["structure"].startswith("weights@output level=ward")
    assert best["lr"] == 0.05
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
    page = (swept.folder / "report.html").read_text(encoding="utf-8")
    text = re.sub(r"<[^>]+>", "", page)
    assert f"Best is trial {best['trial']}, latents weights@output level=ward" in text
    assert "over: 4 trials" in text or "4 trials: 4 completed" in text


def test_the_groups_that_gain_are_those_whose_rule_is_turned_round(swept: Swept) -> None:
    table = gains(swept.results).set_index("label")["gain"]
    turned = table.index.isin(worlds.REVERSED)
    assert (table[turned] > 0.6).all()
    assert (table[~turned].abs() < 0.2).all()


def test_learning_nothing_is_seen_in_the_curves(swept: Swept) -> None:
    results = swept.results
    for number in results.trials.loc[results.trials["lr"] < 1e-6, "trial"]:
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


def test_a_lost_folder_is_told(swept: Swept, tmp_path: Path) -> None:
    copy = tmp_path / "one"
    shutil.copytree(swept.folder, copy)
    best = winner(swept.results)
    (copy / f"trial_{best['trial']:04d}" / run_folder.METRICS).unlink()
    (copy / f"trial_{best['trial']:04d}" / run_folder.HYPERPARAMS).write_text("{", "utf-8")
    assert any(f"trial_{best['trial']:04d}" in problem for problem in load_sweep(copy).problems)
