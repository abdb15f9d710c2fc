"""The laws that every likelihood keeps, and which one a target takes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats
from torch.distributions import Distribution

from hlvnn.errors import ConfigError
from hlvnn.likelihoods._quadrature import GaussHermite
from hlvnn.likelihoods.base import Likelihood
from hlvnn.likelihoods.bernoulli import Bernoulli
from hlvnn.likelihoods.categorical import Categorical
from hlvnn.likelihoods.gaussian import Gaussian
from hlvnn.likelihoods.poisson import Poisson
from hlvnn.models.build import build_model
from tests.helpers import (
    LIKELIHOODS,
    generator,
    grouped_data,
    likelihood_class,
    reloaded,
    same_bits,
    small_config,
    untouched_parameters,
)
from tests.likelihoods.making import TRIALS, B, S, make, predictor, targets

ONE_TRIAL = [name for name in LIKELIHOODS if not likelihood_class(name).counts_trials]


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_a_likelihood_returns_a_law_of_y_for_every_draw_and_row(name: str) -> None:
    likelihood = make(name)
    law = likelihood(predictor(likelihood))
    assert isinstance(law, Distribution)
    assert law.batch_shape == (S, B)
    assert law.event_shape == ()


@pytest.mark.parametrize("name", ONE_TRIAL)
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


# expectations by quadrature


@pytest.mark.parametrize("name", ["bernoulli", "binomial"])
@pytest.mark.parametrize("sd", [0.0, 0.1, 1.0, 2.0, 3.0])
def test_quadrature_is_right_to_1e6_up_to_sd_3(name: str, sd: float) -> None:
    likelihood = make(name)
    y = targets(likelihood)
    counts = y.tolist() if likelihood.counts_trials else [(value, 1) for value in y.tolist()]
    for mean in np.linspace(-6, 6, 7):
        at = torch.full((B, 1), mean, dtype=torch.float64)
        got = likelihood.expected_log_prob(at, torch.full_like(at, sd**2), y)
        for (hits, trials), value in zip(counts, got.tolist(), strict=True):

            def integrand(
                z: float, mean: float = mean, hits: float = hits, trials: float = trials
            ) -> float:
                eta = mean + sd * z
                log_prob = -hits * np.logaddexp(0, -eta) - (trials - hits) * np.logaddexp(0, eta)
                return float(log_prob * np.exp(-z * z / 2) / np.sqrt(2 * np.pi))

            expected = integrate.quad(integrand, -12, 12, epsabs=1e-10, limit=200)[0]
            expected += np.log(special.comb(trials, hits))
            assert value == pytest.approx(expected, abs=1e-6 * trials)


def test_quadrature_has_gradients_at_variance_0_and_saves_nothing() -> None:
    likelihood = Bernoulli(2)
    mean = torch.randn(B, 1, generator=generator())
    variance = torch.zeros(B, 1, requires_grad=True)
    value = likelihood.expected_log_prob(mean, variance, targets(likelihood))
    value.sum().backward()
    torch.testing.assert_close(value, likelihood.log_prob(mean, targets(likelihood)))
    assert variance.grad is not None
    assert torch.isfinite(variance.grad).all()
    assert likelihood.state_dict() == {}
    assert likelihood.expected_log_prob(mean, variance, targets(likelihood)).dtype == mean.dtype


def test_quadrature_gives_the_moments_of_a_normal() -> None:
    mean = torch.tensor([[-1.0], [2.0]], dtype=torch.float64)
    variance = torch.tensor([[0.5], [9.0]], dtype=torch.float64)
    got = GaussHermite()(lambda eta: eta.squeeze(-1).square(), mean, variance)
    torch.testing.assert_close(got, (mean.square() + variance).squeeze(-1))


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_the_distribution_function_is_scipys(name: str) -> None:
    likelihood = make(name)
    eta, y = predictor(likelihood), targets(likelihood)
    with torch.no_grad():
        if likelihood.target == "class":
            with pytest.raises(TypeError, match="classes have no order"):
                likelihood.cumulative(eta, y)
            return
        below, up_to = likelihood.cumulative(eta, y)
        mean = likelihood(eta).mean.numpy()
    assert below.shape == up_to.shape == (S, B)
    assert below.dtype == up_to.dtype == torch.float64
    if isinstance(likelihood, Gaussian):
        law = stats.norm(mean, likelihood.noise_sd())
        np.testing.assert_allclose(up_to, law.cdf(y.numpy()), rtol=1e-6)
        assert torch.equal(below, up_to)
        return
    law = stats.poisson(mean) if isinstance(likelihood, Poisson) else stats.binom(TRIALS, mean)
    count = (y if y.dim() == 1 else y[:, 0]).numpy()
    np.testing.assert_allclose(up_to, law.cdf(count), rtol=1e-9)
    np.testing.assert_allclose(below, law.cdf(count - 1), rtol=1e-9)
    assert (below[:, count == 0] == 0).all()
    if likelihood.counts_trials:
        assert (up_to[:, count == TRIALS.numpy()] == 1).all()


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


@pytest.mark.parametrize(
    ("name", "target"), [("gaussian", "class"), ("poisson", "class"), ("categorical", "real")]
)
def test_a_likelihood_refuses_the_other_kind_of_target(name: str, target: str) -> None:
    with pytest.raises(
        ConfigError, match=f"--likelihood {name} needs a .* target; 'y' is {target}"
    ):
        build_model(small_config(likelihood=name), grouped_data(target=target))
