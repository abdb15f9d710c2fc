"""Likelihoods: densities in y's own units, and expectations over a normal predictor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats
from torch import Tensor
from torch.distributions import Distribution

from hlvnn.data.grouped import GroupedDataset, Split
from hlvnn.errors import ConfigError, DataError
from hlvnn.likelihoods._quadrature import GaussHermite
from hlvnn.likelihoods.base import Likelihood
from hlvnn.likelihoods.bernoulli import Bernoulli
from hlvnn.likelihoods.binomial import Binomial
from hlvnn.likelihoods.categorical import Categorical
from hlvnn.likelihoods.gaussian import Gaussian
from hlvnn.likelihoods.poisson import Poisson
from hlvnn.models.build import build_model
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
COUNTS = torch.tensor([3.0, 0, 7, 12, 1, 4], dtype=torch.float64)
TRIALS = torch.tensor([3.0, 5, 20, 12, 1, 9], dtype=torch.float64)
ONE_TRIAL = [name for name in LIKELIHOODS if not likelihood_class(name).counts_trials]


def targets(likelihood: Likelihood) -> Tensor:
    if likelihood.target == "class":
        return torch.tensor([0, 1, 1, 0, 1, 0])
    if isinstance(likelihood, Poisson):
        return COUNTS
    if likelihood.counts_trials:
        return torch.stack([COUNTS.minimum(TRIALS), TRIALS], dim=1)
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


@pytest.mark.parametrize(
    ("name", "target"), [("gaussian", "class"), ("poisson", "class"), ("categorical", "real")]
)
def test_a_likelihood_refuses_the_other_kind_of_target(name: str, target: str) -> None:
    with pytest.raises(
        ConfigError, match=f"--likelihood {name} needs a .* target; 'y' is {target}"
    ):
        build_model(small_config(likelihood=name), grouped_data(target=target))
