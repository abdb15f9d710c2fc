"""What guessing is worth: the loss of whoever knows how often each answer comes, and no row."""

from __future__ import annotations

import math

import torch

from hlvnn.columns import TRAIN
from hlvnn.data.grouped import GroupedDataset
from hlvnn.models.model import HierarchicalModel


def guess_losses(model: HierarchicalModel, data: GroupedDataset) -> dict[str, float]:
    """Return the loss (nats a row) of guessing each scored split by the training rows.

    For classes by their frequencies there (each counted once more, so that none is impossible), for
    a normal target by its mean and SD. Empty for other targets.
    """
    y = data.train.y.cpu()
    classes = data.schema.target.num_classes
    scored = {name: split.y.cpu() for name, split in data.splits().items() if name != TRAIN}
    if model.likelihood.target == "class" and classes is not None:
        counts = torch.bincount(y.long(), minlength=classes).double() + 1
        nll = -(counts / counts.sum()).log()
        return {name: float(nll[of_split.long()].mean()) for name, of_split in scored.items()}
    if model.likelihood.noisy and len(y) > 1 and float(y.double().std()) > 0:
        mean, sd = float(y.double().mean()), float(y.double().std())
        constant = math.log(sd) + 0.5 * math.log(2 * math.pi)
        return {
            name: constant + 0.5 * float(((of_split.double() - mean) / sd).square().mean())
            for name, of_split in scored.items()
        }
    return {}
