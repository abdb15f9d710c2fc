"""Models with mixtures."""

from __future__ import annotations

import torch

from hlvnn.config import LatentConfig
from hlvnn.data.batches import Batch, Batches
from hlvnn.data.grouped import Split
from tests.helpers import latent


def mixed(level: str = "writer", components: int = 3, **settings: object) -> LatentConfig:
    """Return a latent of width 1 with a mixture posterior, entering the output."""
    chosen = {"width": 1, "posterior": "mixture", "components": components, **settings}
    return latent("concat", "output", level, **chosen)


def whole(split: Split) -> Batch:
    """Return all rows as one batch."""
    (batch,) = Batches(split, None)
    return batch


GRID = torch.linspace(-20, 20, 2001, dtype=torch.float64)[:, None]
STEP = float(GRID[1, 0] - GRID[0, 0])
