"""Placements and the inputs they take."""

from __future__ import annotations

import torch
from torch import Tensor

from hlvnn.latents.placements.base import Placement
from hlvnn.models.build import build_model
from hlvnn.stages import Stage
from tests.helpers import (
    BACKBONES,
    PLACEMENTS,
    data_for,
    generator,
    placement_class,
    randomise,
    small_config,
)

S, B = 3, 4
SIDE = 6
STAGES = {
    "dense": Stage("hidden", "dense", 5, 3),
    "conv": Stage("conv1", "conv", 2, 3, kernel_size=3),
    "rnn": Stage("lstm1", "rnn", 4, 3),
    "embedding": Stage("embedding", "embedding", 9, 3),
}
STEPS = 5


def make(name: str, kind: str) -> Placement:
    cls = placement_class(name)
    stage = STAGES[kind]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return randomise(cls(stage, cls.width_at(stage) or 2))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed))


def inputs(kind: str, *, drawn: bool = False) -> tuple[Tensor, Tensor]:
    """Return a stage's input and pre-activation, [B, …], or [S, B, …] after an earlier latent."""
    stage, space = STAGES[kind], (SIDE, SIDE) if kind == "conv" else ()
    lead = (S, B) if drawn else (B,)
    if kind == "embedding":
        tokens = torch.randint(stage.in_features, (B, STEPS), generator=generator())
        return tokens, normal(*lead, STEPS, stage.out_features, seed=1)
    h = normal(*lead, stage.in_features, *space)
    return h, normal(*lead, stage.out_features, *space, seed=1)


def _places() -> tuple[list[tuple[str, str, str]], list[tuple[str, str, str]]]:
    possible, refused = [], []
    for backbone in BACKBONES:
        model = build_model(small_config(backbone), data_for(backbone))
        for stage in model.backbone.stages.values():
            for name in PLACEMENTS:
                able = stage.kind in placement_class(name).kinds
                (possible if able else refused).append((backbone, stage.name, name))
    return possible, refused


POSSIBLE, IMPOSSIBLE = _places()
ids = lambda place: f"{place[0]}-{place[2]}@{place[1]}"  # noqa: E731
