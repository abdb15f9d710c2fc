"""Every posterior, prior and pair of them is held to the laws of its family."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal

from hlvnn.latents.divergence import cholesky
from hlvnn.latents.posteriors.base import LevelPosterior, Posterior
from hlvnn.random import seeding
from tests.helpers import (
    POSTERIORS,
    PRIORS,
    generator,
    posterior_class,
    randomise,
    reloaded,
    same_bits,
    untouched_parameters,
)
from tests.latents.pairs import ALLOWED, GROUPS, PROPER, SCALE, WIDTH, at_prior, posterior, prior

NORMAL = [name for name in POSTERIORS if posterior_class(name).normal]
MONTE_CARLO = 200_000


def draws(law: Distribution, number: int = MONTE_CARLO) -> Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return law.sample(torch.Size([number])).double()


def stratified(q: Posterior, group: Tensor, number: int = 2) -> Tensor:
    """Return Σ weight · draw over all strata, [B, Z], with gradients to all of q's parameters."""
    with seeding(0):
        z, weights = q.stratified(q(group), number)
    assert z.shape == (number * q.strata, len(group), q.width)
    if weights is None:
        assert q.strata == 1
        return z.mean(0)
    torch.testing.assert_close(weights.sum(0), torch.ones(len(group)))
    return (weights[..., None] * z).sum(0)


def assert_mean_and_variance_are_those_of_draws(law: Distribution) -> None:
    z = draws(law)
    sd = z.std(0)
    torch.testing.assert_close(z.mean(0), law.mean.double(), atol=5 * float(sd.max()) / 447, rtol=0)
    torch.testing.assert_close(z.var(0), law.variance.double(), rtol=0.03, atol=1e-9)


# posteriors


@pytest.mark.parametrize("name", POSTERIORS)
def test_a_posterior_returns_a_law_for_each_group_asked_for(name: str) -> None:
    law = posterior(name)(torch.tensor([3, 1, 3, 0], dtype=torch.int32))
    assert isinstance(law, Distribution)
    assert law.batch_shape == (4,)
    assert law.event_shape == (WIDTH,)
    assert law.sample(torch.Size([7])).shape == (7, 4, WIDTH)


@pytest.mark.parametrize("name", POSTERIORS)
def test_a_posterior_gives_the_same_group_the_same_law_wherever_it_stands(name: str) -> None:
    q = randomise(posterior(name))
    alone, among = q(torch.tensor([3])), q(torch.tensor([1, 3, 0]))
    assert torch.equal(alone.mean[0], among.mean[1])
    assert torch.equal(alone.variance[0], among.variance[1])


@pytest.mark.parametrize("name", POSTERIORS)
def test_a_posterior_starts_at_mean_zero_and_the_given_sd(name: str) -> None:
    law = posterior(name)(torch.arange(GROUPS))
    sd = SCALE if posterior_class(name).random else torch.zeros(WIDTH)
    torch.testing.assert_close(law.mean, torch.zeros(GROUPS, WIDTH), atol=1e-6, rtol=0)
    torch.testing.assert_close(law.variance, sd.square().expand(GROUPS, WIDTH))


@pytest.mark.parametrize("width", [1, 2, 5])
@pytest.mark.parametrize("name", POSTERIORS)
def test_a_posterior_announces_the_size_of_its_table(name: str, width: int) -> None:
    q = posterior(name, torch.ones(width))
    sizes = {"num_groups": GROUPS} if isinstance(q, LevelPosterior) else {}
    assert q.table.shape == (GROUPS, posterior_class(name).num_parameters(width, **sizes))
    assert sum(p.numel() for p in q.parameters()) == q.table.numel()


@pytest.mark.parametrize("name", POSTERIORS)
def test_gradients_reach_every_parameter_of_the_touched_groups_and_no_other(name: str) -> None:
    q = randomise(posterior(name))
    z = stratified(q, torch.tensor([3, 1, 3]))
    (z * torch.randn(z.shape, generator=generator())).sum().backward()
    gradient = q.table.grad
    assert gradient is not None
    assert gradient.is_sparse
    assert (gradient.to_dense() != 0).any(1).tolist() == [False, True, False, True, False]
    reached = gradient.to_dense()[[1, 3]] != 0
    # of the rows of a level's L, only what lies below the diagonal counts
    if not isinstance(q, LevelPosterior):
        assert reached.all()


@pytest.mark.parametrize("name", POSTERIORS)
def test_a_posteriors_draws_have_its_mean_and_variance(name: str) -> None:
    q = randomise(posterior(name))
    with torch.no_grad():
        assert_mean_and_variance_are_those_of_draws(q(torch.tensor([2, 4])))


@pytest.mark.parametrize("name", NORMAL)
def test_a_normal_posteriors_cholesky_factor_gives_its_draws_covariance(name: str) -> None:
    q = randomise(posterior(name))
    with torch.no_grad():
        law = q(torch.tensor([2]))
    tril = cholesky(law)[0].double()
    covariance = np.cov(draws(law)[:, 0].numpy().T)
    sd = np.sqrt(np.diag(covariance))
    expected = (tril @ tril.T).numpy()
    np.testing.assert_allclose(
        expected / np.outer(sd, sd), covariance / np.outer(sd, sd), atol=0.01
    )


@pytest.mark.parametrize("name", [*NORMAL, "mixture"])
def test_a_factor_is_a_root_of_the_covariance_of_the_draws(name: str) -> None:
    q = randomise(posterior(name))
    with torch.no_grad():
        law = q(torch.tensor([2, 4]))
        root = q.factor(law, torch.tensor([2, 4]))[1].double()
        z = draws(law)[:, 1]
    sd = z.std(0)
    expected, got = torch.cov(z.T) / torch.outer(sd, sd), root @ root.T / torch.outer(sd, sd)
    torch.testing.assert_close(got, expected, atol=0.015, rtol=0)
    torch.testing.assert_close(got.diagonal(), (law.variance[1] / sd.square()).double())


@pytest.mark.parametrize("name", POSTERIORS)
def test_weighted_draws_from_all_strata_have_the_posteriors_moments(name: str) -> None:
    q = randomise(posterior(name))
    with torch.no_grad(), seeding(0):
        law = q(torch.tensor([2, 4]))
        z, weights = q.stratified(law, 50_000)
    weight = torch.full(z.shape[:2], 1 / len(z)) if weights is None else weights
    weight = weight.double()[..., None]
    mean = (weight * z).sum(0)
    variance = (weight * (z - mean).square()).sum(0)
    atol = 1e-6 + 5 * float(law.variance.max().sqrt()) / 50_000**0.5
    torch.testing.assert_close(mean, law.mean.double(), atol=atol, rtol=0)
    torch.testing.assert_close(variance, law.variance.double(), rtol=0.03, atol=1e-9)


@pytest.mark.parametrize("name", POSTERIORS)
def test_a_posterior_saves_and_loads_the_same_bits(name: str) -> None:
    q = randomise(posterior(name))
    again = reloaded(q, posterior(name))
    group = torch.arange(GROUPS)
    assert same_bits(q, again)
    assert torch.equal(draws(q(group), 3), draws(again(group), 3))


# priors


@pytest.mark.parametrize("name", PRIORS)
def test_a_prior_returns_one_law(name: str) -> None:
    law = prior(name)()
    assert isinstance(law, Distribution)
    assert law.batch_shape == ()
    assert law.event_shape == (WIDTH,)
    assert law.rsample(torch.Size([7, 4])).shape == (7, 4, WIDTH)


@pytest.mark.parametrize("name", PROPER)
def test_a_prior_starts_at_mean_zero_and_a_learned_one_at_the_given_sd(name: str) -> None:
    p = prior(name)
    sd = SCALE if p.learned else torch.ones(WIDTH)
    torch.testing.assert_close(p().mean, torch.zeros(WIDTH))
    torch.testing.assert_close(p().variance.sqrt(), sd)


@pytest.mark.parametrize("name", PRIORS)
def test_a_prior_has_parameters_only_if_it_is_learned_and_gradients_reach_them(name: str) -> None:
    p = randomise(prior(name))
    assert bool(list(p.parameters())) == p.learned
    if p.learned:
        z = torch.randn(4, WIDTH, generator=generator())
        p().log_prob(z).sum().backward()
        assert untouched_parameters(p) == []


@pytest.mark.parametrize("name", PRIORS)
def test_a_priors_draws_have_its_mean_and_variance(name: str) -> None:
    with torch.no_grad():
        assert_mean_and_variance_are_those_of_draws(randomise(prior(name))())


@pytest.mark.parametrize("name", PRIORS)
def test_a_prior_saves_and_loads_the_same_bits(name: str) -> None:
    p = randomise(prior(name))
    again = reloaded(p, prior(name))
    assert same_bits(p, again)
    assert torch.equal(draws(p(), 3), draws(again(), 3))


@pytest.mark.parametrize("name", PROPER)
def test_a_proper_priors_density_is_normalised(name: str) -> None:
    scale = torch.tensor([0.8])
    z = torch.linspace(-12, 12, 20_001, dtype=torch.float64)[:, None].float()
    with torch.no_grad():
        density = randomise(prior(name, scale))().log_prob(z).exp()
    assert float(torch.trapezoid(density.double(), z[:, 0].double())) == pytest.approx(1, abs=1e-4)


def test_learned_full_reaches_any_covariance() -> None:
    factor = torch.randn(WIDTH, WIDTH, generator=generator())
    covariance = factor @ factor.T + 0.1 * torch.eye(WIDTH)
    lower = torch.linalg.cholesky(covariance)
    p = prior("learned_full")
    row, column = torch.tril_indices(WIDTH, WIDTH, -1)
    p.load_state_dict({"log_diagonal": lower.diagonal().log(), "lower": lower[row, column]})
    law = p()
    assert isinstance(law, MultivariateNormal)
    torch.testing.assert_close(law.covariance_matrix.detach(), covariance)


# pairs


@pytest.mark.parametrize(("q_name", "p_name"), ALLOWED)
def test_kl_is_never_negative(q_name: str, p_name: str) -> None:
    for seed in range(20):
        q = randomise(posterior(q_name), 1.0, seed)
        p = randomise(prior(p_name), 0.5, seed)
        value = q.kl(q(torch.arange(GROUPS)), p())
        assert value.shape == (GROUPS,)
        assert (value >= 0).all()  # a mixture's is an estimate; so far from p it is far from 0


@pytest.mark.parametrize(("q_name", "p_name"), ALLOWED)
def test_kl_is_zero_at_the_prior(q_name: str, p_name: str) -> None:
    p = prior(p_name)
    q = at_prior(q_name, p()) if p.proper else posterior(q_name)
    value = q.kl(q(torch.arange(GROUPS)), p())
    torch.testing.assert_close(value, torch.zeros(GROUPS), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("q_name", "p_name"), [pair for pair in ALLOWED if pair[0] != "point"])
def test_kl_is_the_mean_of_the_log_ratio_over_draws(q_name: str, p_name: str) -> None:
    sd = 0.1 if q_name == "joint" else 0.3  # joint adds all its rows of L to a group's variance
    q, p = randomise(posterior(q_name), sd), randomise(prior(p_name), seed=1)
    with torch.no_grad():
        law = q(torch.tensor([0, 3]))
        z = draws(law).float()
        ratio = (law.log_prob(z) - p().log_prob(z)).double()
        with seeding(1):  # over many rows of the same groups, for a mixture's is an estimate
            value = q.kl(q(torch.tensor([0, 3]).repeat(5000)), p()).double().view(-1, 2).mean(0)
    error = ratio.std(0) / math.sqrt(MONTE_CARLO)
    assert ((ratio.mean(0) - value).abs() < 4 * error).all()
    assert (error < 0.01).all()


@pytest.mark.parametrize(("q_name", "p_name"), ALLOWED)
def test_gradients_of_the_kl_reach_both_laws(q_name: str, p_name: str) -> None:
    q, p = randomise(posterior(q_name)), randomise(prior(p_name), seed=1)
    value = q.kl(q(torch.arange(GROUPS)), p()).sum()
    if p.proper:
        value.backward()
        reached = q.table.grad.to_dense() != 0
        assert reached.any(1).all() if isinstance(q, LevelPosterior) else reached.all()
        assert untouched_parameters(p) == []
    else:
        assert not value.requires_grad
