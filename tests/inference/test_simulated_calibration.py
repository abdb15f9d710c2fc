"""Simulation-based calibration: truths rank uniformly among draws of their groups' posteriors.

    python -m pytest tests/inference/test_simulated_calibration.py -m slow -s  # prints

The simulation, the ranks and their figures are the benchmark's; see its docstring.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from benchmarks import calibration
from benchmarks.calibration import BINS, COORDINATES, DRAWS, TRUTHS, Figures, Truth
from hlvnn.inference.importance import evidence
from hlvnn.models.model import HierarchicalModel
from tests.helpers import generator

EPOCHS = 400
Array = NDArray[np.float64]


def design(frame: pd.DataFrame) -> Array:
    return np.column_stack([np.ones(len(frame)), frame["x"]])


def exact_posterior(truth: Truth, frame: pd.DataFrame) -> tuple[Array, Array]:
    """Return the means [G, 2] and precisions T⁻¹ + XᵀX / σ² [G, 2, 2] of a Gaussian y's z."""
    prior = np.linalg.inv(truth.covariance)
    means, precisions = [], []
    for _, own in frame.groupby("group"):
        x = design(own)
        precision = prior + x.T @ x / truth.noise**2
        residual = own["y"].to_numpy() - x @ np.array(truth.mean)
        means.append(np.linalg.solve(precision, x.T @ residual / truth.noise**2))
        precisions.append(precision)
    return np.array(means), np.array(precisions)


def moments(model: HierarchicalModel) -> tuple[Array, Array]:
    """Return the posterior means and variances, [G, 2] each, in y's units."""
    table = model.posterior("group")
    sd = table.filter(regex="^sd_").to_numpy()
    return table.filter(regex="^mean_").to_numpy(), sd**2


# the closed forms


@pytest.mark.parametrize("posterior", ["mean_field", "full_rank"])
def test_means_and_variances_of_the_linear_model_are_the_closed_forms(posterior: str) -> None:
    """A mean-field variance is one over the precision's diagonal: it knows nothing of the rest."""
    truth = TRUTHS["linear"]
    frame, _ = calibration.simulate(truth, 200, seed=0)
    model, _ = calibration.fitted(truth, frame, posterior, EPOCHS)
    exact_mean, precision = exact_posterior(truth, frame)
    exact = np.linalg.inv(precision).diagonal(axis1=1, axis2=2)
    law = {"mean_field": 1 / precision.diagonal(axis1=1, axis2=2), "full_rank": exact}[posterior]
    mean, variance = moments(model)
    print(f"\n{posterior}: variance / law − 1 up to {np.abs(variance / law - 1).max():.1e}")
    np.testing.assert_allclose(variance, law, rtol=1e-4)
    assert (np.abs(mean - exact_mean) < 1e-3 * np.sqrt(exact)).all()
    assert (precision[:, 0, 1] > 0).all()
    assert (exact > 1.05 / precision.diagonal(axis1=1, axis2=2)).all()


@pytest.mark.parametrize("name", TRUTHS)
def test_the_shared_parameters_are_the_truths_after_the_fit(name: str) -> None:
    truth = TRUTHS[name]
    frame, _ = calibration.simulate(truth, 20, seed=0)
    model, _ = calibration.fitted(truth, frame, "full_rank", epochs=5)
    expected = [*truth.mean, *truth.sd, truth.correlation]
    expected += [truth.noise] if name == "linear" else []
    assert model.summary()["estimate"].to_numpy() == pytest.approx(expected, rel=1e-5)


# weights, ranks and figures


def test_where_q_is_exact_every_weight_is_the_groups_likelihood() -> None:
    truth = TRUTHS["linear"]
    frame, _ = calibration.simulate(truth, 30, seed=0)
    model, rows = calibration.fitted(truth, frame, "full_rank", EPOCHS)
    weights = calibration.log_weights(model, rows, *calibration.draw(model, rows, 50, seed=0))
    for group, own in frame.groupby("group"):
        x = design(own)
        covariance = x @ truth.covariance @ x.T + truth.noise**2 * np.eye(len(own))
        expected = stats.multivariate_normal(x @ np.array(truth.mean), covariance).logpdf(own["y"])
        assert weights[:, group].numpy() == pytest.approx(np.full(50, expected), abs=1e-3)


def test_weights_of_a_logistic_model_bound_the_evidence_as_importance_does() -> None:
    truth = TRUTHS["logistic"]
    frame, _ = calibration.simulate(truth, 30, seed=0)
    model, rows = calibration.fitted(truth, frame, "full_rank", EPOCHS)
    weights = calibration.log_weights(model, rows, *calibration.draw(model, rows, 4000, seed=0))
    bounds = weights.logsumexp(0).numpy() - np.log(4000)
    blocks = evidence(model, rows, 4000, seed=1).blocks
    assert bounds == pytest.approx(blocks["bound"].to_numpy(), abs=0.03)


def test_resampled_draws_follow_the_weights() -> None:
    """N(0, 1) weighted by exp(z m) is N(m, 1)."""
    z = torch.randn(20_000, 3, 1, generator=generator())
    shift = torch.tensor([-0.5, 0.0, 0.5])
    got = calibration.resampled(z, (z[:, :, 0] * shift).double(), seed=0)
    assert got.shape == z.shape
    assert got[:, :, 0].mean(0).numpy() == pytest.approx(shift.numpy(), abs=0.05)
    assert got[:, :, 0].std(0).numpy() == pytest.approx(np.ones(3), abs=0.05)


def test_figures_tell_uniform_ranks_from_others() -> None:
    uniform = calibration.figures(np.arange(DRAWS + 1))
    assert uniform.p == pytest.approx(1)
    assert uniform.ks == pytest.approx(0, abs=1e-3)
    assert uniform.coverage == pytest.approx(0.9, abs=1e-3)
    narrow = calibration.figures(np.tile([0, DRAWS], 1000))  # all truths outside all draws
    assert (narrow.p, narrow.coverage) == (0, 0)
    assert narrow.ks == pytest.approx(0.5, abs=1e-3)
    assert (DRAWS + 1) % BINS == 0


# 2,000 data sets


@cache
def found(name: str, posterior: str) -> calibration.Calibration:
    result = calibration.calibrate(name, posterior, data_sets=2000, seed=0, epochs=EPOCHS)
    for kind, by_coordinate in result.items():
        for coordinate, own in by_coordinate.items():
            print(
                f"\n{name}, {posterior} {kind} {coordinate}: p {own.p:.3g}  KS {own.ks:.3f}  "
                f"coverage {100 * own.coverage:.1f} %"
            )
    return result


def both(name: str, posterior: str, kind: str = "") -> list[Figures]:
    return [found(name, posterior)[kind][coordinate] for coordinate in COORDINATES]


@pytest.mark.slow
def test_a_full_rank_posterior_of_the_linear_model_is_calibrated() -> None:
    for own in both("linear", "full_rank"):
        assert own.p > 0.01
        assert 0.88 <= own.coverage <= 0.92


@pytest.mark.slow
def test_a_full_rank_posterior_of_the_logistic_model_is_nearly_calibrated() -> None:
    for own in both("logistic", "full_rank"):
        assert 0.88 <= own.coverage <= 0.92
        assert own.ks <= 0.04


@pytest.mark.slow
@pytest.mark.parametrize("posterior", ["full_rank", "mean_field"])
def test_importance_weights_calibrate_the_logistic_model(posterior: str) -> None:
    """What a mean field covers without them is printed, and has no bound."""
    for own in both("logistic", posterior, "weighted"):
        assert own.p > 0.01


@pytest.mark.slow
def test_mean_field_intervals_of_the_linear_model_are_too_narrow() -> None:
    """Its intercepts and slopes correlate a posteriori, as x is not centred."""
    for own in both("linear", "mean_field"):
        assert own.coverage < 0.8
