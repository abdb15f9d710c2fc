"""The scale of latents under a learned prior, and closed-form moments of the predictor."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hlvnn.config import EntryConfig, LatentConfig
from hlvnn.models.model import HierarchicalModel
from tests.helpers import data_for, grouped_data, latent, placement_class, tiny_model
from tests.latents.placing import POSSIBLE, B, S, ids, normal

SCALED = ["basis", "concat", "film"]


# learned priors and trained loadings


@pytest.mark.parametrize("name", SCALED)
def test_under_a_learned_prior_the_size_of_the_loadings_changes_nothing(name: str) -> None:
    """Else the reported prior SD would mean nothing."""
    data = data_for("mlp")
    model = tiny_model(data, latents=(latent(name, "hidden2", prior="learned"),))
    x, draws = data.train.x.all()[:B], [normal(S, B, 2)]
    before = model(x, draws)
    (one,) = model.latents
    (placement,) = one.entries()
    with torch.no_grad():
        for matrix in placement.loadings():
            matrix.mul_(torch.tensor([7.0, 0.2]))
    torch.testing.assert_close(model(x, draws), before)


def test_under_a_learned_prior_z_is_measured_by_its_effect_over_all_entries() -> None:
    entries = tuple(EntryConfig(stage=s, placement="concat") for s in ("hidden1", "output"))
    one_latent = LatentConfig(level="writer", width=2, prior="learned", entries=entries)
    (one,) = tiny_model(data_for("mlp"), latents=(one_latent,)).latents
    effects = [
        placement.gain(torch.zeros(2, 1), one.scaled(torch.eye(2))) for placement in one.entries()
    ]  # type: ignore[attr-defined]
    sizes = torch.cat(effects, dim=-1).square().mean(-1).sqrt()
    torch.testing.assert_close(sizes, torch.ones(2))


def test_a_fixed_prior_and_a_latent_with_a_fixed_entry_keep_their_scale() -> None:
    place = {"stage": "output", "placement": "concat"}
    plain = LatentConfig(level="writer", width=2, **place, prior="standard")  # type: ignore[arg-type]
    entries = tuple(EntryConfig(stage="output", placement=name) for name in ("bias", "concat"))
    mixed = LatentConfig(level="writer", entries=entries, prior="learned")
    for config in (plain, mixed):
        (one,) = tiny_model(data_for("mlp"), latents=(config,)).latents
        z = normal(B, one.width)
        assert torch.equal(one.scaled(z), z)


AT_OUTPUT = [
    place for place in POSSIBLE if place[1] == "output" and placement_class(place[2]).linear
]


def jacobians(model: HierarchicalModel, x: Tensor) -> list[Tensor]:
    """Return ∂η/∂z of each latent at one row [1, …], [out, Z], by automatic differentiation."""

    def eta(*z: Tensor) -> Tensor:
        return model(x, [one[None, None] for one in z])[0, 0]

    at = tuple(torch.zeros(one.width) for one in model.latents)
    return list(torch.autograd.functional.jacobian(eta, at))


# closed-form moments of the predictor


@pytest.mark.parametrize("posterior", ["mean_field", "full_rank"])
@pytest.mark.parametrize("place", AT_OUTPUT, ids=ids)
def test_predictor_variance_is_the_diagonal_of_j_v_jt(
    place: tuple[str, str, str], posterior: str
) -> None:
    data = data_for(place[0], levels=("writer", "school"))
    entries = (
        latent(place[2], "output", "writer", posterior=posterior),
        latent("concat", "output", "school", posterior="full_rank"),
    )
    model = tiny_model(data, place[0], latents=entries).eval()
    assert model.is_linear_at_output
    x, groups = data.train.x.all()[:6], data.train.groups[:6]
    with torch.no_grad():
        rows = model.latents.at(groups, unseen=False)
        mean, variance = model.predictor_moments(x, rows)
        samples = [law.mean[None] for law in rows.posteriors]
        torch.testing.assert_close(mean, model(x, samples)[0])
        for b in range(6):
            expected = torch.zeros(model.likelihood.num_outputs)
            for jacobian, (_, columns) in zip(
                jacobians(model, x[b : b + 1]), model.latents.moments(rows), strict=True
            ):
                (factor,) = columns.values()  # independent latents: one source of noise each
                expected += (jacobian @ factor[b]).square().sum(1)
            torch.testing.assert_close(variance[b], expected, rtol=1e-4, atol=1e-6)


def test_predictor_moments_are_those_of_the_output_over_draws() -> None:
    data = grouped_data(levels=("character", "play"))
    entries = (
        latent("weights", "output", "character", posterior="full_rank"),
        latent("concat", "output", "play"),
        latent("bias", "output", "play"),
    )
    model = tiny_model(data, "linear", latents=entries).eval()
    x, groups = data.train.x.all()[:4], data.train.groups[:4].clone()
    groups[0] = -1  # a new group: its prior
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        rows = model.latents.at(groups, unseen=True)
        mean, variance = model.predictor_moments(x, rows)
        eta = model(x, model.latents.sample(rows, 40_000)).double()
    sd = variance.double().sqrt()
    assert ((eta.mean(0) - mean).abs() < 5 * sd / 200).all()
    torch.testing.assert_close(eta.var(0), variance.double(), rtol=0.05, atol=0)


def test_one_vector_at_the_output_twice_is_counted_once() -> None:
    data = data_for("linear")
    entries = tuple(EntryConfig(stage="output", placement=name) for name in ("bias", "concat"))
    model = tiny_model(data, "linear", latents=(LatentConfig(level="writer", entries=entries),))
    x, groups = data.train.x.all()[:3], data.train.groups[:3]
    with torch.no_grad():
        rows = model.latents.at(groups, unseen=False)
        _, variance = model.predictor_moments(x, rows)
        ((_, columns),) = model.latents.moments(rows)
        (factor,) = columns.values()
        for b in range(3):
            (jacobian,) = jacobians(model, x[b : b + 1])
            expected = (jacobian @ factor[b]).square().sum(1)
            torch.testing.assert_close(variance[b], expected)


@pytest.mark.parametrize(
    ("entries", "exact"),
    [
        ((latent("concat", "output"),), True),
        ((latent("concat", "hidden1"),), False),
        ((latent("concat", "output"), latent("bias", "hidden2")), False),
        ((latent("concat", "output", posterior="point"),), False),
    ],
)
def test_closed_forms_are_offered_only_where_they_hold(
    entries: tuple[LatentConfig, ...], exact: bool
) -> None:
    assert tiny_model(data_for("mlp"), latents=entries).is_linear_at_output is exact
