"""Kinds of posteriors: what a new member has to say of itself to be treated as what it is."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    Laplace,
    MultivariateNormal,
    Normal,
    kl_divergence,
)

from hlvnn.latents.latent import Latent
from hlvnn.latents.latent_set import LatentSet
from hlvnn.latents.normals import whiten
from hlvnn.latents.pairs import is_able_to_depend, posteriors_with
from hlvnn.latents.posteriors.base import LevelPosterior, Posterior
from tests.helpers import generator, posterior_class, prior_class, randomise

GROUPS, WIDTH = 4, 2
SCALE = torch.tensor([0.4, 0.9])


class Diagonal(Posterior):
    """A normal posterior that says nothing but what a member has to say."""

    normal = True

    @staticmethod
    def num_parameters(width: int) -> int:
        return 2 * width

    def start(self, width: int, scale: Tensor) -> Tensor:
        return torch.cat([torch.zeros(width), scale.log()])

    def law(self, parameters: Tensor) -> Distribution:
        mean, log_sd = parameters.split(self.width, dim=-1)
        return Independent(Normal(mean, log_sd.exp()), 1)


class HeavyTailed(Diagonal):
    """Not normal, and without a KL of its own."""

    normal = False

    def law(self, parameters: Tensor) -> Distribution:
        mean, log_scale = parameters.split(self.width, dim=-1)
        return Independent(Laplace(mean, log_scale.exp()), 1)


class Apart(LevelPosterior):
    """A posterior over a whole level whose groups are independent: L is diagonal."""

    @staticmethod
    def num_parameters(width: int, num_groups: int = 1) -> int:
        return 2 * width

    def start(self, width: int, scale: Tensor) -> Tensor:
        return torch.cat([torch.zeros(width), scale.log()])

    def _parts(self, group: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_sd = self.table[group.long()].split(self.width, dim=-1)
        return mean, log_sd.exp()

    def forward(self, group: Tensor) -> Distribution:
        mean, sd = self._parts(group)
        return MultivariateNormal(mean, scale_tril=torch.diag_embed(sd))

    def rows(self, group: Tensor) -> Tensor:
        sd = self._parts(torch.arange(self.num_groups))[1]
        return torch.diag(sd.flatten()).unflatten(0, sd.shape)[group.long()]

    def whole_mean(self) -> Tensor:
        return self._parts(torch.arange(self.num_groups))[0].flatten()

    def kl_shares(self, group: Tensor, p: Distribution) -> Tensor:
        mean, sd = self._parts(group)
        spread = whiten(p, torch.diag_embed(sd)).square().sum((-1, -2))
        distance = whiten(p, mean.unsqueeze(-1)).square().sum((-1, -2))
        ratio = whiten(p, torch.diag_embed(sd)).diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return 0.5 * (spread + distance - self.width) - ratio


def upper(posterior: Posterior, prior: str) -> Latent:
    return Latent("play", 1, posterior, randomise(prior_class(prior)(WIDTH, SCALE), seed=1), [])


@pytest.mark.parametrize("prior", ["standard", "learned", "learned_full"])
def test_a_member_that_only_says_it_is_normal_has_the_closed_form(prior: str) -> None:
    q = randomise(Diagonal(GROUPS, WIDTH, SCALE))
    p = randomise(prior_class(prior)(WIDTH, SCALE), seed=1)()
    law = q(torch.arange(GROUPS))
    dense = MultivariateNormal(law.mean, torch.diag_embed(law.variance))
    expected = kl_divergence(dense, MultivariateNormal(p.mean, _covariance(p)))
    torch.testing.assert_close(q.kl(law, p), expected, rtol=1e-4, atol=1e-5)
    root = q.factor(law, torch.arange(GROUPS))
    torch.testing.assert_close(root @ root.mT, dense.covariance_matrix)


def _covariance(law: Distribution) -> Tensor:
    covariance = getattr(law, "covariance_matrix", None)
    return torch.diag_embed(law.variance) if covariance is None else covariance


def test_a_member_that_is_not_normal_has_its_own_kl() -> None:
    """Each number is KL(Laplace(0, b) ‖ N(0, 1)) = ½ log 2π + b² − log 2b − 1."""
    q = HeavyTailed(GROUPS, WIDTH, SCALE)
    kl = q.kl(q(torch.arange(GROUPS)), prior_class("standard")(WIDTH, SCALE)())
    expected = (0.5 * math.log(2 * math.pi) + SCALE.square() - (2 * SCALE).log() - 1).sum()
    torch.testing.assert_close(kl, expected.expand(GROUPS))


@pytest.mark.parametrize("prior", ["standard", "learned_full"])
def test_any_posterior_over_a_whole_level_is_treated_as_one(prior: str) -> None:
    """With independent groups everything is as with mean field, another latent's reach aside."""
    whole = randomise(Apart(GROUPS, WIDTH, SCALE))
    plain = posterior_class("mean_field")(GROUPS, WIDTH, SCALE)
    plain.load_state_dict(whole.state_dict())
    sets = [LatentSet([upper(q, prior)], [1, GROUPS]) for q in (whole, plain)]
    for latents in sets:
        latents.counts(1).fill_(1)
    assert sets[0].kl_totals() == pytest.approx(sets[1].kl_totals(), rel=1e-5)
    for one, other in zip(*(latents.marginal(0) for latents in sets), strict=True):
        torch.testing.assert_close(one, other)
    groups = torch.stack([torch.zeros(GROUPS), torch.arange(GROUPS)], dim=1).long()
    for latents in sets:
        torch.manual_seed(0)
        rows = latents.at(groups, unseen=False)
        draws, ratios = latents.sample_groups(rows, 3)
        law = latents[0].posterior(torch.arange(GROUPS))
        expected = latents[0].prior().log_prob(draws[0]) - law.log_prob(draws[0])
        torch.testing.assert_close(ratios[0], expected, rtol=1e-4, atol=1e-5)


def test_others_depend_on_all_groups_of_a_whole_level() -> None:
    above = upper(randomise(Apart(GROUPS, WIDTH, SCALE)), "standard")
    q = posterior_class("mean_field")(6, WIDTH, SCALE)
    below = Latent("character", 0, q, prior_class("standard")(WIDTH, SCALE), [], given=above)
    assert below.dense
    assert not below.is_within_another
    assert below.dependence(torch.arange(6)).shape == (6, WIDTH, GROUPS * WIDTH)
    assert not is_able_to_depend(type(above.posterior))
    assert is_able_to_depend(Diagonal)
    with pytest.raises(TypeError, match="asked for groups"):
        above.posterior.law(torch.randn(1, 2 * WIDTH, generator=generator()))


def test_lists_of_posteriors_in_messages_are_those_of_the_family() -> None:
    assert posteriors_with(lambda one: not one.random) == "point"
    assert posteriors_with(lambda one: issubclass(one, LevelPosterior)) == "joint"
    assert posteriors_with(is_able_to_depend) == "amortised, full_rank, low_rank, mean_field"
