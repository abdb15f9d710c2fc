"""The two-level model of measured groups, against closed forms, our own exact fit and the truth."""

from __future__ import annotations

import importlib.util

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

import hlvnn
from hlvnn.inference.two_level import TwoLevel, two_level

Floats = NDArray[np.float64]


def balanced(groups: int, tau: float, seed: int, each: int = 4) -> tuple[Floats, Floats]:
    """Return groups' true values, and `each` rows of each with noise 1."""
    rng = np.random.default_rng(seed)
    true = 0.3 + tau * rng.normal(size=groups)
    return true, true[:, None] + rng.normal(size=(groups, each))


def fitted(y: Floats, weight: float = 1.0, excess: float = 0.0) -> TwoLevel:
    groups, each = y.shape
    place = np.repeat(np.arange(groups), each)
    ones = np.ones((y.size, 1))
    return two_level(y.ravel(), ones, np.full(y.size, weight), place, groups, excess)


def test_a_balanced_design_is_that_of_the_analysis_of_variance() -> None:
    _, y = balanced(25, 0.8, seed=0)
    found = fitted(y)
    within = y.var(axis=1, ddof=1).mean()
    between = y.mean(axis=1).var(ddof=1) - within / 4
    assert found.sd == pytest.approx(between**0.5, rel=0.03), "REML, to the grid's step"
    assert found.noise == pytest.approx(within**0.5, rel=0.01)
    assert found.mean == pytest.approx(y.mean())
    assert found.sd_low < found.sd < found.sd_high
    shrunk = np.polyfit(y.mean(axis=1) - y.mean(), found.groups - y.mean(), 1)[0]
    assert shrunk == pytest.approx(between / (between + within / 4), abs=0.03)


def test_weights_count_as_rows_do() -> None:
    _, y = balanced(200, 0.5, seed=1)
    pairs = y.reshape(200, 2, 2).mean(axis=2)  # of two rows each
    of_pairs = fitted(pairs, weight=2.0)
    assert of_pairs.noise == pytest.approx(fitted(y).noise, rel=0.1)
    assert np.abs(fitted(y).groups - of_pairs.groups).max() < 0.15
    scaled = fitted(y, weight=9.0)
    assert scaled.noise == pytest.approx(3 * fitted(y).noise)


def test_it_agrees_with_our_exact_mixed_model() -> None:
    _, y = balanced(30, 0.7, seed=2, each=6)
    frame = pd.DataFrame({"y": y.ravel(), "x": 0.0, "g": np.repeat(np.arange(30), 6)})
    frame["x"] = np.tile(np.linspace(-1, 1, 6), 30)
    data = hlvnn.GroupedDataset.from_frame(frame, target="y", features=["x"], groups=["g"])
    latent = hlvnn.LatentConfig(level="g", stage="output", placement="bias", prior="learned")
    config = hlvnn.ModelConfig(backbone="linear", likelihood="gaussian", latents=[latent])
    model = hlvnn.build_model(config, data, seed=0)
    hlvnn.fit(model, data, hlvnn.TrainConfig())
    posterior = model.posterior("g")
    x = np.column_stack([np.ones(180), frame["x"]])
    found = two_level(frame["y"].to_numpy(), x, np.ones(180), frame["g"].to_numpy(), 30)
    own = posterior.filter(like="mean").to_numpy()[:, 0]
    np.testing.assert_allclose(found.groups - found.mean, own - own.mean(), atol=0.02)


def test_it_agrees_with_statsmodels() -> None:
    if importlib.util.find_spec("statsmodels") is None:
        pytest.skip("statsmodels is not installed")
    import statsmodels.formula.api as smf

    _, y = balanced(30, 0.7, seed=3)
    frame = pd.DataFrame({"y": y.ravel(), "g": np.repeat(np.arange(30), 4)})
    theirs = smf.mixedlm("y ~ 1", frame, groups=frame["g"]).fit(reml=True)
    assert fitted(y).sd == pytest.approx(float(theirs.cov_re.iloc[0, 0]) ** 0.5, rel=0.03)


def test_no_difference_between_groups_is_not_taken_for_one() -> None:
    _, y = balanced(40, 0.0, seed=4)
    found = fitted(y)
    assert found.sd_low == 0
    assert np.ptp(found.groups) < 0.3 * np.ptp(y.mean(axis=1))
    assert (np.abs(found.groups - 0.3) < 1.96 * found.spread).all()


def test_a_part_that_is_none_of_the_groups_own_is_taken_out() -> None:
    _, y = balanced(60, 1.0, seed=5)
    whole, part = fitted(y), fitted(y, excess=0.3)
    assert part.sd**2 == pytest.approx(whole.sd**2 - 0.3, rel=0.01)
    assert (part.spread > 0.9 * whole.spread).all()


def test_groups_measured_once_are_refused() -> None:
    with pytest.raises(ValueError, match="not measured twice"):
        fitted(np.arange(5.0)[:, None])


@pytest.mark.slow
@pytest.mark.parametrize(("groups", "tau"), [(12, 0.4), (12, 0.0), (60, 0.4)])
def test_intervals_cover_what_was_planted(groups: int, tau: float) -> None:
    of_groups, of_mean, of_sd = [], [], []
    for seed in range(60):
        true, y = balanced(groups, tau, seed)
        found = fitted(y)
        of_groups.append((np.abs(true - found.groups) < 1.96 * found.spread).mean())
        of_mean.append(abs(found.mean - 0.3) < 2.1 * found.error)
        of_sd.append(found.sd_low <= tau <= found.sd_high)
    assert 0.91 <= np.mean(of_groups) <= 1.0
    assert np.mean(of_mean) >= 0.88
    assert np.mean(of_sd) >= 0.88
