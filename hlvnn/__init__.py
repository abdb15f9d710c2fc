"""Hierarchical latent variable neural networks for grouped data."""

import os

os.environ.setdefault("PYDANTIC_ERRORS_INCLUDE_URL", "0")  # a user's message needs no link

from hlvnn.adapt import adapt
from hlvnn.build import build_model
from hlvnn.config import DataConfig, LatentConfig, ModelConfig, RunConfig, TrainConfig
from hlvnn.data.grouped import GroupedDataset
from hlvnn.model import HierarchicalModel
from hlvnn.predict import evaluate, predict
from hlvnn.runs import load_run
from hlvnn.training import fit

__version__ = "0.1.0"

__all__ = [
    "DataConfig",
    "GroupedDataset",
    "HierarchicalModel",
    "LatentConfig",
    "ModelConfig",
    "RunConfig",
    "TrainConfig",
    "adapt",
    "build_model",
    "evaluate",
    "fit",
    "load_run",
    "predict",
]
