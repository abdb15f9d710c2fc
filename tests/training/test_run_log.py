"""What a run leaves in its folder: settings, metrics, tables of groups, checkpoints, a log."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from hlvnn import load_run
from hlvnn.config import flatten
from hlvnn.data import data_of
from hlvnn.records.group_file import GROUPS
from hlvnn.records.predictions import PREDICTIONS
from hlvnn.records.run_folder import (
    BEST,
    CHECKPOINT,
    HYPERPARAMS,
    LOG,
    METRICS,
    RESULT,
    SCHEMA,
    STATS,
    read_config,
    read_metrics,
)
from hlvnn.training.execution import execute
from hlvnn.training.loop import EpochReport
from tests.helpers import same_bits
from tests.runs import EPOCHS, PREVIOUS, Finished, configured, stats_of


def test_a_run_leaves_exactly_the_files_of_the_design(whole: Finished) -> None:
    names = {HYPERPARAMS, SCHEMA, METRICS, LOG, CHECKPOINT, PREVIOUS, BEST, RESULT, GROUPS}
    assert {path.name for path in whole.folder.iterdir()} == names | {STATS, PREDICTIONS}
    assert stats_of(whole.folder) == [f"epoch_{epoch:04d}.parquet" for epoch in range(1, 5)]
    assert (HYPERPARAMS, LOG, METRICS, STATS, CHECKPOINT, BEST) == (
        "hyperparams.json",
        "train.log",
        "metrics.csv",
        "training_stats",
        "checkpoint.pt",
        "best.pt",
    )


def test_the_files_are_there_when_an_epoch_is_reported(whole: Finished) -> None:
    for epoch, folder in whole.after.items():
        assert len(read_metrics(folder)) == epoch
        assert len(stats_of(folder)) == epoch
        assert load_run(folder).epoch == epoch
        assert not (folder / RESULT).exists()


def test_hyperparams_hold_the_configuration_and_where_it_came_from(whole: Finished) -> None:
    record = json.loads((whole.folder / HYPERPARAMS).read_text())
    assert record["config"] == flatten(whole.config)
    assert record["config"]["seed"] == 5
    assert record["model"] == "DoubleLatentCNN"
    assert len(record["latents"]) == 4
    assert record["data_hash"] == data_of(whole.config.data).digest()
    assert record["versions"]["torch"] == torch.__version__
    assert read_config(whole.folder) == whole.config


def test_metrics_are_the_history_of_the_fit(whole: Finished) -> None:
    pd.testing.assert_frame_equal(
        read_metrics(whole.folder), whole.result.history, check_exact=True, check_dtype=False
    )
    assert read_metrics(whole.folder)["epoch"].tolist() == [1, 2, 3, 4]


def test_training_stats_are_one_frame_of_every_group(whole: Finished) -> None:
    table = pd.read_parquet(whole.folder / STATS)
    assert list(table.columns) == ["epoch", "level", "gid", "split", "n", "acc", "f1", "loss"]
    data = data_of(whole.config.data)
    for level in data.schema.levels:
        for name in ("val", "test"):
            part = table[(table["level"] == level.name) & (table["split"] == name)]
            rows = part.groupby("epoch")["n"].sum()
            assert rows.to_dict() == dict.fromkeys(range(1, 5), len(data.splits()[name]))
    last = read_metrics(whole.folder).iloc[-1]
    lowest = table[(table["epoch"] == 4) & (table["split"] == "test") & (table["level"] == "gid")]
    assert lowest["acc"].mean() == pytest.approx(last["test_group_mean"])
    assert lowest["acc"].min() == last["test_group_worst"]
    assert np.average(lowest["loss"], weights=lowest["n"]) == pytest.approx(last["test_loss"])


def test_the_result_tells_how_the_run_ended(whole: Finished) -> None:
    record = json.loads((whole.folder / RESULT).read_text())
    assert record == {
        "elbo": whole.result.elbo,
        "elbo_error": whole.result.elbo_error,
        "kl": whole.result.kl,
        "epochs": EPOCHS,
        "diverged": False,
        "stopped_early": False,
    }


def test_the_log_names_the_model_the_data_and_every_epoch(whole: Finished) -> None:
    text = (whole.folder / LOG).read_text()
    assert "DoubleLatentCNN on tiny: " in text
    assert "6 gid, 3 gid2" in text
    for epoch in range(1, EPOCHS + 1):
        assert text.count(f"epoch {epoch}/{EPOCHS} ") == 1
    assert any("ELBO" in line for line in text.splitlines()[-2:])


def test_a_diverged_run_leaves_a_readable_folder(image_folder: Path, tmp_path: Path) -> None:
    config = configured(image_folder, lr=1e30, lr_schedule="constant")
    result = execute(config, tmp_path / "run")
    assert result.diverged
    record = json.loads((tmp_path / "run" / RESULT).read_text())
    assert record["diverged"] is True
    assert record["elbo"] is None
    metrics = read_metrics(tmp_path / "run")
    assert metrics["diverged"].tolist() == [0.0] * (len(metrics) - 1) + [1.0]


def test_fewer_checkpoints_still_end_with_the_last(
    whole: Finished, image_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    epochs = {}

    def look(epoch: EpochReport) -> None:
        path = folder / CHECKPOINT
        epochs[epoch.epoch] = load_run(folder).epoch if path.exists() else None

    execute(configured(image_folder, checkpoint_every=3), folder, report=look)
    assert epochs == {1: None, 2: None, 3: 3, 4: 3}
    assert load_run(folder).epoch == 4
    assert same_bits(load_run(folder).model, load_run(whole.folder).model)
