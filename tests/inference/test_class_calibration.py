"""Calibration of classes: reliability and scores, against scikit-learn's."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from hlvnn.data.grouped import Split
from hlvnn.inference import calibration
from hlvnn.inference.predict import predict
from hlvnn.models.model import HierarchicalModel
from tests.helpers import grouped_data, latent, tiny_model
from tests.inference.calibrated import CLASSES, LEVELS, class_case, drawn_from

pytestmark = pytest.mark.filterwarnings("ignore:Initializing zero-element")


def probabilities(model: HierarchicalModel, split: Split) -> np.ndarray:
    return predict(model, split).filter(like="prob_").to_numpy()


@pytest.mark.parametrize("name", CLASSES)
def test_the_reliability_of_confidences_is_scikit_learns_curve(name: str) -> None:
    model, split = class_case(name)
    table = calibration.reliability(model, split)
    chances = probabilities(model, split)
    hit = chances.argmax(1) == split.y.numpy()
    accuracy, confidence = calibration_curve(hit, chances.max(1), n_bins=10)
    assert list(table.columns) == ["low", "high", "n", "confidence", "accuracy"]
    assert table["n"].sum() == len(split)
    full = table[table["n"] > 0]
    np.testing.assert_allclose(full["accuracy"], accuracy, rtol=1e-6)
    np.testing.assert_allclose(full["confidence"], confidence, rtol=1e-6)
    assert (full["confidence"] > full["low"]).all()
    assert (full["confidence"] <= full["high"]).all()
    assert table.loc[table["n"] == 0, ["confidence", "accuracy"]].isna().all(axis=None)


@pytest.mark.parametrize("name", CLASSES)
def test_the_reliability_of_one_class_is_scikit_learns_curve(name: str) -> None:
    model, split = class_case(name)
    table = calibration.reliability(model, split, of=1, bins=7)
    truth, chance = (split.y == 1).numpy(), probabilities(model, split)[:, 1]
    share, mean = calibration_curve(truth, chance, n_bins=7)
    full = table[table["n"] > 0]
    np.testing.assert_allclose(full["accuracy"], share, rtol=1e-6)
    np.testing.assert_allclose(full["confidence"], mean, rtol=1e-6)
    assert (full["n"] * full["accuracy"]).sum() == pytest.approx(truth.sum())


@pytest.mark.parametrize("name", CLASSES)
def test_scores_are_scikit_learns_in_every_group_of_every_level(name: str) -> None:
    model, split = class_case(name)
    table = calibration.scores(model, split)
    assert list(table.columns) == [
        *("level", "gid", "label", "n", "acc", "confidence", "ece", "brier")
    ]
    chances, y = probabilities(model, split), split.y.numpy()
    hit, confidence = chances.argmax(1) == y, chances.max(1)
    classes = chances.shape[1]
    assert len(table) == 1 + 12 + 3
    for row in table.itertuples():
        index = LEVELS.index(row.level) if row.level else None
        rows = np.ones(len(y), bool) if index is None else (split.groups[:, index] == row.gid)
        rows = np.asarray(rows)
        assert row.n == rows.sum()
        own = chances[rows].astype(float)
        own /= own.sum(1, keepdims=True)
        if classes == 2:
            brier = brier_score_loss(y[rows], own[:, 1], labels=[0, 1])
        else:
            brier = brier_score_loss(y[rows], own, labels=list(range(classes)))
        assert row.brier == pytest.approx(brier, rel=1e-5)
        assert row.acc == pytest.approx(hit[rows].mean())
        assert row.confidence == pytest.approx(confidence[rows].mean())
        of_bin = np.ceil(10 * confidence[rows]).astype(int)
        gaps = [
            (of_bin == b).mean() * abs((confidence[rows] - hit[rows])[of_bin == b].mean())
            for b in np.unique(of_bin)
        ]
        assert row.ece == pytest.approx(sum(gaps), rel=1e-6)


def test_classes_drawn_from_the_model_are_calibrated_and_sharpened_ones_are_not() -> None:
    data = grouped_data(rows=9000)
    model = tiny_model(data, "linear", latents=(latent("bias", "output"),))
    assert data.test is not None
    with torch.no_grad():  # spread the probabilities out
        model.backbone.output.weight.mul_(3)
    split = drawn_from(model, data.test)
    row = calibration.scores(model, split).iloc[0]
    assert abs(row["acc"] - row["confidence"]) < 4 * math.sqrt(0.25 / 3000)
    assert row["ece"] < 0.04
    with torch.no_grad():
        model.backbone.output.weight.mul_(3)
    sharper = calibration.scores(model, split).iloc[0]
    assert sharper["confidence"] > sharper["acc"] + 0.05
    assert sharper["ece"] > 2 * row["ece"]
    assert sharper["brier"] > row["brier"]


def test_two_classes_score_the_same_by_either_likelihood() -> None:
    """Softmax of (0, η) is sigmoid η."""
    model, split = class_case("bernoulli")
    two, _ = class_case("two")
    chance = torch.linspace(0.01, 0.99, len(split), dtype=torch.float64)
    eta = torch.logit(chance)

    def fixed(eta: torch.Tensor) -> Callable[..., torch.Tensor]:
        return lambda x, draws: eta[None, : len(x)]

    model.forward = fixed(eta[:, None])  # type: ignore[method-assign]
    two.forward = fixed(torch.stack([torch.zeros_like(eta), eta], 1))  # type: ignore[method-assign]
    pd.testing.assert_frame_equal(
        calibration.scores(model, split, num_samples=1),
        calibration.scores(two, split, num_samples=1),
    )
