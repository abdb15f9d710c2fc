"""A small run, finished, and what it takes to compare it with another."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from hlvnn import load_run
from hlvnn.config import RunConfig, run_config
from hlvnn.records.run_folder import RESULT, STATS, read_metrics
from hlvnn.training.execution import execute
from hlvnn.training.fit_result import FitResult
from hlvnn.training.loop import EpochReport
from tests.helpers import same_bits

EPOCHS = 4
TIMED = ["seconds", "rows_per_second"]


class KilledError(Exception):
    """What a report raises where a run is to end."""


def configured(data_dir: Path, **settings: Any) -> RunConfig:
    base = {
        "dataset": "tiny",
        "data_dir": data_dir,
        "channels": [2, 3],
        "hidden": [4],
        "latent_config": "double",
        "z_dim": 2,
        "dropout": 0.2,
        "num_samples": 2,
        "num_epochs": EPOCHS,
        "batch_size": 16,
        "eval_samples": 3,
        "lr": 0.02,
        "seed": 5,
        "device": "cpu",
    }
    return run_config({**base, **settings}, "test")


class Finished:
    """A finished run with a copy of its folder as it was after each epoch."""

    def __init__(self, config: RunConfig, root: Path) -> None:
        self.config = config
        self.folder = root / "results" / "tiny" / "whole"
        self.after: dict[int, Path] = {}

        def keep(epoch: EpochReport) -> None:
            copy = root / f"after_{epoch.epoch}"
            shutil.copytree(self.folder, copy)
            self.after[epoch.epoch] = copy

        self.result: FitResult = execute(config, self.folder, report=keep)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def stats_of(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / STATS).iterdir())


def assert_same_run(folder: Path, expected: Path) -> None:
    """Check that two run folders tell the same, whatever time they took."""
    metrics, others = read_metrics(folder), read_metrics(expected)
    pd.testing.assert_frame_equal(
        metrics.drop(columns=TIMED), others.drop(columns=TIMED), check_exact=True
    )
    for which in ("last", "best"):
        mine, theirs = load_run(folder, which), load_run(expected, which)
        assert mine.epoch == theirs.epoch
        assert same_bits(mine.model, theirs.model)
    assert stats_of(folder) == stats_of(expected)
    pd.testing.assert_frame_equal(
        pd.read_parquet(folder / STATS), pd.read_parquet(expected / STATS), check_exact=True
    )
    assert json.loads((folder / RESULT).read_text()) == json.loads((expected / RESULT).read_text())
    assert [path for path in folder.rglob("*") if path.name.startswith(".")] == []


PREVIOUS = "checkpoint.previous.pt"
