"""Real data are calibrated where the model holds, and shown not to be where it does not."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import hlvnn
from hlvnn.data.grouped import GroupedDataset, Split
from hlvnn.inference import calibration
from hlvnn.models.model import HierarchicalModel
from tests.helpers import small_config

pytestmark = pytest.mark.filterwarnings("ignore:Initializing zero-element")


@cache
def fitted(
    shared: Path, file: str, target: str, features: tuple[str, ...], group: str, likelihood: str
) -> tuple[HierarchicalModel, GroupedDataset]:
    frame = pd.read_csv(shared / "data" / "grouped" / f"{file}.csv.gz", dtype={"provnum": str})
    trials = "size" if likelihood == "binomial" else None
    data = GroupedDataset.from_frame(
        frame, target, features, [group], trials=trials, test_fraction=0.3
    )
    entry = hlvnn.LatentConfig(level=group, stage="output", placement="bias", prior="learned")
    config = hlvnn.ModelConfig(backbone="linear", likelihood=likelihood, latents=[entry])
    model = hlvnn.build_model(config, data, seed=0)
    hlvnn.fit(
        model, data, hlvnn.TrainConfig(num_epochs=200, batch_size=None, lr=0.1, eval_every=200)
    )
    return model, data


def covered(model: HierarchicalModel, split: Split, interval: int) -> tuple[float, float]:
    """Return the share covered over all rows, and its standard error if all is well."""
    row = calibration.coverage(model, split).iloc[0]
    share = interval / 100
    return row[f"coverage_{interval}"], math.sqrt(share * (1 - share) / row["n"])


@pytest.mark.data
@pytest.mark.parametrize("interval", [50, 80, 90, 95])
def test_exam_scores_of_new_pupils_fall_where_the_model_says(shared: Path, interval: int) -> None:
    args = ("Exam", "normexam", ("standLRT",), "school", "gaussian")
    model, data = fitted(shared, *args)
    share, error = covered(model, data.test, interval)
    assert abs(share - interval / 100) < 4 * error


@pytest.mark.data
def test_herds_of_cattle_are_covered_and_lengths_of_stay_are_not(shared: Path) -> None:
    """Stays vary far more than a Poisson's (lme4's users add a row effect); coverage shows it."""
    model, data = fitted(shared, "cbpp", "incidence", ("period",), "herd", "binomial")
    share, error = covered(model, data.train, 80)  # 15 test rows would say nothing
    assert abs(share - 0.8) < 4 * error
    model, data = fitted(shared, "medpar", "los", ("hmo", "white"), "provnum", "poisson")
    share, error = covered(model, data.test, 80)
    assert share < 0.8 - 10 * error


@pytest.mark.data
def test_the_use_of_contraception_is_as_frequent_as_predicted(shared: Path) -> None:
    features = ("age", "urban", "livch")
    model, data = fitted(shared, "Contraception", "use", features, "district", "bernoulli")
    table = calibration.reliability(model, data.test, of="Y", bins=5)
    assert table["n"].sum() == len(data.test)
    full = table[table["n"] >= 30]
    error = np.sqrt(full["confidence"] * (1 - full["confidence"]) / full["n"])
    assert len(full) >= 3
    assert (np.abs(full["accuracy"] - full["confidence"]) < 4 * error).all()
    groups = calibration.scores(model, data.test)
    assert set(groups["label"][1:]) <= set(data.schema.levels[0].labels)


def test_digits_have_a_reliability_for_every_writer(digits: GroupedDataset) -> None:
    config = small_config("cnn", latent_config=("bias",))
    model = hlvnn.build_model(config, digits, seed=0)
    hlvnn.fit(model, digits, hlvnn.TrainConfig(num_epochs=5, lr=0.01, eval_every=5))
    table = calibration.scores(model, digits.test)
    assert table["level"].tolist() == ["", *(["writer"] * (len(table) - 1))]
    whole, writers = table.iloc[0], table.iloc[1:]
    assert writers["n"].sum() == whole["n"] == len(digits.test)
    for column in ("acc", "confidence", "brier"):
        assert np.average(writers[column], weights=writers["n"]) == pytest.approx(whole[column])
    assert whole["ece"] <= np.average(writers["ece"], weights=writers["n"])
    evaluation = hlvnn.evaluate(model, digits.test, num_samples=100)
    np.testing.assert_allclose(writers["acc"], evaluation.groups["acc"])
