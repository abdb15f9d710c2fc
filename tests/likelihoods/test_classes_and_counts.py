"""What sets apart the likelihoods of classes and counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import special, stats

from hlvnn.data.grouped import GroupedDataset, Split
from hlvnn.errors import ConfigError, DataError
from hlvnn.likelihoods._quadrature import GaussHermite
from hlvnn.likelihoods.bernoulli import Bernoulli
from hlvnn.likelihoods.binomial import Binomial
from hlvnn.likelihoods.categorical import Categorical
from hlvnn.likelihoods.gaussian import Gaussian
from hlvnn.likelihoods.poisson import Poisson
from hlvnn.models.build import build_model
from tests.helpers import generator, grouped_data, small_config
from tests.likelihoods.making import B, S, make, predictor, targets

# categorical


def test_probabilities_of_classes_are_those_of_torch_and_exact_far_out() -> None:
    """Also where one of two classes has next to none."""
    eta = torch.tensor([-40.0, -3.0, 0.0, 2.0, 30.0]).unsqueeze(-1)
    got = Bernoulli(2).probabilities(eta)
    expected = special.expit(np.concatenate([-eta.double(), eta.double()], axis=-1))
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5)
    eta = 5 * torch.randn(S, B, 4, generator=generator())
    got = Categorical(4).probabilities(eta)
    expected = special.softmax(eta.double().numpy(), axis=-1)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5)
    with pytest.raises(TypeError, match="no classes"):
        Gaussian(None).probabilities(eta)


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


# binomial


def test_binomial_is_the_probability_of_the_rows_counts() -> None:
    likelihood = make("binomial")
    eta, y = predictor(likelihood), targets(likelihood)
    p = special.expit(eta[..., 0].double().numpy())
    expected = stats.binom.logpmf(y[:, 0].numpy(), y[:, 1].numpy(), p)
    np.testing.assert_allclose(likelihood.log_prob(eta, y).numpy(), expected, rtol=1e-5)
    np.testing.assert_allclose(likelihood(eta).mean.numpy(), p, rtol=1e-6)
    np.testing.assert_allclose(likelihood.response(y), y[:, 0] / y[:, 1])


def test_binomial_with_one_trial_is_bernoulli() -> None:
    eta, hit = predictor(Bernoulli(2)), targets(Bernoulli(2))
    y = torch.stack([hit, torch.ones_like(hit)], dim=1).double()
    torch.testing.assert_close(Binomial().log_prob(eta, y), Bernoulli(2).log_prob(eta, hit))


def test_binomial_keeps_its_digits_with_a_million_trials() -> None:
    y = torch.tensor([[300_000.0, 1e6]], dtype=torch.float64)
    eta = torch.tensor([[special.logit(0.3)]], dtype=torch.float32)
    expected = stats.binom.logpmf(300_000, 1_000_000, special.expit(float(eta)))
    assert float(Binomial().log_prob(eta, y)) == pytest.approx(expected, abs=1e-5)


# Poisson


def test_poisson_is_a_count_with_a_log_link_from_the_mean_rate() -> None:
    likelihood = make("poisson")
    eta, y = predictor(likelihood), targets(likelihood)
    rate = y.mean().item() * np.exp(eta[..., 0].double().numpy())
    expected = stats.poisson.logpmf(y.numpy(), rate)
    np.testing.assert_allclose(likelihood.log_prob(eta, y).numpy(), expected, rtol=1e-5)
    np.testing.assert_allclose(likelihood(eta).mean.numpy(), rate, rtol=1e-12)
    assert likelihood.units() == (pytest.approx(np.log(y.mean().item())), 1.0)


def test_the_poisson_expectation_is_that_of_quadrature() -> None:
    likelihood = make("poisson")
    mean, y = predictor(likelihood)[0].double(), targets(likelihood)
    variance = 0.1 + torch.rand(mean.shape, generator=generator(2)).double()
    got = likelihood.expected_log_prob(mean, variance, y)
    by_nodes = GaussHermite()(lambda eta: likelihood.log_prob(eta, y), mean, variance)
    torch.testing.assert_close(got, by_nodes, rtol=1e-9, atol=1e-9)


def test_poisson_keeps_its_digits_with_large_counts() -> None:
    y = torch.tensor([1e8, 1e8 + 20_000], dtype=torch.float64)
    likelihood = Poisson()
    likelihood.observe(y)
    got = likelihood.log_prob(torch.zeros(2, 1), y)
    expected = stats.poisson.logpmf(y.numpy(), y.mean().item())
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-4)


def test_poisson_without_any_event_starts_at_a_finite_rate() -> None:
    likelihood = Poisson()
    likelihood.observe(torch.zeros(5, dtype=torch.float64))
    assert likelihood.units()[0] == pytest.approx(np.log(0.1))


@pytest.mark.parametrize("value", [-1.0, 2.5])
def test_poisson_names_the_row_of_what_is_no_count(value: float) -> None:
    data = grouped_data(target="real")
    y = data.train.y.round().abs()
    y[7] = value
    train = Split(data.train.x, data.train.groups, y)
    with pytest.raises(
        DataError,
        match=rf"target 'y': training row 7 .* is {value}, .*whole numbers from 0; .*gaussian",
    ):
        build_model(small_config(likelihood="poisson"), GroupedDataset(data.schema, train))
