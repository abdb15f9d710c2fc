"""Linear mixed models and their fits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

import hlvnn
from hlvnn.data.grouped import GroupedDataset
from hlvnn.models.model import HierarchicalModel
from hlvnn.training.fit_result import FitResult

SLEEP = {"target": "Reaction", "features": ["Days"], "groups": ["Subject"]}
QUICK = hlvnn.TrainConfig(num_epochs=400, batch_size=None, lr=0.05, eval_every=400)


@dataclass(frozen=True)
class Fit:
    frame: pd.DataFrame
    model: HierarchicalModel
    result: FitResult

    def estimate(self, part: str, term: str = "") -> float:
        table = self.model.summary()
        (value,) = table.loc[(table["part"] == part) & (table["term"] == term), "estimate"]
        return float(value)


def random_slopes(level: str, prior: str = "learned_full") -> hlvnn.ModelConfig:
    return hlvnn.ModelConfig(
        backbone="linear",
        likelihood="gaussian",
        latents=[
            hlvnn.LatentConfig(
                level=level,
                stage="output",
                placement="weights",
                posterior="full_rank",
                prior=prior,
            )
        ],
    )


def random_intercept(level: str) -> hlvnn.ModelConfig:
    entry = hlvnn.LatentConfig(level=level, stage="output", placement="bias", prior="learned")
    return hlvnn.ModelConfig(backbone="linear", likelihood="gaussian", latents=[entry])


def fitted(
    frame: pd.DataFrame,
    config: hlvnn.ModelConfig,
    *,
    train: hlvnn.TrainConfig = QUICK,
    **columns: Any,
) -> Fit:
    data = GroupedDataset.from_frame(frame, **columns)
    model = hlvnn.build_model(config, data, seed=0)
    return Fit(frame, model, hlvnn.fit(model, data, train))


def table(shared: Path, name: str) -> pd.DataFrame:
    """Return a table of grouped data."""
    return pd.read_csv(shared / "data" / "grouped" / f"{name}.csv.gz")
