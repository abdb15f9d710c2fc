"""Levels that know of each other: nested priors, conditional and joint posteriors."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from hlvnn.config import LatentConfig, ModelConfig, latent_text
from hlvnn.data.batches import Batches
from hlvnn.data.grouped import GroupedDataset, Split
from hlvnn.errors import ConfigError, DataError
from hlvnn.inference.objective import batch_loss, full_elbo
from hlvnn.inference.predict import predict
from hlvnn.latents.posteriors.base import LevelPosterior
from hlvnn.models.build import build_model
from hlvnn.models.model import HierarchicalModel
from tests.helpers import generator, grouped_data, randomise

LEVELS = ("character", "play")
SIZES = (6, 3)  # character g lies in play g modulo 3
WIDTH = 2


def latent(level: str, **settings: object) -> LatentConfig:
    """Return a latent that enters the linear output through a loading of its own."""
    where = {"stage": "output", "placement": "concat", "width": WIDTH}
    return LatentConfig(level=level, **(where | settings))  # type: ignore[arg-type]


def parent(**settings: object) -> LatentConfig:
    return LatentConfig(level="play", width=WIDTH, **settings)  # type: ignore[arg-type]


STRUCTURES = {
    "nested": (latent("character", prior="nested", parent="play"), parent(prior="learned")),
    "nested, apart": (
        latent("character", prior="nested", parent="play", given="none"),
        parent(prior="learned_full", posterior="full_rank"),
    ),
    "nested, not centred": (
        latent("character", prior="nested", parent="play", centred=False),
        parent(prior="learned", posterior="full_rank"),
    ),
    "given": (
        latent("character", prior="learned_full", posterior="full_rank", given="play"),
        latent("play", prior="learned"),
    ),
    "given, not centred": (
        latent("character", prior="learned_full", given="play", centred=False),
        latent("play", prior="learned", centred=False),
    ),
    "given joint": (
        latent("character", prior="learned", given="play"),
        latent("play", prior="learned_full", posterior="joint"),
    ),
    "joint alone": (latent("play", prior="learned_full", posterior="joint"),),
}


def data() -> GroupedDataset:
    return grouped_data(levels=LEVELS, sizes=SIZES, target="real")


def built(name: str, seed: int = 0) -> HierarchicalModel:
    config = ModelConfig(backbone="linear", latents=STRUCTURES[name])
    model = build_model(config, data())
    for index, one in enumerate(model.latents):
        randomise(one, 0.3, seed + index)
    return model


def exact_laws(  # noqa: C901 (one definition after the other)
    model: HierarchicalModel,
) -> tuple[MultivariateNormal, MultivariateNormal]:
    """Return q and p of all groups' vectors at once, built from the definitions in float64."""
    offset: dict[str, int] = {}
    size = 0
    for one in model.latents:
        offset[one.name] = size
        size += one.posterior.num_groups * one.width
    q_map, p_map = (torch.zeros(size, 0, dtype=torch.float64) for _ in range(2))
    q_mean = torch.zeros(size, dtype=torch.float64)
    by_name = {one.name: one for one in model.latents}

    def widened(matrix: Tensor, columns: int) -> Tensor:
        return torch.cat([matrix, torch.zeros(size, columns, dtype=torch.float64)], dim=1)

    for one in model.latents:
        groups, z = one.posterior.num_groups, one.width
        start = offset[one.name]
        own_rows = slice(start, start + groups * z)
        law = one.posterior(torch.arange(groups))
        tril = _tril(one.prior())
        before_q, before_p = q_map.shape[1], p_map.shape[1]
        q_map, p_map = widened(q_map, groups * z), widened(p_map, groups * z)
        if isinstance(one.posterior, LevelPosterior):
            q_map[own_rows, before_q:] = one.posterior.whole().double()
        mean = law.mean.double()
        upper = by_name.get(one.given_name or one.parent_name or "")
        for g in range(groups):
            rows = slice(start + g * z, start + (g + 1) * z)
            noise = slice(before_q + g * z, before_q + (g + 1) * z)
            if not isinstance(one.posterior, LevelPosterior):
                q_map[rows, noise] = _tril(one.posterior(torch.tensor([g])))[0]
            p_map[rows, before_p + g * z : before_p + (g + 1) * z] = tril
            here = mean[g]
            if upper is not None:
                above = offset[upper.name]
                if one.dense:
                    block = slice(above, above + upper.posterior.num_groups * upper.width)
                else:
                    at = above + int(one.within[g]) * upper.width
                    block = slice(at, at + upper.width)
                if one.slopes is not None:
                    slopes = one.dependence(torch.tensor([g]))[0].double()
                    q_map[rows] += slopes @ q_map[block]
                if not one.centred:
                    q_map[rows] = tril @ q_map[rows]
                    here = tril @ here
                if one.parent_name is not None:
                    p_map[rows] += p_map[block]
                    if not one.centred:
                        q_map[rows] += q_map[block]
                        here = here + q_mean[block]
            elif not one.centred:
                q_map[rows] = tril @ q_map[rows]
                here = tril @ here
            q_mean[rows] = here
    zero = torch.zeros(size, dtype=torch.float64)
    return (
        MultivariateNormal(q_mean, q_map @ q_map.T),
        MultivariateNormal(zero, p_map @ p_map.T),
    )


def _tril(law: torch.distributions.Distribution) -> Tensor:
    if isinstance(law, MultivariateNormal):
        return law.scale_tril.double()
    return torch.diag_embed(law.stddev.double())


@pytest.mark.parametrize("name", STRUCTURES)
def test_the_kl_is_that_of_the_joint_normals(name: str) -> None:
    with torch.no_grad():
        model = built(name)
        q, p = exact_laws(model)
        expected = float(kl_divergence(q, p))
        assert sum(model.latents.kl_totals()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", STRUCTURES)
def test_rows_shares_add_up_to_the_kl_however_they_are_computed(name: str) -> None:
    model, train = built(name), data().train
    with torch.no_grad():
        for distinct in (False, True):
            rows = model.latents.at(train.groups, unseen=False, distinct=distinct)
            shares = [float(part.sum()) for part in model.latents.kl_rows(rows)]
            assert shares == pytest.approx(model.latents.kl_totals(), rel=1e-4)


@pytest.mark.parametrize("name", STRUCTURES)
def test_draws_have_the_joint_laws_moments(name: str) -> None:
    """Each row's vectors, all latents together: the dependence between levels is in the draws."""
    model = built(name)
    groups = torch.tensor([[g, g % SIZES[1]] for g in range(SIZES[0])])
    number = 100_000
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        q, _ = exact_laws(model)
        rows = model.latents.at(groups, unseen=False)
        draws = model.latents.sample(rows, number)
        moments = model.latents.moments(rows)
    offset, places = 0, []
    for one in model.latents:
        z = one.width
        at = groups[:, one.level][:, None] * z + torch.arange(z) + offset
        places.append(at)
        offset += one.posterior.num_groups * z
    for row in range(len(groups)):
        index = torch.cat([at[row] for at in places])
        joint = torch.cat([z[:, row] for z in draws], dim=-1).double()
        covariance = q.covariance_matrix[index][:, index]
        scale = covariance.diagonal().sqrt()
        assert ((joint.mean(0) - q.mean[index]) / scale).abs().max() < 0.02
        torch.testing.assert_close(
            torch.cov(joint.T) / scale[:, None] / scale, covariance / scale[:, None] / scale,
            atol=0.03, rtol=0,
        )  # fmt: skip
        sources = {source for _, columns in moments for source in columns}
        total = torch.zeros_like(covariance)
        for source in sources:
            width = next(c[source].shape[-1] for _, c in moments if source in c)
            parts = [
                c[source][row] if source in c else torch.zeros(len(m[row]), width)
                for m, c in moments
            ]
            stacked = torch.cat(parts).double()
            total += stacked @ stacked.T
        torch.testing.assert_close(total, covariance, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", STRUCTURES)
def test_the_closed_form_objective_is_the_mean_over_draws(name: str) -> None:
    model, train = built(name), data().train
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        (batch,) = Batches(train, None)
        loss = batch_loss(model, batch, 1.0, 1)
        rows = model.latents.at(batch.groups, unseen=False)
        eta = model(batch.x, model.latents.sample(rows, 20_000))
        per_draw = -model.likelihood.log_prob(eta, batch.y).mean(-1)
    error = float(per_draw.std()) / 20_000**0.5
    assert float(loss.nll) == pytest.approx(float(per_draw.mean()), abs=5 * error)
    exact = full_elbo(model, train)
    assert exact.standard_error == 0
    assert -float(loss.loss) * len(train) == pytest.approx(exact.value, rel=1e-4)


@pytest.mark.parametrize("name", STRUCTURES)
def test_gradients_reach_every_law_and_dependence(name: str) -> None:
    model = built(name)
    (batch,) = Batches(data().train, None)
    batch_loss(model, batch, 1.0, 1).loss.backward()
    for label, parameter in model.latents.named_parameters():
        if not parameter.requires_grad:
            assert label.endswith("loading")  # a lone one is held: its size is the prior's
            assert len(parameter) == 1
            continue
        assert parameter.grad is not None, label
        gradient = parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad
        assert bool(gradient.abs().sum() > 0), label


def test_a_new_character_of_a_known_play_is_drawn_around_the_play() -> None:
    model = built("nested")
    groups = torch.tensor([[-1, 1], [4, 1], [-1, -1]])
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        rows = model.latents.at(groups, unseen=True)
        draws = model.latents.sample(rows, 50_000)
        moments = model.latents.moments(rows)
    play, character = (next(i for i, x in enumerate(model.latents) if x.level == n) for n in (1, 0))
    q_play = model.latents[play].posterior(torch.tensor([1]))
    tau = model.latents[character].prior().stddev
    new = draws[character][:, 0]
    expected = (q_play.variance[0] + tau.square()).sqrt()
    torch.testing.assert_close(new.std(0), expected, rtol=0.02, atol=0)
    torch.testing.assert_close(new.mean(0), q_play.mean[0], atol=0.02, rtol=0)
    mean, columns = moments[character]
    torch.testing.assert_close(mean[0], q_play.mean[0])
    variance = sum(part[0].square().sum(-1) for part in columns.values())
    torch.testing.assert_close(variance, expected.square())
    both_new = (model.latents[play].prior().variance + tau.square()).sqrt()
    torch.testing.assert_close(draws[character][:, 2].std(0), both_new, rtol=0.02, atol=0)


def test_a_known_group_that_moved_is_refused() -> None:
    model, rows = built("nested"), data().train
    groups = rows.groups.clone()
    groups[5, 1] = (groups[5, 1] + 1) % SIZES[1]
    with pytest.raises(DataError, match=r"row 5 .* lay in another group of play in training"):
        predict(model, Split(rows.x, groups, rows.y))


def crossed() -> GroupedDataset:
    whole = data()
    groups = whole.train.groups.clone()
    groups[:, 1] = torch.randint(SIZES[1], (len(groups),), generator=generator()).int()
    groups[:3, 1] = torch.arange(3)
    return GroupedDataset(whole.schema, Split(whole.train.x, groups, whole.train.y))


def test_levels_that_are_not_nested_are_told_what_to_do() -> None:
    config = ModelConfig(backbone="linear", latents=STRUCTURES["nested"])
    with pytest.raises(
        DataError,
        match=r"levels are not nested\. If each play uses .* fitted exactly, .* cross give play",
    ):
        build_model(config, crossed())
    config = ModelConfig(backbone="linear", latents=STRUCTURES["given joint"])
    build_model(config, crossed())


@pytest.mark.parametrize(
    ("latents", "message"),
    [
        ([latent("character", given="plya"), latent("play")], "given=plya names no latent"),
        ([latent("character", given="character")], "given=character names no latent"),
        (
            [latent("character", given="play"), latent("play", given="character")],
            "in a circle: character concat@output → play concat@output",
        ),
        (
            [latent("character", posterior="point", given="play"), latent("play")],
            "posterior point cannot depend on play",
        ),
        (
            [latent("character", given="play"), latent("play", posterior="point")],
            "whose posterior must be normal",
        ),
        (
            [
                latent("character", prior="nested", parent="play"),
                LatentConfig(level="play", width=3),
            ],
            "width 2 differs from its parent's",
        ),
    ],
)
def test_dependence_that_makes_no_sense_is_refused(
    latents: list[LatentConfig], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build_model(ModelConfig(backbone="linear", latents=tuple(latents)), data())


def test_a_latent_in_words_is_the_same_latent() -> None:
    for latents in STRUCTURES.values():
        for one in latents:
            assert LatentConfig.from_text(latent_text(one)) == one
    assert latent_text(parent()) == "- level=play width=2 centred=True"


def test_a_nested_prior_says_its_parent() -> None:
    wrong: list[Callable[[], object]] = [
        lambda: latent("character", prior="nested"),
        lambda: latent("character", parent="play"),
        lambda: latent("character", prior="nested", parent="play", given="scene"),
    ]
    for make in wrong:
        with pytest.raises(ValueError, match=r"parent"):
            make()
