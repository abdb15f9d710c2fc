"""What Ray runs: one trial, by `hlvnn.runs.execute`, told to Ray in a few numbers an epoch."""

from __future__ import annotations

import json
import math
import os
import random
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray import tune

from hlvnn import runs
from hlvnn.config import run_config
from hlvnn.errors import ConfigError
from hlvnn.sweep.outcomes import ERROR
from hlvnn.training import EpochReport

OUT_OF_MEMORY = "out_of_memory"
"""Flag of the one result of a trial that had too little memory."""
GROUPS = ("val_group_p10", "val_group_worst")
"""Columns that are told to Ray beside the metric, for the live table."""


def run_trial(config: dict[str, Any]) -> None:
    """Run (or go on with) the trial that `config` describes.

    config: trial (its number), settings (JSON), folder, worst (each metric's value for a NaN),
    threads, gpus (below 1: its share of a GPU's memory), and problem: why the draw is invalid, or
    "". Everything that lasts is written into the folder, its checkpoint too; Ray is given no files.
    """
    folder = Path(config["folder"])
    settings = {"threads": int(config["threads"]), **json.loads(config["settings"])}
    _fresh(int(config["threads"]), settings.get("seed", 0), float(config["gpus"]))
    reports = 0

    def report(epoch: EpochReport) -> None:
        nonlocal reports
        reports += 1
        tune.report(scalars(epoch.row, settings["num_epochs"], config["worst"]))

    try:
        if config["problem"]:
            raise ConfigError(config["problem"])
        run = run_config(settings, f"trial {config['trial']}")
        runs.execute(run, folder, report=report, resume=True)
    except Exception as error:
        if out_of_memory(error):
            _tell_out_of_memory(folder, settings["num_epochs"], config["worst"])
            return
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ERROR).write_text(traceback.format_exc(), encoding="utf-8")
        raise
    if not reports:  # it had ended before the driver that watched it was killed
        last = runs.read_metrics(folder).iloc[-1].to_dict()
        tune.report(scalars(last, settings["num_epochs"], config["worst"]))


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there was no memory left: of a GPU, or of this machine."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _tell_out_of_memory(folder: Path, num_epochs: int, worst: Mapping[str, float]) -> None:
    """End a trial that had too little memory: an outcome, as divergence is, and not tried again."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ERROR).write_text(traceback.format_exc(), encoding="utf-8")
    epochs = len(runs.read_metrics(folder)) if (folder / runs.METRICS).exists() else 0
    row = {"epoch": epochs + 1, "diverged": 1.0}
    tune.report(scalars(row, num_epochs, worst) | {OUT_OF_MEMORY: 1})


def warm_up() -> None:
    """Have torch and all else imported (this module is), while the driver still gets ready."""


def scalars(
    row: Mapping[Any, Any], num_epochs: int, worst: Mapping[str, float]
) -> dict[str, float]:
    """Return what Ray is told of an epoch. A metric that is NaN becomes the worst value there is.

    worst: that value, for each metric that is selected on.
    Raises `ConfigError` when the row has no such metric.
    """
    diverged = bool(row["diverged"])
    told: dict[str, float] = {
        "epoch": int(row["epoch"]),
        "num_epochs": num_epochs,
        "diverged": int(diverged),
    }
    for metric, lowest in worst.items():
        if metric not in row and not diverged:  # a diverged epoch is not evaluated
            known = [name for name in row if name.startswith("val_")]
            raise ConfigError(f"METRIC = {metric!r} is not measured; there are: {', '.join(known)}")
        value = float(row.get(metric, math.nan))
        told[metric] = lowest if diverged or math.isnan(value) else value
    return told | {name: float(row[name]) for name in GROUPS if name in row and name not in told}


def _fresh(threads: int, seed: int, gpus: float) -> None:
    """Give a process that ran another trial before a fresh start."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(min(1.0, gpus) if gpus else 1.0)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # for processes that the trial may start
    torch.set_num_threads(threads)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  (whoever uses the global stream repeats, too)
    torch.manual_seed(seed)
