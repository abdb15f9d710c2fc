"""Placements on every stage of every backbone; in an LSTM, against torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hlvnn.config import EntryConfig, LatentConfig
from hlvnn.data.batches import Batches
from hlvnn.errors import ConfigError
from hlvnn.inference.objective import batch_loss
from hlvnn.latents.placements.concat import Concat
from hlvnn.models.model import HierarchicalModel
from tests.helpers import (
    PLACEMENTS,
    data_for,
    grouped_data,
    latent,
    placement_class,
    reloaded,
    same_bits,
    tiny_model,
    untouched_parameters,
)
from tests.latents.placing import IMPOSSIBLE, POSSIBLE, STAGES, B, S, ids, make, normal

RECURRENT = [name for name in PLACEMENTS if "rnn" in placement_class(name).kinds]


# in an LSTM, against torch's own


@pytest.mark.parametrize("name", RECURRENT)
def test_a_placement_in_an_lstm_saves_and_loads_the_same_bits(name: str) -> None:
    placement = make(name, "rnn")
    again = reloaded(placement, type(placement)(STAGES["rnn"], 2))
    z = normal(S, B, 2)
    one, other = placement.recurrence(z), again.recurrence(z)
    assert same_bits(placement, again)
    if one.state is not None:
        assert other.state is not None
        assert torch.equal(one.state, other.state)


@pytest.mark.parametrize("stage", ["lstm1", "lstm2"])
def test_concat_in_an_lstm_is_torchs_lstm_on_a_wider_input(stage: str) -> None:
    data = data_for("lstm")
    model = tiny_model(data, "lstm", latents=(latent("concat", stage, prior="standard"),)).eval()
    x, z = data.train.x.all()[:B], normal(S, B, 2, seed=2)
    (placement,) = next(iter(model.latents)).entries()
    assert isinstance(placement, Concat)
    own = getattr(model.backbone, stage)
    wider = torch.nn.LSTM(own.input_size + 2, own.hidden_size)
    with torch.no_grad():
        state = dict(own.state_dict())
        state["weight_ih_l0"] = torch.cat([own.weight_ih_l0, placement.loading], dim=1)
        wider.load_state_dict(state)
    with torch.no_grad():
        got = model(x, [z])
        for s in range(S):
            steps = model.backbone.embedding(x.t().int())
            for name in ("lstm1", "lstm2"):
                if name == stage:
                    wide = torch.cat([steps, z[s].expand(len(steps), B, 2)], dim=-1)
                    steps, _ = wider(wide)
                else:
                    steps, _ = getattr(model.backbone, name)(steps)
            torch.testing.assert_close(got[s], head(model, steps[-1]))


def head(model: HierarchicalModel, last: Tensor) -> Tensor:
    return model.backbone.output(F.relu(model.backbone.hidden(last)))


def test_two_latents_set_both_states_of_torchs_lstm_together() -> None:
    data = data_for("lstm", levels=("character", "play"))
    entries = tuple(EntryConfig(stage=s, placement="initial_state") for s in ("lstm1", "lstm2"))
    latents = tuple(LatentConfig(level=x, width=2, entries=entries) for x in ("character", "play"))
    model = tiny_model(data, "lstm", latents=latents).eval()
    x, draws = data.train.x.all()[:B], [normal(S, B, 2, seed=2), normal(S, B, 2, seed=3)]
    with torch.no_grad():
        got = model(x, draws)
        for s in range(S):
            steps = model.backbone.embedding(x.t().int())
            for layer, places in zip(
                (model.backbone.lstm1, model.backbone.lstm2),
                zip(*(list(one.entries()) for one in model.latents), strict=True),
                strict=True,
            ):
                raw = sum(z[s] @ at.loading.T for z, at in zip(draws, places, strict=True))
                h, c = raw[None].chunk(2, dim=-1)
                steps, _ = layer(steps, (torch.tanh(h).contiguous(), c.contiguous()))
            torch.testing.assert_close(got[s], head(model, steps[-1]))


def model_with(place: tuple[str, str, str], **settings: object) -> HierarchicalModel:
    backbone, stage, placement = place
    entry = latent(placement, stage, **settings)
    return tiny_model(data_for(backbone), backbone, latents=(entry,))


def normal_draws(model: HierarchicalModel, rows: int, samples: int = S) -> list[Tensor]:
    return [normal(samples, rows, one.width, seed=i) for i, one in enumerate(model.latents)]


# on every stage of every backbone


@pytest.mark.parametrize("place", POSSIBLE, ids=ids)
def test_draws_computed_at_once_equal_each_computed_alone(place: tuple[str, str, str]) -> None:
    model = model_with(place)
    x = data_for(place[0]).train.x.all()[:5]
    draws = normal_draws(model, 5)
    together = model(x, draws)
    assert together.shape == (S, 5, model.likelihood.num_outputs)
    for s in range(S):
        alone = model(x, [z[s : s + 1] for z in draws])
        torch.testing.assert_close(together[s], alone[0])
    same = torch.allclose(together[0], together[1], rtol=0, atol=1e-6)
    assert not same, "the latent has no effect"


@pytest.mark.parametrize("place", POSSIBLE, ids=ids)
def test_gradients_of_the_loss_reach_every_parameter(place: tuple[str, str, str]) -> None:
    model = model_with(place, prior="learned")
    (batch,) = Batches(data_for(place[0]).train, None)
    batch_loss(model, batch, 1.0, 2).loss.backward()
    assert untouched_parameters(model) == []
    (one,) = model.latents
    assert (one.posterior.table.grad.to_dense() != 0).any(1).all(), "a group got no gradient"


@pytest.mark.parametrize("place", POSSIBLE, ids=ids)
def test_only_the_groups_of_the_batch_get_a_gradient(place: tuple[str, str, str]) -> None:
    model = model_with(place)
    split = data_for(place[0]).train
    part = split.subset((split.groups[:, 0] == 2).nonzero()[:, 0])
    (batch,) = Batches(part, None)
    batch_loss(model, batch, 1.0, 1).loss.backward()
    (one,) = model.latents
    touched = (one.posterior.table.grad.to_dense() != 0).any(1).nonzero()[:, 0]
    assert touched.tolist() == [2]


@pytest.mark.parametrize("place", IMPOSSIBLE, ids=ids)
def test_an_impossible_stage_is_refused_with_the_possible_ones(place: tuple[str, str, str]) -> None:
    backbone, stage, placement = place
    with pytest.raises(ConfigError) as caught:
        model_with(place)
    able = [s for b, s, p in POSSIBLE if (b, p) == (backbone, placement)]
    text = str(caught.value)
    assert f"{placement} cannot enter {stage}" in text
    assert text.endswith(f"it can enter: {', '.join(able) or 'none here'}")


def test_one_vector_enters_at_several_places() -> None:
    data = data_for("mlp")
    entries = tuple(EntryConfig(stage=stage, placement="concat") for stage in ("hidden1", "output"))
    config = LatentConfig(level="writer", width=2, entries=entries, prior="standard")
    both = tiny_model(data, latents=(config,))
    assert len(both.latents) == 1
    (one,) = both.latents
    x, z = data.train.x.all()[:5], normal(S, 5, 2)
    backbone = both.backbone
    first, last = (placement.loading for placement in one.entries())  # type: ignore[union-attr]
    h = (x - backbone.input.center) / backbone.input.scale
    h = F.relu(backbone.layers["hidden1"](h) + z @ first.T)
    h = F.relu(backbone.layers["hidden2"](h))
    torch.testing.assert_close(both(x, [z]), backbone.layers["output"](h) + z @ last.T)


def test_latents_of_two_levels_add_up_at_a_stage() -> None:
    data = grouped_data(levels=("character", "play"))
    model = tiny_model(data, "linear", latent_config=("bias",))
    x, draws = data.train.x.all()[:5], [normal(S, 5, 5, seed=1), normal(S, 5, 5, seed=2)]
    zero = torch.zeros(S, 5, 5)
    expected = model(x, [zero, zero]) + draws[0] + draws[1]
    torch.testing.assert_close(model(x, draws), expected)
