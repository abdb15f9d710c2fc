"""The laws that every posterior, prior and pair of them obeys, and the set of latents."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Distribution,
    LowRankMultivariateNormal,
    MixtureSameFamily,
    MultivariateNormal,
    kl_divergence,
)

from hlvnn.config import LatentConfig, ModelConfig
from hlvnn.errors import ConfigError
from hlvnn.latents.divergence import cholesky
from hlvnn.latents.latent_set import LatentSet
from hlvnn.latents.normals import shifted
from hlvnn.latents.pairs import refusal
from hlvnn.latents.posteriors.base import LevelPosterior, Posterior
from hlvnn.latents.posteriors.low_rank import LowRank
from hlvnn.latents.priors.base import Prior
from hlvnn.latents.priors.learned_full import LearnedFull
from hlvnn.models.build import build_model
from hlvnn.random import seeded
from tests.helpers import (
    POSTERIORS,
    PRIORS,
    generator,
    grouped_data,
    latent,
    posterior_class,
    prior_class,
    randomise,
    reloaded,
    same_bits,
    small_config,
    tiny_model,
    untouched_parameters,
)

GROUPS, WIDTH = 5, 3
SCALE = torch.tensor([0.2, 0.5, 1.5])
NORMAL = [name for name in POSTERIORS if posterior_class(name).normal]
PROPER = [name for name in PRIORS if prior_class(name).proper]
PAIRS = [(q, p) for q in POSTERIORS for p in PRIORS]
ALLOWED = [(q, p) for q, p in PAIRS if refusal(posterior_class(q), prior_class(p)) is None]
NORMAL_PAIRS = [(q, p) for q, p in ALLOWED if q in NORMAL]
REFUSED = [pair for pair in PAIRS if pair not in ALLOWED]
MONTE_CARLO = 200_000


def posterior(name: str, scale: Tensor = SCALE, **options: int) -> Posterior:
    return posterior_class(name)(GROUPS, len(scale), scale, **options)


def prior(name: str, scale: Tensor = SCALE) -> Prior:
    return prior_class(name)(len(scale), scale)


def draws(law: Distribution, number: int = MONTE_CARLO) -> Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return law.sample(torch.Size([number])).double()


def stratified(q: Posterior, group: Tensor, number: int = 2) -> Tensor:
    """Return Σ weight · draw over all strata, [B, Z], with gradients to all of q's parameters."""
    with seeded(0):
        z, weights = q.stratified(q(group), number)
    assert z.shape == (number * q.strata, len(group), q.width)
    if weights is None:
        assert q.strata == 1
        return z.mean(0)
    torch.testing.assert_close(weights.sum(0), torch.ones(len(group)))
    return (weights[..., None] * z).sum(0)


def at_prior(name: str, p: Distribution) -> Posterior:
    """Return a posterior that equals a normal prior in every group, as far as it can."""
    q = posterior(name, p.stddev.detach())
    parts = [torch.zeros(WIDTH), p.stddev.log()]
    if name == "full_rank":
        tril = cholesky(p)
        row, column = torch.tril_indices(WIDTH, WIDTH, -1)
        parts = [torch.zeros(WIDTH), tril.diagonal().log(), tril[row, column]]
    elif name == "low_rank":
        parts.append(torch.zeros(q.table.shape[1] - 2 * WIDTH))
    elif name == "mixture":
        unequal = torch.tensor([0.3, -0.4])
        parts = [unequal, torch.zeros(2 * WIDTH), p.stddev.log().repeat(2)]
    elif name != "mean_field":  # joint and point start where they should be
        return q
    q.load_state_dict({"table": torch.cat(parts).detach().repeat(GROUPS, 1)})
    return q


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
    with torch.no_grad(), seeded(0):
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


def test_full_rank_reads_its_parameters_as_it_says() -> None:
    q = randomise(posterior("full_rank"), sd=1.0)
    m, log_diagonal, below = q.table.detach()[4].split([3, 3, 3])
    factor = torch.tensor(
        [
            [math.exp(log_diagonal[0]), 0, 0],
            [below[0], math.exp(log_diagonal[1]), 0],
            [below[1], below[2], math.exp(log_diagonal[2])],
        ]
    )
    law = q(torch.tensor([4]))
    assert isinstance(law, MultivariateNormal)
    torch.testing.assert_close(law.mean[0].detach(), m)
    torch.testing.assert_close(law.covariance_matrix[0].detach(), factor @ factor.T)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_low_rank_reads_its_parameters_as_it_says(rank: int) -> None:
    q = randomise(posterior("low_rank", posterior_rank=rank), sd=1.0)
    m, log_own, spread = q.table.detach()[4].split([3, 3, 3 * rank])
    law = q(torch.tensor([4]))
    assert isinstance(law, LowRankMultivariateNormal)
    u = spread.view(3, rank)
    torch.testing.assert_close(law.mean[0].detach(), m)
    expected = (2 * log_own).exp().diag() + u @ u.T
    torch.testing.assert_close(law.covariance_matrix[0].detach(), expected)


def test_low_rank_refuses_more_directions_than_dimensions() -> None:
    posterior("low_rank", posterior_rank=WIDTH)
    with pytest.raises(
        ConfigError, match=r"posterior_rank \(4\): at most the latent's width \(3\)"
    ):
        posterior("low_rank", posterior_rank=WIDTH + 1)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_low_rank_starts_with_directions_that_differ(rank: int) -> None:
    q = posterior("low_rank", posterior_rank=rank)
    spread = q(torch.tensor([0])).cov_factor[0].detach() / SCALE[:, None]
    assert (spread.abs() > 1e-3).all()
    assert int(torch.linalg.matrix_rank(spread)) == rank


@pytest.mark.parametrize("components", [2, 3, 7])
def test_mixture_reads_its_parameters_as_it_says(components: int) -> None:
    q = randomise(posterior("mixture", components=components), sd=1.0)
    k = components
    logits, means, log_sds = q.table.detach()[4].split([k, k * WIDTH, k * WIDTH])
    law = q(torch.tensor([4]))
    assert isinstance(law, MixtureSameFamily)
    assert q.strata == components
    means, sds = means.view(k, WIDTH), log_sds.view(k, WIDTH).exp()
    weights = logits.softmax(0)
    torch.testing.assert_close(law.mixture_distribution.probs[0].detach(), weights)
    torch.testing.assert_close(law.mean[0].detach(), weights @ means)
    variance = weights @ (sds.square() + means.square()) - (weights @ means).square()
    torch.testing.assert_close(law.variance[0].detach(), variance)


@pytest.mark.parametrize("components", [2, 3, 7])
@pytest.mark.parametrize("width", [1, 40])
def test_a_mixtures_components_start_apart(width: int, components: int) -> None:
    """Equal ones would have equal gradients and stay one; the whole has mean 0 and the SD."""
    scale = torch.linspace(0.1, 2, width)
    law = posterior("mixture", scale, components=components)(torch.tensor([0]))
    torch.testing.assert_close(law.mean[0], torch.zeros(width), atol=1e-5, rtol=0)
    torch.testing.assert_close(law.variance[0].sqrt(), scale)
    means = law.component_distribution.mean[0].detach() / scale
    gaps = torch.cdist(means, means) / width**0.5 + torch.eye(components)
    assert gaps.min() > 0.05


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


def test_kl_is_zero_at_a_correlated_prior() -> None:
    p = randomise(prior("learned_full"))
    q = at_prior("full_rank", p())
    value = q.kl(q(torch.arange(GROUPS)), p())
    torch.testing.assert_close(value, torch.zeros(GROUPS), atol=1e-6, rtol=0)


@pytest.mark.parametrize("rank", [1, 2])
def test_kl_is_zero_at_a_correlated_prior_that_low_rank_can_reach(rank: int) -> None:
    q = randomise(posterior("low_rank", posterior_rank=rank), sd=0.5)
    q.load_state_dict({"table": q.table[:1].repeat(GROUPS, 1)})
    with torch.no_grad():
        q.table[:, :WIDTH] = 0
        covariance = q(torch.tensor([0])).covariance_matrix[0]
        tril = torch.linalg.cholesky(covariance)
        p = prior("learned_full")
        assert isinstance(p, LearnedFull)
        row, column = torch.tril_indices(WIDTH, WIDTH, -1)
        p.log_diagonal.copy_(tril.diagonal().log())
        p.lower.copy_(tril[row, column])
        assert p().covariance_matrix.fill_diagonal_(0).abs().max() > 0.05
        value = q.kl(q(torch.arange(GROUPS)), p())
    torch.testing.assert_close(value, torch.zeros(GROUPS), atol=1e-6, rtol=0)


def dense(law: Distribution) -> MultivariateNormal:
    """Return a normal law as torch's dense one, in float64, from its mean and covariance."""
    covariance = getattr(law, "covariance_matrix", None)
    covariance = torch.diag_embed(law.variance) if covariance is None else covariance
    return MultivariateNormal(law.mean.double(), covariance.double())


@pytest.mark.parametrize("rank", [1, 2, 5])
@pytest.mark.parametrize("p_name", PROPER)
def test_kl_of_low_rank_is_that_of_the_dense_normal(p_name: str, rank: int) -> None:
    scale = torch.linspace(0.3, 1.2, 5)
    q = randomise(posterior("low_rank", scale, posterior_rank=rank), 0.6)
    p = randomise(prior(p_name, scale), seed=1)
    with torch.no_grad():
        law, below = q(torch.arange(GROUPS)), p()
        expected = kl_divergence(dense(law), dense(below))
        torch.testing.assert_close(q.kl(law, below).double(), expected, rtol=1e-4, atol=1e-5)
        moved = shifted(below, torch.randn(GROUPS, 5, generator=generator()))
        expected = kl_divergence(dense(law), dense(moved))
        torch.testing.assert_close(q.kl(law, moved).double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("p_name", PROPER)
def test_kl_of_mean_field_is_that_of_the_dense_normal(p_name: str) -> None:
    q, p = randomise(posterior("mean_field"), 0.6), randomise(prior(p_name), seed=1)
    with torch.no_grad():
        law, below = q(torch.arange(GROUPS)), p()
        expected = kl_divergence(dense(law), dense(below))
    torch.testing.assert_close(q.kl(law, below).double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("p_name", ["standard", "learned_full"])
def test_sampling_and_the_kl_of_low_rank_build_no_matrix_per_row(p_name: str) -> None:
    """Nothing that is kept for the gradient has Z² numbers for each of the B rows."""
    width, rows = 300, 64
    sizes: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        sizes.append(tensor.untyped_storage().nbytes() // tensor.element_size())
        return tensor

    q = LowRank(rows, width, torch.ones(width), posterior_rank=4)
    p = prior(p_name, torch.ones(width))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        law = q(torch.arange(rows))
        (law.rsample(torch.Size([2])).sum() + q.kl(law, p()).sum()).backward()
    assert max(sizes) < rows * width**2 / 10


@pytest.mark.parametrize(("q_name", "p_name"), [pair for pair in ALLOWED if pair[0] != "point"])
def test_kl_is_the_mean_of_the_log_ratio_over_draws(q_name: str, p_name: str) -> None:
    sd = 0.1 if q_name == "joint" else 0.3  # joint adds all its rows of L to a group's variance
    q, p = randomise(posterior(q_name), sd), randomise(prior(p_name), seed=1)
    with torch.no_grad():
        law = q(torch.tensor([0, 3]))
        z = draws(law).float()
        ratio = (law.log_prob(z) - p().log_prob(z)).double()
        with seeded(1):  # over many rows of the same groups, for a mixture's is an estimate
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


def test_a_point_pays_the_penalty_of_the_maximum_a_posteriori() -> None:
    q = randomise(posterior("point"), sd=1.0)
    group = torch.arange(GROUPS)
    half_square = 0.5 * q.table.detach().square().sum(1)
    torch.testing.assert_close(q.kl(q(group), prior("standard")()).detach(), half_square)
    assert torch.equal(q.kl(q(group), prior("none")()), torch.zeros(GROUPS))


def test_the_table_of_refused_pairs_is_the_one_that_makes_sense() -> None:
    names = ("mean_field", "full_rank", "low_rank", "mixture", "joint", "point")
    known = {(q, p) for q in names for p in PRIORS}
    expected = {
        ("mean_field", "none"),
        ("full_rank", "none"),
        ("low_rank", "none"),
        ("mixture", "none"),
        ("joint", "none"),
        ("point", "learned"),
        ("point", "learned_full"),
        ("point", "nested"),
        ("joint", "nested"),
        ("mixture", "nested"),
    }
    assert known & set(REFUSED) == expected


TWO_LEVELS = grouped_data(levels=("writer", "site"))


def above(p_name: str) -> dict[str, str]:
    """Return what a latent of the lower level says of its parent, where the prior has one."""
    return {"parent": "site"} if prior_class(p_name).nested else {}


def parents(p_name: str) -> tuple[LatentConfig, ...]:
    return (LatentConfig(level="site", width=2),) if prior_class(p_name).nested else ()


@pytest.mark.parametrize(("q_name", "p_name"), REFUSED)
def test_building_refuses_a_pair_with_the_reason(q_name: str, p_name: str) -> None:
    reason = refusal(posterior_class(q_name), prior_class(p_name))
    assert reason is not None
    entry = latent("concat", "output", posterior=q_name, prior=p_name, **above(p_name))
    with pytest.raises(ConfigError) as caught:
        build_model(ModelConfig(latents=(entry, *parents(p_name))), TWO_LEVELS)
    assert f"posterior {q_name} under prior {p_name}: {reason}" in str(caught.value)


@pytest.mark.parametrize(("q_name", "p_name"), ALLOWED)
def test_building_accepts_every_other_pair(q_name: str, p_name: str) -> None:
    entry = latent("concat", "output", width=2, posterior=q_name, prior=p_name, **above(p_name))
    model = build_model(small_config(latents=(entry, *parents(p_name))), TWO_LEVELS)
    (built,) = (one for one in model.latents if one.level == 0)
    assert type(built.posterior) is posterior_class(q_name)
    assert type(built.prior) is prior_class(p_name)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            (
                latent("concat", "output", width=2, posterior="mixture", given="site"),
                latent("concat", "output", "site", width=2),
            ),
            "posterior mixture cannot depend on site concat@output; use amortised, full_rank",
        ),
        (
            (
                latent("concat", "output", width=2, given="site"),
                latent("concat", "output", "site", width=2, posterior="mixture"),
            ),
            r"depends on site concat@output, whose posterior must be normal \(amortised, full_rank",
        ),
        (
            (
                latent("concat", "output", width=2, prior="nested", parent="site", given="none"),
                LatentConfig(level="site", width=2, posterior="mixture"),
            ),
            r"depends on site, whose posterior must be normal \(amortised, full_rank",
        ),
        (
            (
                latent(
                    "concat", "output", width=2, prior="nested", parent="site", posterior="mixture"
                ),
                LatentConfig(level="site", width=2),
            ),
            "posterior mixture under prior nested: the KL of a latent that depends on another",
        ),
    ],
)
def test_building_refuses_a_mixture_that_depends_or_is_depended_on(
    entries: tuple[LatentConfig, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build_model(small_config(latents=entries), TWO_LEVELS)


# the set of latents


def two_level_set() -> LatentSet:
    entries = (
        latent("concat", "output", "character", width=2, prior="learned"),
        latent("concat", "hidden1", "play", width=3, posterior="full_rank", prior="learned_full"),
        latent("bias", "output", "play", posterior="point", prior="standard"),
    )
    data = grouped_data(levels=("character", "play"))
    return tiny_model(data, latents=entries, latent_config=("none",)).latents


def test_one_draw_of_every_latent_for_every_row() -> None:
    latents = two_level_set()
    rows = latents.at(torch.tensor([[0, 0], [0, 0], [4, 1]]), unseen=False)
    first, second, third = latents.sample(rows, 5)
    assert (first.shape, second.shape, third.shape) == ((5, 3, 2), (5, 3, 3), (5, 3, 5))
    assert not torch.equal(first[:, 0], first[:, 1]), "two rows of a group share a draw"
    assert torch.equal(third[:, 0], third[:, 1]), "a point has one value"


def test_a_latent_reads_the_group_of_its_own_level() -> None:
    latents = two_level_set()
    groups = torch.tensor([[5, 2], [1, 0]])
    rows = latents.at(groups, unseen=False)
    for law, one in zip(rows.posteriors, latents, strict=True):
        expected = one.posterior(groups[:, one.level])
        assert torch.equal(law.mean, expected.mean)


def test_draws_of_groups_without_training_rows_follow_the_prior() -> None:
    latents = two_level_set()
    groups = torch.tensor([[-1, -1], [2, -1], [2, 1]]).repeat(4000, 1)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        rows = latents.at(groups, unseen=True)
        low, high, point = latents.sample(rows, 2)
    character, play, bias = latents
    for z, of, law in [
        (low, 0, character.prior()),
        (low, 1, character.posterior(torch.tensor([2]))),
        (high, 1, play.prior()),
        (high, 2, play.posterior(torch.tensor([1]))),
        (point, 0, bias.prior()),
    ]:
        mine = z.unflatten(1, (-1, 3))[:, :, of].flatten(0, 1).double()
        sd = law.stddev.reshape(-1).double().detach()
        mean = law.mean.reshape(-1).double().detach()
        torch.testing.assert_close(mine.std(0), sd, rtol=0.06, atol=0)
        assert ((mine.mean(0) - mean).abs() < 5 * sd / math.sqrt(len(mine))).all()


def test_moments_are_those_of_the_posterior_or_for_new_groups_of_the_prior() -> None:
    entries = (
        latent("concat", "output", width=3, posterior="full_rank", prior="learned_full"),
        latent("bias", "output", prior="learned"),
    )
    latents = tiny_model(grouped_data(), latents=entries).latents
    rows = latents.at(torch.tensor([[2], [-1]]), unseen=True)
    for one, (mean, columns) in zip(latents, latents.moments(rows), strict=True):
        known, new = one.posterior(torch.tensor([2])), one.prior()
        torch.testing.assert_close(mean[0], known.mean[0])
        torch.testing.assert_close(mean[1], new.mean)
        variance = torch.stack([part.square().sum(-1) for part in columns.values()]).sum(0)
        torch.testing.assert_close(variance[0], known.variance[0])
        torch.testing.assert_close(variance[1], new.variance)


def test_counts_are_the_training_rows_of_each_group() -> None:
    data = grouped_data(levels=("character", "play"))
    model = tiny_model(data, latent_config=("factor",))
    for level in range(2):
        expected = np.bincount(data.train.groups[:, level].numpy())
        assert model.latents.counts(level).tolist() == expected.tolist()
