"""Sweeps that really run: every way for a trial to end, a kill, an interrupt, a resume."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from hlvnn.files import read_json
from hlvnn.records import outcomes, run_folder
from hlvnn.records.journal import Journal
from hlvnn.sweep import building
from hlvnn.training import execution
from tests.helpers import ROOT, wait_until
from tests.sweep.running import sweep

pytestmark = [pytest.mark.ray, pytest.mark.timeout(280)]

FAILING = building.BUILT_DRAWS + 1  # a draw whose model is not built beforehand
SPACE = f"""
BASE = {{"dataset": "digits", "backbone": "mlp", "hidden": [16], "batch_size": 32, "num_epochs": 5}}
METRIC, MODE = "val_acc", "max"
SWEEP = {{"num_trials": 18, "grace_period": 1, "reduction_factor": 2}}

def space(trial):
    drawn = {{"lr": trial.suggest_float("lr", 1e-3, 1e-1, log=True)}}
    drawn["latent_config"] = trial.suggest_categorical("latent_config", ["none", "factor"])
    if drawn["latent_config"] == "factor":
        drawn["z_dim"] = trial.suggest_int("z_dim", 1, 8)
    if trial.number == 2:
        drawn["lr"] = 1e30
    if trial.number == {FAILING}:
        drawn["likelihood"] = "gaussian"
    return drawn
"""


def test_a_sweep_stops_diverges_fails_and_completes(here: Path, local_ray: None) -> None:
    code, printed = sweep("study", "--name", "one")
    folder = here / "results" / "digits" / "one"
    assert code == 0
    frame = pd.read_parquet(folder / "trials.parquet").set_index("trial")
    status = frame["status"]
    assert len(frame) == 18
    assert (status[2], status[FAILING]) == ("diverged", "failed")
    others = status.drop([2, FAILING])
    assert set(others) == {"completed", "stopped"}
    assert "gaussian needs a real target" in frame["error"][FAILING]
    assert frame["starts"][FAILING] == 1  # it could only fail again
    stopped = frame[status == "stopped"]
    assert (frame["epochs"][status == "completed"] == 5).all()
    assert (stopped["epochs"] < 5).all()
    assert stopped["reason"].str.contains("best 1/2").all()
    assert (frame["wall_seconds"] > 0).all()
    assert (frame["cpus"] == 1).all()

    # Optuna knows how each ended, and thinks of none as running
    states = [trial.state.name for trial in Journal.open(folder).study.trials]
    assert states.count("COMPLETE") == 17
    assert states[FAILING] == "FAIL"

    # selected on validation; the test set is only written down
    best = frame.loc[frame["best_val_acc"].idxmax()]
    metrics = run_folder.read_metrics(Path(best["folder"]))
    assert best["best_val_acc"] == metrics["val_acc"].max()
    rule = metrics.sort_values(["val_acc", "val_loss", "epoch"], ascending=[False, True, True])
    assert best["best_test_acc"] == rule.iloc[0]["test_acc"]
    told = Journal.open(folder).latest()[int(str(best.name))].value
    assert told == best["best_val_acc"], "the searcher was told another epoch's value"
    assert run_folder.load_run(best["folder"], "best").epoch == best["best_epoch"]

    assert "trials by val_acc" in printed
    assert "1 diverged, 1 failed" in printed or "1 failed, 1 diverged" in printed
    assert "results/digits/one/trials.parquet" in printed
    assert "python train_one.py --from-trial results/digits/one/trial_00" in printed
    assert "report: results/digits/one/report.html" in printed
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert "running" not in report.split('<table id="trials"')[1].split("</table>")[0]

    # a trial that ran in a used process is repeated exactly by a fresh one
    repeated = execution.execute(
        run_folder.read_config(Path(best["folder"])), here / "again"
    ).history
    columns = ["epoch", "train_loss", "val_acc", "test_loss"]
    pd.testing.assert_frame_equal(
        repeated[columns].head(len(metrics)), metrics[columns], check_exact=False, rtol=1e-4
    )


def test_the_time_budget_ends_a_sweep_that_can_go_on(here: Path, local_ray: None) -> None:
    # The grace period keeps ASHA out: a trial that it stops would free its slot for the third.
    long = ("--num-epochs", "3000", "--num-trials", "3", "--grace-period", "3000")
    declared = ("--gpus-per-trial", "0.25", "--device", "cpu")  # that GPU is only a number
    code, printed = sweep("study", "--name", "two", *long, "--time-budget", "6s", *declared)
    folder = here / "results" / "digits" / "two"
    frame = pd.read_parquet(folder / "trials.parquet")
    assert code == (1 if frame["epochs"].max() == 0 else 0)
    assert set(frame["status"]) <= {"stopped", "not started"}
    assert (frame["status"] == "not started").any()
    assert set(frame["gpus"]) <= {0.25, 0}
    assert frame["reason"].str.contains(r"time budget|before it").all()
    assert "python tune_search.py --resume results/digits/two" in printed


def started(*args: str) -> subprocess.Popen[str]:
    """Start tune_search.py in a process of its own."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "tune_search.py"), *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_killed_sweep_goes_on_where_it_was(here: Path) -> None:
    args = ("study", "--name", "three", "--num-trials", "6", "--num-epochs", "15")
    process = started(*args, "--grace-period", "3", "--reduction-factor", "3")
    folder = here / "results" / "digits" / "three"

    def some_ended_some_run() -> bool:
        trials = list(folder.glob("trial_*"))
        ended = [trial for trial in trials if (trial / outcomes.OUTCOME).exists()]
        under_way = [trial for trial in trials if (trial / run_folder.CHECKPOINT).exists()]
        return len(ended) >= 2 and len(under_way) > len(ended) - 1

    wait_until(some_ended_some_run)
    process.kill()
    process.wait()
    ended = {path: path.stat().st_mtime_ns for path in folder.glob(f"*/{outcomes.OUTCOME}")}
    settings = {path: path.read_text() for path in folder.glob(f"*/{run_folder.HYPERPARAMS}")}
    assert 2 <= len(ended) < 6

    # interrupted: it ends in order, says how to go on, and can
    process = started("--resume", str(folder))
    wait_until(lambda: "began" in (process.stdout.readline() if process.stdout else ""))
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode in (0, 130), printed
    if process.returncode == 130:
        assert "python tune_search.py --resume results/digits/three" in printed

    process = started("--resume", str(folder))
    printed, _ = process.communicate(timeout=200)
    assert process.returncode == 0, printed
    assert "Traceback" not in printed
    frame = pd.read_parquet(folder / "trials.parquet")
    assert frame["trial"].tolist() == list(range(6))
    assert set(frame["status"]) <= {"completed", "stopped", "diverged"}
    assert frame["status"][2] == "diverged"
    assert not frame["unfinished"].any()
    # finished ones were kept, unfinished ones went on with their settings and without a gap
    assert all(path.stat().st_mtime_ns == time for path, time in ended.items())
    for path, text in settings.items():
        assert read_json(path)["config"] == json.loads(text)["config"]
    for number in range(6):
        epochs = run_folder.read_metrics(outcomes.trial_folder(folder, number))["epoch"].tolist()
        assert epochs == list(range(1, len(epochs) + 1))
    running = [
        trial for trial in Journal.open(folder).study.trials if not trial.state.is_finished()
    ]
    assert running == []
