"""A recorded table of real training runs: 256 configurations of digits, 27 epochs each.

    python benchmarks/recorded.py      # trains them all and writes the table: some ten minutes

`search_efficiency.py` and the tests search this table instead of training: a trial of a grid point
reads what that configuration's run measured, epoch by epoch. Each run is a network with one hidden
layer on scikit-learn's digits by 14 writers, 30 % of each writer's training rows kept for
validation. With and without dropout make two tasks of 128 configurations each that are alike, for a
search that learns from another one.
"""

from __future__ import annotations

import itertools
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pandas as pd

TABLE = Path(__file__).resolve().parent / "data" / "digits_curves.parquet"
EPOCHS = 27
GRID: dict[str, tuple[Any, ...]] = {
    "lr": (0.0001, 0.0003, 0.001, 0.002, 0.004, 0.01, 0.03, 0.1),
    "batch_size": (64, 200),
    "latent_config": ("none", "factor", "double", "bias"),
    "dropout": (0.0, 0.25),
    "weight_decay": (0.0, 0.1),
}
"""The settings that vary, and their values: every combination is a run."""
BASE = {
    "dataset": "digits",
    "val_fraction": 0.3,
    "backbone": "mlp",
    "num_epochs": EPOCHS,
    "hidden": (64,),
    "z_dim": 4,
    "prior": "standard",
    "lr_schedule": "cosine",
}
METRICS = ("val_loss", "val_acc", "val_group_p10")
SAVE_EVERY = 16
"""Runs between writes of the table; a recording that was cut short goes on from there."""


def load() -> pd.DataFrame:
    """Return the table, a row per configuration and epoch (its index)."""
    return pd.read_parquet(TABLE).set_index([*GRID, "epoch"]).sort_index()


def settings() -> list[dict[str, Any]]:
    """Return every configuration of the grid."""
    return [dict(zip(GRID, values, strict=True)) for values in itertools.product(*GRID.values())]


def main() -> None:
    import torch

    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    if TABLE.exists():
        rows = pd.read_parquet(TABLE).to_dict("records")
    done = {tuple(row[name] for name in GRID) for row in rows}
    left = [point for point in settings() if tuple(point.values()) not in done]
    for number, point in enumerate(left, 1):
        rows.extend(run(point))
        if number % SAVE_EVERY == 0 or number == len(left):
            write(rows)
            print(f"{number} of {len(left)} recorded", flush=True)


def run(point: dict[str, Any]) -> list[dict[str, Any]]:
    """Train one configuration; return a row per epoch."""
    from hlvnn.config import run_config
    from hlvnn.data import data_of
    from hlvnn.models.build import build_model
    from hlvnn.training.loop import fit

    config = run_config({**BASE, **point}, str(point))
    data = replace(data_of(config.data), test=None)  # not scored: the search selects on val
    model = build_model(config.model, data, config.seed)
    rows: list[dict[str, Any]] = []

    def report(epoch: Any, checkpoint: Any) -> None:
        measured = {name: round(float(epoch.row[name]), 5) for name in METRICS}
        rows.append({**point, "epoch": epoch.epoch, **measured})

    result = fit(model, data, config.train, report, seed=config.seed)
    if result.diverged:
        raise SystemExit(f"{point} diverged; the table has no such runs")
    return rows


def write(rows: list[dict[str, Any]]) -> None:
    frame = pd.DataFrame(rows).astype(dict.fromkeys(METRICS, "float32"))
    frame.to_parquet(TABLE, index=False, compression="zstd")


if __name__ == "__main__":
    main()
