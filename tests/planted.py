"""A sweep that is written down, not trained: each trial as a test says it fared, by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from optuna.distributions import BaseDistribution
from optuna.trial import TrialState, create_trial

from hlvnn.config import RunConfig, flatten
from hlvnn.files import write_json, write_rows
from hlvnn.records import outcomes, run_folder
from hlvnn.records.journal import DRAW, NUMBER, Journal
from hlvnn.records.outcomes import Outcome, Status
from hlvnn.records.sweep_folder import Record, write_record

CLASSES, SCHOOLS, ROWS = 40, 8, 25
"""Classes, five to a school, each with as many rows in every split."""
SCHOOL = np.arange(CLASSES) % SCHOOLS
"""Of each class."""
LEVELS = ("class", "school")
BEGAN = datetime(2026, 3, 1, 12, tzinfo=UTC)
EPOCHS = 2
BASE = {"dataset": "pupils", "num_epochs": str(EPOCHS), "lr": "0.01"}


@dataclass
class Trial:
    """How a trial was drawn and fared: accuracy and nats of each class [CLASSES] at its end."""

    acc: np.ndarray
    loss: np.ndarray
    latents: str = "factor"
    drawn: Mapping[str, Any] = field(default_factory=dict)
    epochs: int = EPOCHS
    status: Status = Status.COMPLETED
    settings: Mapping[str, Any] = field(default_factory=dict)
    outcome: Mapping[str, Any] = field(default_factory=dict)
    began: float = 0.0
    """Seconds after the first."""


def plant(
    sweep: Path, trials: Sequence[Trial], laws: Mapping[str, BaseDistribution], **options: Any
) -> Path:
    """Leave the folder of a sweep on val_loss behind; laws: of the parameters, by name."""
    sweep.mkdir(parents=True)
    journal = Journal.create(sweep, "min")
    for number, trial in enumerate(trials):
        settings = flatten(RunConfig()) | {"dataset": "pupils", "num_epochs": EPOCHS, "lr": 0.01}
        settings |= {"latent_config": [trial.latents], **trial.settings}
        _leave(sweep, number, trial, settings)
        journal.study.add_trial(
            create_trial(
                state=TrialState.COMPLETE,
                value=float(trial.loss.mean()),
                params=dict(trial.drawn),
                distributions={name: laws[name] for name in trial.drawn},
                user_attrs={
                    NUMBER: number,
                    DRAW: {"settings": settings, "drawn": dict(trial.drawn), "problem": ""},
                },
            )
        )
    recorded = {"num_trials": len(trials), "scheduler": "asha", "grace_period": 1}
    recorded |= {"reduction_factor": 2.0, "searcher": "tpe", **options}
    write_record(
        sweep,
        Record(
            "study", "", (("val_loss", "min"),), base=BASE, fixed={}, options=recorded, starts=[]
        ),
    )
    return sweep


def _leave(sweep: Path, number: int, trial: Trial, settings: dict[str, Any]) -> None:
    folder = outcomes.trial_folder(sweep, number)
    (folder / run_folder.STATS).mkdir(parents=True)
    rows = []
    for epoch in range(1, trial.epochs + 1):
        lack = 0.02 * (trial.epochs - epoch)
        acc, loss = trial.acc - lack, trial.loss + lack
        row = {"epoch": epoch, "seconds": 2.0, "rows_per_second": 100.0, "diverged": 0.0}
        for split in ("val", "test"):
            row |= {f"{split}_acc": acc.mean(), f"{split}_f1": 0.5, f"{split}_loss": loss.mean()}
        rows.append(row)
        _groups(acc, loss, epoch).to_parquet(
            folder / run_folder.STATS / run_folder.stats_name(epoch), index=False
        )
    write_rows(folder / run_folder.METRICS, rows)
    about = {"config": settings, "model": "planted", "latents": [], "data_hash": "ab"}
    about |= {"started": (BEGAN + timedelta(seconds=trial.began)).isoformat()}
    write_json(folder / run_folder.HYPERPARAMS, about)
    levels = [
        {"name": name, "size": size, "labels": [f"{name[0]}{g}" for g in range(size)]}
        for name, size in zip(LEVELS, (CLASSES, SCHOOLS), strict=True)
    ]
    target = {"name": "y", "kind": "class", "num_classes": 4}
    schema = {"levels": levels, "x_kind": "features", "x_shape": [3], "target": target}
    write_json(folder / run_folder.SCHEMA, schema)
    ended = Outcome(trial=number, status=trial.status).model_dump(mode="json")
    outcomes.write(sweep, Outcome(**{**ended, **trial.outcome}))


def _groups(acc: np.ndarray, loss: np.ndarray, epoch: int) -> pd.DataFrame:
    """Return the tables of both levels, the same on both splits; a school is its classes' mean."""
    classes = pd.DataFrame({"gid": np.arange(CLASSES), "n": ROWS, "acc": acc, "loss": loss})
    schools = classes.assign(gid=SCHOOL).groupby("gid", as_index=False)
    upper = schools.agg({"n": "sum", "acc": "mean", "loss": "mean"})
    parts = [
        part.assign(level=level, split=split, f1=0.5, epoch=epoch)
        for level, part in zip(LEVELS, (classes, upper), strict=True)
        for split in ("val", "test")
    ]
    return pd.concat(parts).astype({"gid": "int32"})
