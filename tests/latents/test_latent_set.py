"""Which posteriors and priors go together, and the set of latents that a model draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hlvnn.config import LatentConfig, ModelConfig
from hlvnn.errors import ConfigError
from hlvnn.latents.latent_set import LatentSet
from hlvnn.latents.pairs import refusal
from hlvnn.models.build import build_model
from tests.helpers import (
    PRIORS,
    grouped_data,
    latent,
    posterior_class,
    prior_class,
    small_config,
    tiny_model,
)
from tests.latents.pairs import ALLOWED, PAIRS

REFUSED = [pair for pair in PAIRS if pair not in ALLOWED]


# pairs


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


def two_level_set() -> LatentSet:
    entries = (
        latent("concat", "output", "character", width=2, prior="learned"),
        latent("concat", "hidden1", "play", width=3, posterior="full_rank", prior="learned_full"),
        latent("bias", "output", "play", posterior="point", prior="standard"),
    )
    data = grouped_data(levels=("character", "play"))
    return tiny_model(data, latents=entries, latent_config=("none",)).latents


# the set of latents


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
