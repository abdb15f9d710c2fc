"""Models and targets drawn from them."""

from __future__ import annotations

import torch
from torch.distributions import Binomial

from hlvnn.data.grouped import Split
from hlvnn.models.model import HierarchicalModel
from tests.helpers import grouped_data, latent, tiny_model

LEVELS = ("character", "play")
CLASSES = {"multi": ("categorical", 5), "two": ("categorical", 2), "bernoulli": ("bernoulli", 2)}


def with_targets(split: Split, y: torch.Tensor) -> Split:
    return Split(split.x, split.groups, y, split.named)


def drawn_from(model: HierarchicalModel, split: Split, seed: int = 5) -> Split:
    """Return the split with new targets that the model itself predicts: calibrated by making."""
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        rows = model.latents.at(split.groups, unseen=True)
        law = model.likelihood(model(split.x.all(), model.latents.sample(rows, 1)))
        if model.likelihood.counts_trials:
            trials = split.y[:, 1]
            y = torch.stack([Binomial(trials, law.probs[0].double()).sample(), trials], dim=1)
        else:
            y = law.sample()[0]
    return with_targets(split, y.to(split.y.dtype))


def class_case(name: str, rows: int = 600) -> tuple[HierarchicalModel, Split]:
    likelihood, classes = CLASSES[name]
    data = grouped_data(levels=LEVELS, sizes=(12, 3), classes=classes, rows=rows)
    entries = (latent("concat", "hidden2", "character", width=2), latent("bias", "output", "play"))
    model = tiny_model(data, latents=entries, likelihood=likelihood)
    assert data.test is not None
    return model, data.test
