"""MLflow and Weights & Biases beside a real sweep: what they hold, and what a failure does."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from ray.tune.logger import LoggerCallback

from hlvnn.errors import ConfigError
from hlvnn.sweep import trackers
from hlvnn.sweep.options import SweepConfig
from hlvnn.sweep.trackers import Tracker
from tests.helpers import ROOT

SPACE = """
BASE = {"dataset": "digits", "backbone": "mlp", "hidden": [16], "batch_size": 200, "num_epochs": 2}
METRIC, MODE = "val_acc", "max"

def space(trial):
    return {"lr": trial.suggest_float("lr", 1e-3, 1e-1, log=True)}
"""


class Broken(LoggerCallback):
    """A tracker whose server is away."""

    calls = 0

    def log_trial_start(self, trial: Any) -> None:
        Broken.calls += 1
        raise ConnectionError("no route to host\nand more")


def test_a_tracker_that_fails_is_warned_of_once_and_the_sweep_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tracker = Tracker("Broken", Broken())
    with caplog.at_level(logging.WARNING, logger="hlvnn"):
        for _ in range(3):
            tracker.on_trial_start(iteration=0, trials=[], trial=None)
    assert Broken.calls == 1
    (told,) = caplog.messages
    assert told == (
        "Broken is told no more of this sweep, which goes on: ConnectionError: no route to host"
    )


@pytest.mark.parametrize("option", trackers.PACKAGES)
def test_a_missing_package_is_told_before_anything_starts(
    option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(trackers.PACKAGES, option, "no_such_package")
    with pytest.raises(ConfigError, match=f"--{option} needs the package no_such_package.*pip"):
        trackers.check(SweepConfig(space="digits", **{option: "x"}))
    trackers.check(SweepConfig(space="digits"))


@pytest.mark.ray
@pytest.mark.slow
def test_both_hold_every_trial_of_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="pip install mlflow-skinny")
    pytest.importorskip("wandb", reason="pip install wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    (tmp_path / "search_spaces").mkdir()
    (tmp_path / "search_spaces" / "study.py").write_text(SPACE, encoding="utf-8")
    store = (tmp_path / "mlruns").as_uri()
    flags = [
        "--name",
        "told",
        "--num-trials",
        "3",
        "--no-report",
        "--description",
        "third try",
    ]
    done = subprocess.run(
        [
            sys.executable,
            ROOT / "tune_search.py",
            "study",
            *flags,
            "--mlflow",
            store,
            "--wandb",
            "ours",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "told no more" not in done.stdout + done.stderr
    table = pd.read_parquet(tmp_path / "results" / "digits" / "told" / "trials.parquet")
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("told")
    held = {
        run.data.tags["trial_name"]: run for run in client.search_runs([experiment.experiment_id])
    }
    assert sorted(held) == [f"trial_{number:04d}" for number in range(3)]
    for number, row in table.set_index("trial").iterrows():
        run = held[f"trial_{number:04d}"]
        assert run.info.status == "FINISHED"
        assert run.data.tags["description"] == "third try"
        assert run.data.metrics["val_acc"] == pytest.approx(row["final_val_acc"])
        assert any(value == str(row["lr"]) for value in run.data.params.values())
    assert len(list(tmp_path.rglob("offline-run-*/run-*.wandb"))) == 3
