"""Columns far from zero keep their digits: nothing that is found depends on where zero is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import hlvnn
from hlvnn.config import DataConfig
from hlvnn.data import load_data, why_changed
from hlvnn.data.frames import Measure
from hlvnn.data.grouped import GroupedDataset

START = 1_600_000_000


def minutes(rows: int = 400) -> pd.DataFrame:
    """Readings over ten minutes, whose second counts from 1970: the slope is 0.02 a second."""
    rng = np.random.default_rng(0)
    second = rng.integers(0, 600, rows)
    y = 0.02 * second + 0.5 * rng.normal(size=rows)
    return pd.DataFrame({"y": y, "t": START + second, "who": np.arange(rows) % 5})


def fitted(frame: pd.DataFrame, backbone: str = "linear", **model: Any) -> Any:
    data = GroupedDataset.from_frame(frame, "y", ["t"], ["who"])
    config = hlvnn.ModelConfig(backbone=backbone, **model)
    made = hlvnn.build_model(config, data, seed=0)
    train = hlvnn.TrainConfig(num_epochs=300, batch_size=None, lr=0.05, eval_every=300)
    hlvnn.fit(made, data, train)
    return made, data


@pytest.mark.parametrize("model", [{}, {"latents": ["bias@output level=who prior=learned"]}])
def test_the_slope_of_seconds_since_1970_is_found(model: Any) -> None:
    frame = minutes()
    made, data = fitted(frame, **model)
    near, _ = fitted(frame.assign(t=frame["t"] - START), **model)
    assert isinstance(data.schema.coding["t"], Measure)
    both = [m.summary().set_index(["part", "term"])["estimate"] for m in (made, near)]
    slopes = [one["fixed", "t"] for one in both]
    assert slopes[0] == pytest.approx(np.polyfit(frame["t"] - START, frame["y"], 1)[0], rel=2e-3)
    assert slopes[0] == pytest.approx(slopes[1], rel=1e-4)
    at_start = both[0]["fixed", "(Intercept)"] + slopes[0] * START
    assert at_start == pytest.approx(both[1]["fixed", "(Intercept)"], abs=1e-3)
    predicted, expected = (
        hlvnn.predict(m, minutes().assign(t=minutes()["t"] - s))["mean"]
        for m, s in ((made, 0), (near, START))
    )
    np.testing.assert_allclose(predicted, expected, atol=1e-3)
    schema = type(data.schema).from_json(data.schema.to_json())
    assert torch.equal(schema.features_of(frame), data.schema.features_of(frame))


def test_a_network_sees_the_digits_too() -> None:
    frame = minutes()
    made, _ = fitted(frame, "mlp", hidden=(8,))
    near, _ = fitted(frame.assign(t=frame["t"] - START), "mlp", hidden=(8,))
    both = (
        hlvnn.predict(made, frame)["mean"],
        hlvnn.predict(near, frame.assign(t=frame["t"] - START))["mean"],
    )
    np.testing.assert_allclose(*both, atol=1e-2)


@pytest.mark.parametrize("values", [np.arange(2011, 2019), np.linspace(0, 1e9, 8), np.ones(8)])
def test_columns_that_32_bits_hold_stay_as_they_were(values: Any) -> None:
    frame = pd.DataFrame({"y": np.linspace(0, 1, 8), "t": values, "who": [1, 2] * 4})
    data = GroupedDataset.from_frame(frame, "y", ["t"], ["who"])
    assert data.schema.coding == {"t": "number"}
    assert data.schema.kept_from() is None
    assert data.train.x.all()[:, 0].tolist() == np.float32(values).tolist()


def test_what_became_of_an_older_runs_hash_is_said(tmp_path: Path) -> None:
    minutes().to_csv(tmp_path / "t.csv", index=False)
    config = DataConfig(dataset="table", table=tmp_path / "t.csv", target="y", groups=("who",))
    load_data(config)
    assert "columns far from zero (t) are kept less their mean now" in why_changed(config, "older")
