"""Small backbones and rows that they read."""

from __future__ import annotations

from torch import Tensor

from hlvnn.backbones.base import Backbone
from hlvnn.models.build import build_model
from tests.helpers import Hook, data_for, grouped_data, randomise, small_config

S, B = 3, 4


def backbone(name: str, kind: str | None = None, **settings: object) -> Backbone:
    data = data_for(name) if kind is None else grouped_data(kind)
    return randomise(build_model(small_config(name, **settings), data).backbone)


def rows_for(name: str, number: int = B) -> Tensor:
    return data_for(name).train.x.all()[:number]


def entered_stages(model: Backbone, x: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Return each stage's input and pre-activation as the hook sees them."""
    seen = {}

    def enter(stage: str, h: Tensor, pre: Tensor) -> Tensor:
        seen[stage] = (h, pre)
        return pre

    model(x, Hook(enter))
    return seen
