"""Small fits, and how to stop one and take it up again."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pandas as pd
import torch

from hlvnn.config import TrainConfig
from hlvnn.data.grouped import GroupedDataset
from hlvnn.models.build import build_model
from hlvnn.models.model import HierarchicalModel
from hlvnn.training.loop import Checkpoint, EpochReport
from tests.helpers import grouped_data, small_config
from tests.runs import TIMED

LEVELS = ("character", "play")


def train(**settings: Any) -> TrainConfig:
    return TrainConfig(
        **{"num_epochs": 4, "batch_size": 16, "lr": 0.01, "device": "cpu", **settings}
    )


def saved(checkpoint: Checkpoint) -> Checkpoint:
    """Return a checkpoint after a trip through a file's bytes."""
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


class StoppedHere(Exception):
    """What a report raises to interrupt a fit."""


def untimed(history: pd.DataFrame) -> pd.DataFrame:
    return history.drop(columns=TIMED)


def stopping_after(epoch: int, kept: list[Checkpoint]) -> Callable[..., None]:
    def report(now: EpochReport, checkpoint: Callable[[], Checkpoint]) -> None:
        if now.epoch == epoch:
            kept.append(saved(checkpoint()))
            raise StoppedHere

    return report


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # model settings, training settings
    "dropout, draws, two levels": (
        {"latent_config": ("double",), "dropout": 0.3, "prior": "learned"},
        {"num_samples": 2, "kl_annealing": 3, "weight_decay": 0.01, "clip_grad": 1.0},
    ),
    "batch norm, full rank": (
        {"latent_config": ("factor",), "norm": "batch", "posterior": "full_rank"},
        {"lr_schedule": "one_cycle"},
    ),
    "the bound after the ELBO": (
        {"latent_config": ("film",), "prior": "learned"},
        {"objective": "iwae", "num_samples": 3},
    ),
    "points": ({"latent_config": ("embedding",)}, {"eval_every": 2, "embedding_lr": 3.0}),
    "no latents": ({}, {"patience": 3}),
}


def case(name: str) -> tuple[HierarchicalModel, GroupedDataset, TrainConfig]:
    model_settings, train_settings = CASES[name]
    data = grouped_data(levels=LEVELS, rows=50)
    config = small_config("mlp", z_dim=2, **model_settings)
    return build_model(config, data, seed=1), data, train(**train_settings)
