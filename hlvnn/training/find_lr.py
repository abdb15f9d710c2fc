"""A search for the learning rate: a few steps at rising rates (Smith 2017)."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from hlvnn.config import TrainConfig
from hlvnn.data.batches import Batches
from hlvnn.data.grouped import GroupedDataset
from hlvnn.device import resolve_device
from hlvnn.errors import ConfigError
from hlvnn.models.model import HierarchicalModel
from hlvnn.random import Noise, seeding
from hlvnn.training.step import Step, least_rows

FORGETTING = 0.9
"""What the smoothed loss keeps at each step."""
BLOWN_UP = 1.5
"""The search ends where the smoothed loss has risen by this many times what it had fallen by, and
where it is no number."""
BELOW = 10.0
"""By what the rate of the least smoothed loss is divided: it is where the loss stops falling."""
FEWEST = 20
"""Steps at least."""


@dataclass(frozen=True)
class LearningRates:
    """What a search for the learning rate has found.

    table: a row per step: lr, loss (the batch's), smoothed. suggestion: a tenth of the rate at
    which the smoothed loss is least. `hlvnn.analysis.lr_figure(table, suggestion)` draws it.
    """

    table: pd.DataFrame
    suggestion: float

    def __str__(self) -> str:
        shown = self.table.iloc[np.unique(np.linspace(0, len(self.table) - 1, 12).astype(int))]
        lines = [f"{lr:10.2e}  {loss:9.4f}" for lr, loss in shown[["lr", "smoothed"]].to_numpy()]
        best = self.suggestion * BELOW
        return "\n".join(
            [
                f"{'lr':>10}  {'loss':>9} (smoothed)",
                *lines,
                f"least at {best:.1e}; suggested: --lr {self.suggestion:.1e}, a tenth of it",
            ]
        )


def find_lr(
    model: HierarchicalModel,
    data: GroupedDataset,
    config: TrainConfig | None = None,
    *,
    lowest: float = 1e-6,
    largest: float = 1.0,
    steps: int = 100,
    seed: int = 0,
) -> LearningRates:
    """Train a copy of the model at rates that rise from `lowest` to `largest`; the model stays.

    The network's rate alone rises: groups, priors and the noise take their own steps as in a fit.
    It ends early where the loss blows up. config: of the fit that the rate is for (batch size,
    decay, clipping, …). Raises `ConfigError` where the loss is no number from the beginning, and
    for rates and steps that are no range.
    """
    config = config or TrainConfig()
    if not 0 < lowest < largest or steps < FEWEST:
        raise ConfigError(
            f"find_lr: from {lowest} to {largest} in {steps} steps is no search; give 0 < lowest < "
            f"largest, and {FEWEST} steps or more"
        )
    device = resolve_device(config.device)
    with seeding(seed, device):
        network = copy.deepcopy(model).to(device).train()
        order = torch.Generator().manual_seed(seed)
        least = least_rows(network)
        batches = Batches(
            data.train, config.batch_size, generator=order, device=device, least=least
        )
        epochs = math.ceil(steps / len(batches))
        config = config.model_copy(update={"num_epochs": epochs, "ended_at": 0})
        step, noise = Step(network, config, None, len(batches)), Noise(seed, device)
        rates = np.geomspace(lowest, largest, steps)
        rows: list[tuple[float, float, float]] = []
        mean = 0.0
        while len(rows) < steps and not _is_over(rows):
            for batch in batches:
                number = len(rows)
                for group, own in zip(step.groups, step.base_lrs, strict=True):
                    group["lr"] = own / config.lr * rates[number]
                step.start_if_due(number)
                how = step.beta(number), step.is_warming(number), step.pace(number)
                with network.latents.source.using(noise):
                    loss = float(step.move(batch, *how)[0])
                mean = FORGETTING * mean + (1 - FORGETTING) * loss
                rows.append((rates[number], loss, mean / (1 - FORGETTING ** (number + 1))))
                if len(rows) == steps or _is_over(rows):
                    break
    table = pd.DataFrame(rows, columns=["lr", "loss", "smoothed"])
    finite = table[np.isfinite(table["smoothed"])].reset_index(drop=True)
    if len(finite) < 2:
        raise ConfigError("find_lr: the loss is no finite number from the beginning")
    return LearningRates(finite, float(finite["lr"].iloc[int(finite["smoothed"].argmin())]) / BELOW)


def _is_over(rows: list[tuple[float, float, float]]) -> bool:
    """Return whether the loss has blown up."""
    if len(rows) < FEWEST // 2:
        return False
    smoothed = [row[2] for row in rows]
    least, last = min(smoothed), smoothed[-1]
    fallen = max(smoothed[0] - least, 0.1 * abs(smoothed[0]))
    return not math.isfinite(last) or last > least + BLOWN_UP * fallen
