"""What a fit refuses before it begins, and what it tells of its first batch."""

from __future__ import annotations

import logging

import torch

from hlvnn.config import TrainConfig
from hlvnn.data.batches import Batch
from hlvnn.data.grouped import GroupedDataset
from hlvnn.errors import ConfigError
from hlvnn.models.model import HierarchicalModel
from hlvnn.training.bound import check_bound
from hlvnn.training.choosing import selection_of
from hlvnn.training.step import least_rows

logger = logging.getLogger("hlvnn")


def check(model: HierarchicalModel, data: GroupedDataset, config: TrainConfig) -> None:
    """Raise `ConfigError` for settings that this model or these data do not allow."""
    if config.augment and data.schema.x_kind != "image":
        raise ConfigError(
            f"--augment {config.augment:g} moves images; the data are {data.schema.x_kind}; "
            "leave it out"
        )
    if min(config.batch_size or len(data.train), len(data.train)) < least_rows(model):
        raise ConfigError(
            f"--norm batch compares rows of a batch, and --batch-size {config.batch_size} with "
            f"{len(data.train)} training rows leaves one; use larger batches, or --norm layer"
        )
    if config.objective == "iwae":
        check_bound(model)
    selection_of(model, data, config)


@torch.no_grad()
def log_shapes(model: HierarchicalModel, batch: Batch, num_samples: int) -> None:
    """Tell the shapes of a batch, of the draws and of the output; draws from torch's stream."""
    rows = model.latents.at(batch.groups, unseen=False)
    shapes = {"x": batch.x, "groups": batch.groups, "y": batch.y}
    draws = model.latents.sample(rows, num_samples)
    shapes |= {f"z[{latent.name}]": z for latent, z in zip(model.latents, draws, strict=True)}
    shapes["output"] = model(batch.x, draws)
    for name, tensor in shapes.items():
        logger.info("first batch  %s: %s %s", name, list(tensor.shape), str(tensor.dtype)[6:])
