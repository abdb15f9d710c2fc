"""The origin of a column changes nothing where slopes are centred inside: weeks, or seconds."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import hlvnn


def fitted(column: np.ndarray, group: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Return −2·ELBO, the slope's SD over groups in SDs of the column, and the noise's SD."""
    frame = pd.DataFrame({"t": column, "who": [f"p{number}" for number in group], "y": y})
    data = hlvnn.GroupedDataset.from_frame(frame, target="y", features=["t"], groups=["who"])
    latent = hlvnn.LatentConfig(
        level="who",
        stage="output",
        placement="weights",
        posterior="full_rank",
        prior="learned_full",
    )
    config = hlvnn.ModelConfig(backbone="linear", likelihood="gaussian", latents=[latent])
    model = hlvnn.build_model(config, data, seed=0)
    result = hlvnn.fit(model, data, hlvnn.TrainConfig(num_epochs=150, batch_size=None, lr=0.05))
    found = model.summary().set_index(["part", "term"])["estimate"]
    return -2 * result.elbo, found["prior sd", "t"] * column.std(), found["noise sd", ""]


def test_seconds_since_1970_are_as_good_as_weeks() -> None:
    random = np.random.default_rng(0)
    group = np.repeat(np.arange(40), 12)
    week = np.tile(np.linspace(-2, 2, 12), 40)
    effects = random.multivariate_normal([30, 3], [[4, 1.6], [1.6, 1]], 40)
    y = effects[group, 0] + effects[group, 1] * week + random.normal(0, 1, len(week))
    expected = fitted(week, group, y)
    assert expected[2] == pytest.approx(1.0, abs=0.15)
    for column in (week + 10, 1.7e9 + 604_800 * week):
        found = fitted(column, group, y)
        assert found[0] == pytest.approx(expected[0], abs=0.05)
        assert found[1:] == pytest.approx(expected[1:], rel=2e-3)
