"""Which rows a fit takes in an epoch and in what batches, and what is scored after it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice

import pandas as pd
import torch

from hlvnn.columns import TRAIN, of_split
from hlvnn.config import TrainConfig
from hlvnn.data.batches import Batch, Batches, is_fitting
from hlvnn.data.block_batches import BlockBatches
from hlvnn.data.grouped import GroupedDataset, Split
from hlvnn.inference.metrics import RowScores
from hlvnn.inference.predict import evaluate
from hlvnn.models.model import HierarchicalModel
from hlvnn.train_config import FEW
from hlvnn.training.bound import Bound
from hlvnn.training.step import least_rows

FAST = (
    f"fast: at most {FEW} epochs of {FEW} steps; each split is scored, and the ELBO computed, on "
    f"its first {FEW} batches. It shows that everything runs; its figures say nothing"
)
"""What a fit says of itself that is only to show that it runs."""


class FirstBatches:
    """The first few of a pass's batches."""

    def __init__(self, batches: Batches | BlockBatches) -> None:
        self.batches, self.batch_size = batches, batches.batch_size

    def __len__(self) -> int:
        return min(FEW, len(self.batches))

    def __iter__(self) -> Iterator[Batch]:
        return islice(self.batches, len(self))


def batches_of(
    model: HierarchicalModel,
    data: GroupedDataset,
    config: TrainConfig,
    bound: Bound | None,
    generator: torch.Generator,
) -> Batches | BlockBatches | FirstBatches:
    """Return the training rows' batches, in an order drawn from the generator in each epoch."""
    order = None if data.in_order else generator
    rows, size, device, least = data.train, config.batch_size, model.device, least_rows(model)
    batches: Batches | BlockBatches = (
        Batches(rows, size, generator=order, device=device, least=least)
        if bound is None
        else bound.batches(rows, size, order, device, least)
    )
    return FirstBatches(batches) if config.fast else batches


def first_rows(split: Split, config: TrainConfig) -> Split:
    """Return the rows that a split's first few batches have where a fit is fast, else all."""
    number = len(split)
    if config.fast and config.batch_size is not None:
        number = min(number, FEW * config.batch_size)
    return split.subset(torch.arange(number)) if number < len(split) else split


def splits_to_score(
    data: GroupedDataset, config: TrainConfig, device: torch.device
) -> dict[str, Split]:
    """Return the splits that are scored after an epoch, on the device where they fit it."""
    splits = {
        name: first_rows(split, config) for name, split in data.splits().items() if name != TRAIN
    }
    return {
        name: split.to(device) if device.type == "cuda" and is_fitting(split, device) else split
        for name, split in splits.items()
    }


def scored(
    model: HierarchicalModel, splits: Mapping[str, Split], num_samples: int, epoch: int
) -> tuple[dict[str, float], pd.DataFrame, dict[str, RowScores]]:
    """Return the splits' metrics, their per-group tables in one, and each row's scores."""
    row: dict[str, float] = {}
    tables, scores = [], {}
    for name, split in splits.items():
        result = evaluate(model, split, num_samples)
        row |= {of_split(name, metric): value for metric, value in result.scalars.items()}
        table, scores[name] = result.groups, result.rows
        table.insert(0, "epoch", epoch)
        table.insert(min(3, table.shape[1]), "split", name)
        tables.append(table)
    return row, pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(), scores
