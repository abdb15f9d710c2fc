"""The Gaussian likelihood, in the unit of its target."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from hlvnn.likelihoods.gaussian import Gaussian
from tests.helpers import generator
from tests.likelihoods.making import B, make, predictor, targets


def quadrature(law: object, mean: float, sd: float, points: int = 60) -> float:
    """Return E[law.logpdf] for a location that is N(mean, sd²), by Gauss-Hermite."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(points)
    values = law(mean + sd * nodes)  # type: ignore[operator]
    return float((weights * values).sum() / weights.sum())


def test_gaussian_densities_are_per_unit_of_y() -> None:
    likelihood = make("gaussian")
    assert isinstance(likelihood, Gaussian)
    eta, y = predictor(likelihood), targets(likelihood)
    center, scale = y.mean().item(), y.std(correction=0).item()
    sd = likelihood.noise_sd()
    mean = center + scale * eta[..., 0].double().numpy()
    expected = stats.norm.logpdf(y.numpy(), mean, sd)
    np.testing.assert_allclose(likelihood.log_prob(eta, y).detach(), expected, rtol=1e-5, atol=1e-4)
    law = likelihood(eta)
    np.testing.assert_allclose(law.mean.detach(), mean, rtol=1e-12)
    np.testing.assert_allclose(law.stddev.detach(), sd, rtol=1e-6)


def test_gaussian_noise_starts_as_a_share_of_the_targets_sd() -> None:
    likelihood = Gaussian()
    y = targets(likelihood)
    likelihood.observe(y)
    assert likelihood.noise_sd() == pytest.approx(0.7 * float(y.std(correction=0)))


def test_the_gaussian_expectation_is_that_of_quadrature() -> None:
    likelihood = make("gaussian")
    assert isinstance(likelihood, Gaussian)
    eta, y = predictor(likelihood)[0], targets(likelihood)
    variance = 0.1 + torch.rand(eta.shape, generator=generator(2))
    got = likelihood.expected_log_prob(eta, variance, y)
    center, scale, sd = float(likelihood.center), float(likelihood.scale), likelihood.noise_sd()
    for b in range(B):

        def density(location: np.ndarray, b: int = b) -> np.ndarray:
            return stats.norm.logpdf(float(y[b]), center + scale * location, sd)

        expected = quadrature(density, float(eta[b, 0]), float(variance[b, 0]) ** 0.5)
        assert float(got[b].detach()) == pytest.approx(expected, rel=1e-5)


def test_gaussian_log_prob_moves_with_the_unit_of_y_by_the_jacobian() -> None:
    y = targets(Gaussian())
    eta = torch.randn(B, 1, generator=generator())
    values = []
    for unit in (1.0, 1e6):
        likelihood = Gaussian()
        likelihood.observe(y / unit)
        values.append(likelihood.log_prob(eta, y / unit).double())
    torch.testing.assert_close(values[1] - values[0], torch.full((B,), np.log(1e6)).double())


def test_a_constant_target_gives_finite_densities() -> None:
    likelihood = Gaussian()
    likelihood.observe(torch.full((5,), 3.0, dtype=torch.float64))
    assert float(likelihood.scale) == 1
    assert torch.isfinite(likelihood.log_prob(torch.zeros(5, 1), torch.full((5,), 3.0))).all()
