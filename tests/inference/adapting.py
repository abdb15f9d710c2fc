"""Models that are to meet new groups."""

from __future__ import annotations

import pandas as pd

import hlvnn
from hlvnn.data.grouped import GroupedDataset
from hlvnn.models.model import HierarchicalModel
from tests.helpers import latent

SHORT = hlvnn.TrainConfig(num_epochs=60, batch_size=None, lr=0.05, eval_every=60)


PASTES = {
    "nested": (
        hlvnn.LatentConfig(level="batch", width=1, prior="learned"),
        latent("bias", "output", "sample", prior="nested", parent="batch"),
    ),
    "given": (
        latent("bias", "output", "batch", prior="learned"),
        latent("bias", "output", "sample", prior="learned", given="batch"),
    ),
}


def pastes_model(frame: pd.DataFrame, kind: str) -> HierarchicalModel:
    data = GroupedDataset.from_frame(
        frame, target="strength", features=[], groups=["sample", "batch"]
    )
    config = hlvnn.ModelConfig(backbone="linear", likelihood="gaussian", latents=PASTES[kind])
    model = hlvnn.build_model(config, data)
    hlvnn.fit(model, data, SHORT)
    return model
