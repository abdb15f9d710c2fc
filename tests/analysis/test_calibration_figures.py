"""The calibration figures: what is drawn is what `hlvnn.inference.calibration` measures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from hlvnn.analysis import calibration_figures
from hlvnn.config import run_config
from hlvnn.inference import calibration
from tests.conftest import Ended
from tests.helpers import grouped_data, tiny_model, untrained_run


def test_the_interval_of_a_share_is_wilsons() -> None:
    for hits, n in ((0, 3), (3, 3), (7, 20), (150, 360)):
        low, high = calibration_figures.wilson(
            np.array([hits / n]), np.array([n]), stats.norm.ppf(0.975)
        )
        expected = stats.binomtest(hits, n).proportion_ci(0.95, "wilson")
        assert (low[0], high[0]) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_classes_are_drawn_by_bin_and_by_group() -> None:
    data = grouped_data(levels=("writer", "site"), rows=150)
    model = tiny_model(data, latent_config=("factor",))
    assert data.test is not None
    reliability = calibration.reliability(model, data.test)
    scores = calibration.scores(model, data.test)
    left, right, shares = calibration_figures.draw_classes(reliability, scores).axes
    there = reliability[reliability["n"] > 0]
    points = left.containers[0].lines[0]
    np.testing.assert_allclose(points.get_xdata().astype(float), there["confidence"])
    np.testing.assert_allclose(points.get_ydata().astype(float), there["accuracy"])
    assert [bar.get_height() for bar in shares.patches] == there["n"].tolist()
    for level, drawn in zip(("writer", "site"), right.collections, strict=True):
        part = scores[scores["level"] == level]
        np.testing.assert_allclose(drawn.get_offsets().data, part[["confidence", "acc"]])
        assert drawn.get_label() == level
    low, high = right.get_xlim()
    assert low < scores["confidence"].min()
    assert high > scores["confidence"].max()


def test_real_targets_are_drawn_by_pit_and_coverage() -> None:
    data = grouped_data(target="real", rows=150)
    model = tiny_model(data, "linear", latent_config=("bias",))
    assert data.test is not None
    pit, coverage = calibration.pit(model, data.test), calibration.coverage(model, data.test)
    left, right = calibration_figures.draw_real(pit, coverage).axes
    bars = [
        p for p in left.patches if p.get_width() == pytest.approx(1 / calibration_figures.PIT_BINS)
    ]
    counts, _ = np.histogram(pit, np.linspace(0, 1, calibration_figures.PIT_BINS + 1))
    heights = [bar.get_height() for bar in bars]
    np.testing.assert_allclose(heights, counts * calibration_figures.PIT_BINS / len(pit))
    everybody = right.lines[0]
    assert everybody.get_xdata().tolist() == [0.5, 0.8, 0.9, 0.95]
    columns = ["coverage_50", "coverage_80", "coverage_90", "coverage_95"]
    np.testing.assert_allclose(everybody.get_ydata(), coverage[columns].iloc[0])
    for column, drawn in zip(columns, right.collections, strict=True):
        np.testing.assert_allclose(drawn.get_offsets().data[:, 1], coverage[column][1:])


def test_calibration_of_a_run(tmp_path: Path, analysis: Callable[..., Ended]) -> None:
    settings = {"dataset": "digits", "backbone": "mlp", "hidden": [8], "latent_config": "factor"}
    run = untrained_run(tmp_path / "run", run_config(settings, "test"))
    ended = analysis("calibration", run, "--num-samples", 3)
    assert ended.code == 0, ended.err
    table = pd.read_csv(run / "figures" / "calibration_test.csv")
    assert table["n"][0] == 360
    assert table["level"].tolist()[1:] == ["writer"] * 14
    assert f"{table['acc'][0]:.3f}" in ended.out
    off = (table["confidence"] - table["acc"]).abs()[1:]
    worst = str(table["label"][off.idxmax()]).removesuffix(".0")
    lines = [line.split() for line in ended.out.splitlines() if line.strip().startswith("writer")]
    assert lines[0][1] == worst, "the group furthest off comes first"
    settings["val_fraction"] = 0.0
    run = untrained_run(tmp_path / "without", run_config(settings, "test"))
    ended = analysis("calibration", run, "--split", "val")
    assert ended.code == 2
    assert "have no val rows; there are: train, test" in ended.err
