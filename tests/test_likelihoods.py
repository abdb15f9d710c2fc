"""Likelihoods: densities in y's own units, and expectations over a normal predictor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import Tensor
from torch.distributions import Distribution

from hlvnn.build import build_model
from hlvnn.errors import ConfigError
from hlvnn.likelihoods.base import Likelihood
from hlvnn.likelihoods.bernoulli import Bernoulli
from hlvnn.likelihoods.categorical import Categorical
from hlvnn.likelihoods.gaussian import Gaussian
from tests.helpers import (
    LIKELIHOODS,
    generator,
    grouped_data,
    likelihood_class,
    randomise,
    reloaded,
    same_bits,
    small_config,
    untouched_parameters,
)

S, B = 3, 6
CENTER, SPREAD = 5e5, 300.0


def targets(likelihood: Likelihood) -> Tensor:
    if likelihood.target == "class":
        return torch.tensor([0, 1, 1, 0, 1, 0])
    return CENTER + SPREAD * torch.randn(B, generator=generator(), dtype=torch.float64)


def make(name: str) -> Likelihood:
    cls = likelihood_class(name)
    likelihood = randomise(cls(2 if cls.target == "class" else None))
    likelihood.observe(targets(likelihood))
    return likelihood


def predictor(likelihood: Likelihood) -> Tensor:
    return torch.randn(S, B, likelihood.num_outputs, generator=generator(1))


def quadrature(law: object, mean: float, sd: float, points: int = 60) -> float:
    """Return E[law.logpdf] for a location that is N(mean, sd²), by Gauss-Hermite."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(points)
    values = law(mean + sd * nodes)  # type: ignore[operator]
    return float((weights * values).sum() / weights.sum())


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_a_likelihood_returns_a_law_of_y_for_every_draw_and_row(name: str) -> None:
    likelihood = make(name)
    law = likelihood(predictor(likelihood))
    assert isinstance(law, Distribution)
    assert law.batch_shape == (S, B)
    assert law.event_shape == ()


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_log_prob_is_that_of_the_law(name: str) -> None:
    likelihood = make(name)
    eta, y = predictor(likelihood), targets(likelihood)
    expected = likelihood(eta).log_prob(y.double())
    got = likelihood.log_prob(eta, y)
    assert got.shape == (S, B)
    torch.testing.assert_close(got.double(), expected.double(), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(likelihood.log_prob(eta[0], y), got[0])


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_gradients_reach_the_predictor_and_every_parameter(name: str) -> None:
    likelihood = make(name)
    eta = predictor(likelihood).requires_grad_()
    likelihood.log_prob(eta, targets(likelihood)).sum().backward()
    assert (eta.grad != 0).all()
    assert untouched_parameters(likelihood) == []


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_a_likelihood_saves_and_loads_the_same_bits(name: str) -> None:
    likelihood = make(name)
    cls = type(likelihood)
    again = reloaded(likelihood, cls(2 if likelihood.target == "class" else None))
    eta, y = predictor(likelihood), targets(likelihood)
    assert same_bits(likelihood, again)
    assert torch.equal(likelihood.log_prob(eta, y), again.log_prob(eta, y))


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_extreme_predictors_give_no_nan(name: str) -> None:
    likelihood = make(name)
    eta = torch.tensor([-1e4, 1e4]).repeat(S, B, 1)[..., : likelihood.num_outputs]
    assert not likelihood.log_prob(eta, targets(likelihood)).isnan().any()


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_an_expectation_is_exact_or_refused(name: str) -> None:
    likelihood = make(name)
    mean, y = predictor(likelihood)[0], targets(likelihood)
    variance = 0.1 + torch.rand(mean.shape, generator=generator(2))
    if not likelihood.closed_form:
        with pytest.raises(TypeError, match="no closed form"):
            likelihood.expected_log_prob(mean, variance, y)
        return
    noise = torch.randn(200_000, *mean.shape, generator=generator(3))
    values = likelihood.log_prob(mean + variance.sqrt() * noise, y).double()
    error = values.std(0) / len(values) ** 0.5
    expected = likelihood.expected_log_prob(mean, variance, y)
    assert ((expected - values.mean(0)).abs() < 4 * error).all()


# categorical


def test_categorical_is_the_log_softmax_at_y() -> None:
    likelihood = Categorical(4)
    eta = torch.randn(S, B, 4, generator=generator())
    y = torch.tensor([0, 1, 2, 3, 3, 0])
    expected = special.log_softmax(eta.double().numpy(), axis=-1)[:, np.arange(B), y.numpy()]
    np.testing.assert_allclose(likelihood.log_prob(eta, y).numpy(), expected, rtol=1e-5)


# Bernoulli


def test_bernoulli_reads_the_log_odds_of_class_1() -> None:
    likelihood = Bernoulli(2)
    eta, y = predictor(likelihood), targets(likelihood)
    p = special.expit(eta[..., 0].double().numpy())
    expected = stats.bernoulli.logpmf(y.numpy(), p)
    np.testing.assert_allclose(likelihood.log_prob(eta, y).numpy(), expected, rtol=1e-5)
    np.testing.assert_allclose(likelihood(eta).probs.numpy(), p, rtol=1e-5)


def test_bernoulli_far_in_the_tail_keeps_its_logarithm() -> None:
    eta = torch.tensor([[200.0], [-200.0]])
    got = Bernoulli(2).log_prob(eta, torch.tensor([0, 0]))
    torch.testing.assert_close(got, torch.tensor([-200.0, 0.0]))


def test_bernoulli_refuses_another_number_of_classes() -> None:
    with pytest.raises(ConfigError, match="needs 2 classes, the target has 5; use categorical"):
        build_model(small_config(likelihood="bernoulli"), grouped_data())


# Gaussian


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


# which one a model takes


@pytest.mark.parametrize(
    ("settings", "cls"),
    [
        ({"target": "real"}, Gaussian),
        ({"classes": 2}, Bernoulli),
        ({"classes": 3}, Categorical),
    ],
)
def test_the_target_decides_the_likelihood(
    settings: dict[str, object], cls: type[Likelihood]
) -> None:
    data = grouped_data(**settings)  # type: ignore[arg-type]
    assert type(build_model(small_config(), data).likelihood) is cls


def test_two_classes_may_be_categorical_as_well() -> None:
    model = build_model(small_config(likelihood="categorical"), grouped_data(classes=2))
    assert model.likelihood.num_outputs == 2


@pytest.mark.parametrize(("name", "target"), [("gaussian", "class"), ("categorical", "real")])
def test_a_likelihood_refuses_the_other_kind_of_target(name: str, target: str) -> None:
    with pytest.raises(
        ConfigError, match=f"--likelihood {name} needs a .* target; 'y' is {target}"
    ):
        build_model(small_config(likelihood=name), grouped_data(target=target))
