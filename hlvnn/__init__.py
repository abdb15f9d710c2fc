"""Hierarchical latent variable neural networks for grouped data."""

from hlvnn.config import DataConfig, LatentConfig, ModelConfig, RunConfig, TrainConfig
from hlvnn.data.examples import load_example
from hlvnn.data.grouped import GroupedDataset
from hlvnn.inference.adapt import adapt
from hlvnn.inference.predict import evaluate, predict
from hlvnn.models.build import build_model
from hlvnn.models.model import HierarchicalModel
from hlvnn.records.run_folder import load_run
from hlvnn.training.find_lr import find_lr
from hlvnn.training.loop import fit

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
    "find_lr",
    "fit",
    "load_example",
    "load_run",
    "predict",
]
