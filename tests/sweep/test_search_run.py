"""Sweeps that really run with other schedulers and searchers, are extended, and are repeated."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

from hlvnn.commands import train_one
from hlvnn.records import outcomes, run_folder
from hlvnn.records.journal import Journal
from tests.sweep.running import sweep

pytestmark = [pytest.mark.ray, pytest.mark.timeout(280)]

SPACE = """
BASE = {"dataset": "digits", "backbone": "mlp", "hidden": [8], "batch_size": 200, "num_epochs": 4,
        "eval_samples": 1}
METRIC, MODE = ["val_acc", "val_group_p10"], "max"

def space(trial):
    drawn = {"lr": trial.suggest_categorical("lr", [1e-3, 1e-2, 3e-2])}
    drawn["latent_config"] = trial.suggest_categorical("latent_config", ["none", "bias"])
    if trial.number == 1 and BASE["eval_samples"] == 1:
        drawn["hidden"] = [10**13]
    return drawn
"""


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_sweep_is_extended_and_a_trial_repeated_bit_for_bit(here: Path, local_ray: None) -> None:
    args = ("--num-trials", "4", "--scheduler", "none", "--searcher", "qmc", "--name", "one")
    code, printed = sweep("study", *args)
    folder = here / "results" / "digits" / "one"
    assert code == 0
    assert "Pareto front of val_acc (max), val_group_p10 (max):" in printed
    frame = pd.read_parquet(folder / "trials.parquet")
    assert frame["pareto"].any()
    assert frame["status"].tolist() == ["completed", "out of memory", "completed", "completed"]
    assert (frame["epochs"] == [4, 0, 4, 4]).all()
    assert frame["starts"][1] == 1  # not tried again
    assert "give trials more of it" in frame["reason"][1]
    assert "can't allocate memory" in (folder / "trial_0001" / outcomes.ERROR).read_text()

    # the same trial in this process, by train_one.py: every number but the seconds, every weight
    repeated = outcomes.trial_folder(folder, 3)
    assert train_one.main(["--from-trial", str(repeated), "--name", "again"]) == 0
    again = here / "results" / "digits" / "again"
    timed = ["seconds", "rows_per_second"]
    for name in (run_folder.METRICS,):
        first, second = (pd.read_csv(at / name).drop(columns=timed) for at in (repeated, again))
        pd.testing.assert_frame_equal(first, second, check_exact=True)
    for name in (run_folder.CHECKPOINT, run_folder.BEST):
        first, second = (torch.load(at / name, weights_only=True) for at in (repeated, again))
        assert first["model"].keys() == second["model"].keys()
        assert all(torch.equal(first["model"][key], second["model"][key]) for key in first["model"])

    # exactly two more trials; of the others no file changes but, at the end, their weights
    before = {at: content for at, content in contents(folder).items() if "trial_" in str(at)}
    code, printed = sweep("--extend", str(folder), "--num-trials", "2", "--keep-checkpoints", "1")
    assert code == 0
    assert "2 trials to run, 4 over already" in printed
    after = contents(folder)
    frame = pd.read_parquet(folder / "trials.parquet").set_index("trial")
    assert len(frame) == 6
    assert (frame["starts"] == 1).all()
    assert len(Journal.open(folder).study.trials) == 6
    gone = {at for at in before if at not in after}
    assert {at.name for at in gone} == {run_folder.CHECKPOINT, run_folder.PREVIOUS, run_folder.BEST}
    assert all(after[at] == content for at, content in before.items() if at not in gone)
    kept = {at.parent.name for at in after if at.name == run_folder.CHECKPOINT}
    kept = {name for name in kept if name.startswith("trial_")}
    assert len(kept) == 1
    best = frame[frame["pareto"]]["best_val_acc"].max()
    assert frame["best_val_acc"][int(kept.pop()[-4:])] == best
    assert "weights: kept the best 1 trials', freed" in printed


def test_hyperband_pauses_and_stops_trials_of_a_grid(here: Path, local_ray: None) -> None:
    args = ("--scheduler", "hyperband", "--reduction-factor", "2", "--gpus-per-trial", "0.5")
    args += ("--device", "cpu")  # that GPU is only a number
    space = here / "search_spaces" / "study.py"
    space.write_text(SPACE.replace('"eval_samples": 1', '"eval_samples": 2'), encoding="utf-8")
    code, printed = sweep(
        "study", *args, "--searcher", "grid", "--num-trials", "6", "--name", "two"
    )
    folder = here / "results" / "digits" / "two"
    frame = pd.read_parquet(folder / "trials.parquet")
    assert code == 0
    assert set(frame["status"]) == {"completed", "stopped"}, printed
    stopped = frame[frame["status"] == "stopped"]
    assert stopped["reason"].str.contains("best 1/2 of its bracket").all()
    assert (stopped["epochs"] < 4).all()
    for number in frame["trial"]:  # pausing left no gap and no epoch twice
        epochs = run_folder.read_metrics(outcomes.trial_folder(folder, number))["epoch"].tolist()
        assert epochs == list(range(1, len(epochs) + 1))
    drawn = frame[["lr", "latent_config"]].astype(str)
    assert len(drawn.drop_duplicates()) == 6
    assert (frame["gpus"] == 0.5).all()
