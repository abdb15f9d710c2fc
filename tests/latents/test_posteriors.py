"""What sets each posterior apart: how it reads its parameters, and closed forms of its KL."""

from __future__ import annotations

import math

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

from hlvnn.errors import ConfigError
from hlvnn.latents.normals import shifted
from hlvnn.latents.posteriors.low_rank import LowRank
from hlvnn.latents.priors.learned_full import LearnedFull
from tests.helpers import generator, randomise
from tests.latents.pairs import GROUPS, PROPER, SCALE, WIDTH, at_prior, posterior, prior

# posteriors


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


# pairs


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


def test_a_point_pays_the_penalty_of_the_maximum_a_posteriori() -> None:
    q = randomise(posterior("point"), sd=1.0)
    group = torch.arange(GROUPS)
    half_square = 0.5 * q.table.detach().square().sum(1)
    torch.testing.assert_close(q.kl(q(group), prior("standard")()).detach(), half_square)
    assert torch.equal(q.kl(q(group), prior("none")()), torch.zeros(GROUPS))
