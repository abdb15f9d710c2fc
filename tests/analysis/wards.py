"""A sweep made by hand: wards of three sites under trials of two structures, the truth planted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hlvnn.columns import TEST, VAL
from hlvnn.files import write_json, write_rows
from hlvnn.records import outcomes, references, run_folder
from hlvnn.records.journal import Journal
from hlvnn.records.outcomes import Outcome, Status
from hlvnn.records.references import Reference
from hlvnn.records.sweep_folder import Record, write_record

WARDS, ROWS, EPOCHS = 30, 60, 3
POOLED, LATENT = "none", "factor"
BAD = "w07"
"""The ward that no model does well on."""


@dataclass(frozen=True)
class Truth:
    """What was planted. gain: [WARDS], of latents, in accuracy; table: a row per ward."""

    gain: NDArray[np.float64]
    table: pd.DataFrame


def truth(seed: int = 0, mean: float = 0.0, sd: float = 0.0, site_b: float = 0.3) -> Truth:
    """Return wards of which those of site B gain `site_b`, all others N(mean, sd²)."""
    rng = np.random.default_rng(seed)
    sites = np.repeat(["A", "B", "C"], WARDS // 3)
    gain = mean + sd * rng.normal(size=WARDS) + np.where(sites == "B", site_b, 0.0)
    labels = [f"w{ward:02d}" for ward in range(WARDS)]
    age = rng.integers(20, 80, WARDS) * 1.0
    return Truth(gain, pd.DataFrame({"ward": labels, "site": sites, "age": age}))


def leave_sweep(
    sweep: Path,
    known: Truth,
    structures: list[str],
    *,
    seed: int = 0,
    of_trial: float = 0.0,
    of_training: float = 0.0,
    epochs: list[int] | None = None,
) -> Path:
    """Leave a sweep of trials with these structures; return its folder.

    of_trial: SD of a trial's own gain for all; of_training: for each ward by itself. epochs: of
    each trial; its accuracy is the same in all. Rows are the same for all trials: a row is
    predicted rightly by those whose accuracy in its ward is above the row's difficulty.
    """
    rng = np.random.default_rng(seed)
    sweep.mkdir(parents=True)
    Journal.create(sweep, "max")
    options = {"num_trials": len(structures)}
    write_record(sweep, Record("study", "", (("val_acc", "max"),), {}, {}, options, []))
    skill = rng.uniform(0.35, 0.6, WARDS)
    skill[int(BAD[1:])] = 0.05
    hard = {split: rng.random((WARDS, ROWS)) for split in (VAL, TEST)}
    for number, structure in enumerate(structures):
        own = skill + (known.gain if structure != POOLED else 0.0)
        own = own + of_trial * rng.normal() + of_training * rng.normal(size=WARDS)
        length = EPOCHS if epochs is None else epochs[number]
        _leave_trial(outcomes.trial_folder(sweep, number), structure, own, hard, length)
        status = Status.COMPLETED if length == EPOCHS else Status.STOPPED
        outcomes.write(sweep, Outcome(trial=number, status=status))
    return sweep


def leave_reference(sweep: Path, winner: int) -> None:
    """Leave a pooled reference of a trial, as good as a model without latents can be."""
    reference = Reference(winner=winner, source=winner, epochs=EPOCHS)
    skill = np.full(WARDS, 0.45)
    hard = {split: np.random.default_rng(9).random((WARDS, ROWS)) for split in (VAL, TEST)}
    _leave_trial(sweep / reference.name, POOLED, skill, hard, EPOCHS)
    references.write(sweep / reference.name, reference)


def _leave_trial(
    folder: Path,
    structure: str,
    chance: NDArray[np.float64],
    hard: dict[str, NDArray[np.float64]],
    epochs: int,
) -> None:
    (folder / run_folder.STATS).mkdir(parents=True)
    acc = {split: (rows < chance[:, None]).mean(axis=1) for split, rows in hard.items()}
    rows = []
    for epoch in range(1, epochs + 1):
        parts = [
            pd.DataFrame(
                {"gid": np.arange(WARDS, dtype=np.int32), "n": ROWS, "split": split}
            ).assign(acc=value, f1=value, loss=1 - value)
            for split, value in acc.items()
        ]
        table = pd.concat(parts).assign(epoch=epoch, level="ward")
        table.to_parquet(folder / run_folder.STATS / run_folder.stats_name(epoch), index=False)
        row = {"epoch": epoch, "seconds": 1.0, "diverged": 0.0}
        rows.append(row | {f"{s}_{m}": acc[s].mean() for s in acc for m in ("acc", "f1")})
        rows[-1] |= {"val_loss": 1.0, "test_loss": 1.0}
    write_rows(folder / run_folder.METRICS, rows)
    config = {"latent_config": [structure], "num_epochs": EPOCHS, "lr": 0.01}
    write_json(
        folder / run_folder.HYPERPARAMS,
        {"config": config, "model": "NormalMLP", "latents": [], "data_hash": "ab"},
    )
    write_json(
        folder / run_folder.SCHEMA,
        {
            "levels": [
                {"name": "ward", "size": WARDS, "labels": [f"w{w:02d}" for w in range(WARDS)]}
            ],
            "x_kind": "features",
            "x_shape": [1],
            "target": {"name": "y", "kind": "class", "num_classes": 4},
        },
    )
