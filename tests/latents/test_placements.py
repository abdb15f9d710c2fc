"""How a latent enters a stage: laws of every placement, alone and on every stage of a backbone."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hlvnn.config import EntryConfig, LatentConfig
from hlvnn.data.batches import Batches
from hlvnn.errors import ConfigError
from hlvnn.inference.objective import batch_loss
from hlvnn.latents.placements.base import LinearPlacement, Placement
from hlvnn.latents.placements.basis import Basis
from hlvnn.latents.placements.bias import Bias
from hlvnn.latents.placements.concat import Concat
from hlvnn.latents.placements.film import Film
from hlvnn.latents.placements.weights import Weights
from hlvnn.models.build import build_model
from hlvnn.models.model import HierarchicalModel
from hlvnn.stages import Stage
from tests.helpers import (
    BACKBONES,
    PLACEMENTS,
    data_for,
    generator,
    grouped_data,
    latent,
    placement_class,
    randomise,
    reloaded,
    same_bits,
    small_config,
    tiny_model,
    untouched_parameters,
)

S, B = 3, 4
SIDE = 6
STAGES = {
    "dense": Stage("hidden", "dense", 5, 3),
    "conv": Stage("conv1", "conv", 2, 3, kernel_size=3),
    "rnn": Stage("lstm1", "rnn", 4, 3),
    "embedding": Stage("embedding", "embedding", 9, 3),
}
STEPS = 5
CASES = [
    (name, kind)
    for name in PLACEMENTS
    for kind in sorted(placement_class(name).kinds - {"rnn"})  # an LSTM takes them in: see below
]
RECURRENT = [name for name in PLACEMENTS if "rnn" in placement_class(name).kinds]
LINEAR = [(name, kind) for name, kind in CASES if placement_class(name).linear]


def make(name: str, kind: str) -> Placement:
    cls = placement_class(name)
    stage = STAGES[kind]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return randomise(cls(stage, cls.width_at(stage) or 2))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed))


def inputs(kind: str, *, drawn: bool = False) -> tuple[Tensor, Tensor]:
    """Return a stage's input and pre-activation, [B, …], or [S, B, …] after an earlier latent."""
    stage, space = STAGES[kind], (SIDE, SIDE) if kind == "conv" else ()
    lead = (S, B) if drawn else (B,)
    if kind == "embedding":
        tokens = torch.randint(stage.in_features, (B, STEPS), generator=generator())
        return tokens, normal(*lead, STEPS, stage.out_features, seed=1)
    h = normal(*lead, stage.in_features, *space)
    return h, normal(*lead, stage.out_features, *space, seed=1)


# each placement alone


@pytest.mark.parametrize("drawn", [False, True])
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_every_draw_is_treated_as_if_it_were_alone(name: str, kind: str, drawn: bool) -> None:
    placement = make(name, kind)
    h, pre = inputs(kind, drawn=drawn)
    z = normal(S, B, placement.width, seed=2)
    together = placement(h, pre, z)
    assert together.shape == (S, *pre.shape[-(pre.dim() - drawn) :])
    for s in range(S):
        own = slice(s, s + 1)
        input_of = h[own] if drawn and kind != "embedding" else h
        alone = placement(input_of, pre[own] if drawn else pre, z[own])
        torch.testing.assert_close(together[s], alone[0])


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_every_row_is_treated_as_if_it_were_alone(name: str, kind: str) -> None:
    placement = make(name, kind)
    h, pre = inputs(kind)
    z = normal(S, B, placement.width, seed=2)
    together = placement(h, pre, z)
    for b in range(B):
        own = slice(b, b + 1)
        torch.testing.assert_close(together[:, own], placement(h[own], pre[own], z[:, own]))


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_gradients_reach_the_latent_the_input_and_every_parameter(name: str, kind: str) -> None:
    placement = make(name, kind)
    h, pre = inputs(kind)
    pre.requires_grad_()
    z = normal(S, B, placement.width, seed=2).requires_grad_()
    out = placement(h, pre, z)
    (out * normal(*out.shape, seed=3)).sum().backward()
    assert untouched_parameters(placement) == []
    assert (z.grad != 0).all()
    assert (pre.grad != 0).all()


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_placement_saves_and_loads_the_same_bits(name: str, kind: str) -> None:
    placement = make(name, kind)
    cls = type(placement)
    again = reloaded(placement, cls(STAGES[kind], placement.width))
    h, pre = inputs(kind)
    z = normal(S, B, placement.width, seed=2)
    assert same_bits(placement, again)
    assert torch.equal(placement(h, pre, z), again(h, pre, z))


@pytest.mark.parametrize(("name", "kind"), LINEAR)
def test_a_linear_placement_adds_j_times_z(name: str, kind: str) -> None:
    placement = make(name, kind)
    assert isinstance(placement, LinearPlacement)
    h, pre = inputs(kind)
    width = placement.width
    columns = placement.gain(h, torch.eye(width)[:, None, :].expand(width, B, width))
    z = normal(S, B, width, seed=2)
    expected = pre + torch.einsum("zb...,sbz->sb...", columns, z)
    torch.testing.assert_close(placement(h, pre, z), expected)


@pytest.mark.parametrize(("name", "kind"), LINEAR)
def test_a_linear_placement_adds_nothing_where_z_is_zero(name: str, kind: str) -> None:
    placement = make(name, kind)
    h, pre = inputs(kind)
    assert torch.equal(placement(h, pre, torch.zeros(1, B, placement.width))[0], pre)


# against the same thing written out


def test_bias_adds_z_to_each_unit_or_channel() -> None:
    z = normal(S, B, 3, seed=2)
    _, pre = inputs("dense")
    torch.testing.assert_close(Bias(STAGES["dense"], 3)(pre, pre, z), pre + z)
    h, pre = inputs("conv")
    gained = Bias(STAGES["conv"], 3)(h, pre, z) - pre
    torch.testing.assert_close(gained, z[..., None, None].expand(S, B, 3, SIDE, SIDE))


def test_concat_at_a_dense_stage_is_a_wider_matrix_on_the_wider_input() -> None:
    stage = STAGES["dense"]
    concat = make("concat", "dense")
    assert isinstance(concat, Concat)
    layer = torch.nn.Linear(stage.in_features, stage.out_features)
    wider = torch.nn.Linear(stage.in_features + 2, stage.out_features)
    with torch.no_grad():
        wider.weight.copy_(torch.cat([layer.weight, concat.loading], dim=1))
        wider.bias.copy_(layer.bias)
    h, _ = inputs("dense")
    z = normal(S, B, 2, seed=2)
    literal = wider(torch.cat([h.expand(S, B, -1), z], dim=-1))
    torch.testing.assert_close(concat(h, layer(h), z), literal)


def test_concat_at_a_convolution_is_constant_maps_beside_the_input_inside_the_borders() -> None:
    stage = STAGES["conv"]
    concat = make("concat", "conv")
    assert isinstance(concat, Concat)
    kernel, bias = normal(3, 2, 3, 3, seed=4), normal(3, seed=5)
    shares = normal(3, 2, 3, 3, seed=6).flatten(2).softmax(-1).unflatten(2, (3, 3))
    maps_kernel = shares * concat.loading.detach()[:, :, None, None]  # adds up to the loading
    h, _ = inputs("conv")
    pre = F.conv2d(h, kernel, bias, padding="same")
    z = normal(S, B, 2, seed=2)
    maps = z[..., None, None].expand(S, B, 2, SIDE, SIDE)
    wide_input = torch.cat([h.expand(S, *h.shape), maps], dim=2).flatten(0, 1)
    wide_kernel = torch.cat([kernel, maps_kernel], dim=1)
    literal = F.conv2d(wide_input, wide_kernel, bias, padding="same").unflatten(0, (S, B))
    inside = (..., slice(1, -1), slice(1, -1))
    assert stage.kernel_size == 3
    torch.testing.assert_close(concat(h, pre, z)[inside], literal[inside])


@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_concat_starts_as_the_columns_of_a_wider_layer_would(kind: str) -> None:
    stage = STAGES[kind]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        loading = Concat(stage, 400).loading.detach()
        wider = torch.nn.Linear(stage.in_features + 400, stage.out_features)
    if kind == "dense":
        expected = wider.weight.detach().std()
        torch.testing.assert_close(loading.std(), expected, rtol=0.1, atol=0)
    bound = 1 / math.sqrt(stage.in_features * stage.kernel_size**2 + 400)
    assert 0.95 * bound < float(loading.abs().max()) <= bound


def test_weights_at_a_dense_stage_is_a_matrix_of_its_own_for_every_row() -> None:
    stage = STAGES["dense"]
    width = Weights.width_at(stage)
    assert width == 3 * (1 + 5)
    layer = torch.nn.Linear(5, 3)
    h, _ = inputs("dense")
    z = normal(S, B, width, seed=2)
    got = Weights(stage, width)(h, layer(h), z)
    for s in range(S):
        for b in range(B):
            deviation = z[s, b].reshape(3, 6)  # for each output: its intercept, then its slopes
            weight, bias = layer.weight + deviation[:, 1:], layer.bias + deviation[:, 0]
            torch.testing.assert_close(got[s, b], weight @ h[b] + bias)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("drawn", [False, True])
@pytest.mark.parametrize("side", [1, 2, 3, 4])
def test_weights_at_a_convolution_is_a_kernel_of_its_own_for_every_row(
    side: int, drawn: bool
) -> None:
    stage = Stage("conv1", "conv", 2, 3, kernel_size=side)
    width = Weights.width_at(stage)
    assert width == 3 * (1 + 2 * side * side)
    conv = torch.nn.Conv2d(2, 3, side, padding="same")
    h, _ = inputs("conv", drawn=drawn)
    pre = conv(h.flatten(0, 1)).unflatten(0, (S, B)) if drawn else conv(h)
    z = normal(S, B, width, seed=2)
    got = Weights(stage, width)(h, pre, z)
    for s in range(S):
        for b in range(B):
            deviation = z[s, b].reshape(3, -1)
            kernel = conv.weight + deviation[:, 1:].reshape(3, 2, side, side)
            image = h[s, b] if drawn else h[b]
            expected = F.conv2d(image[None], kernel, conv.bias + deviation[:, 0], padding="same")
            torch.testing.assert_close(got[s, b], expected[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rank", [1, 2, 6])
def test_basis_at_a_dense_stage_is_a_matrix_of_its_own_of_low_rank(rank: int) -> None:
    stage = STAGES["dense"]
    basis = randomise(Basis(stage, 3, rank=rank))
    layer = torch.nn.Linear(5, 3)
    h, _ = inputs("dense")
    z = normal(S, B, 3, seed=2)
    got = basis(h, layer(h), z)
    deviation = own_deviation(basis, z)  # [S, B, out, in + 1]
    assert int(torch.linalg.matrix_rank(deviation).max()) == min(rank, 3)
    weight, bias = layer.weight + deviation[..., :-1], layer.bias + deviation[..., -1]
    torch.testing.assert_close(got, (weight @ h.unsqueeze(-1)).squeeze(-1) + bias)


def own_deviation(basis: Basis, z: Tensor) -> Tensor:
    """Return Σ_k (C z)_k v_k [u_k, bias]ᵀ for every draw, [S, B, out, in + 1], written out."""
    rank = len(basis.mixing)
    assert basis.input_bias is not None
    total = torch.zeros(S, B, len(basis.outputs), basis.inputs[0].numel() + 1)
    for k in range(rank):
        u = torch.cat([basis.inputs[k].flatten(), basis.input_bias[k : k + 1]])
        v = basis.outputs[:, k]
        u, v = u / u.norm(), v / v.square().mean().sqrt()
        total = total + (z @ basis.mixing[k])[..., None, None] * torch.outer(v, u)
    return total


@pytest.mark.parametrize("drawn", [False, True])
def test_basis_at_a_convolution_is_a_kernel_of_its_own_for_every_row(drawn: bool) -> None:
    """Latent filters."""
    stage = STAGES["conv"]
    basis = randomise(Basis(stage, 2, rank=3))
    conv = torch.nn.Conv2d(2, 3, 3, padding="same")
    h, _ = inputs("conv", drawn=drawn)
    pre = conv(h.flatten(0, 1)).unflatten(0, (S, B)) if drawn else conv(h)
    z = normal(S, B, 2, seed=2)
    got, deviation = basis(h, pre, z), own_deviation(basis, z)
    for s in range(S):
        for b in range(B):
            kernel = conv.weight + deviation[s, b, :, :-1].reshape(3, 2, 3, 3)
            image = (h[s, b] if drawn else h[b])[None]
            expected = F.conv2d(image, kernel, conv.bias + deviation[s, b, :, -1], padding="same")
            torch.testing.assert_close(got[s, b], expected[0], rtol=1e-4, atol=1e-5)


def test_basis_at_an_embedding_is_a_table_of_its_own_for_every_row() -> None:
    basis = randomise(Basis(STAGES["embedding"], 2, rank=3))
    table = normal(9, 3, seed=4)
    tokens, _ = inputs("embedding")
    z = normal(S, B, 2, seed=2)
    got = basis(tokens, table[tokens], z)
    u = basis.inputs / basis.inputs.square().mean(1, keepdim=True).sqrt()  # [K, tokens]
    v = basis.outputs / basis.outputs.square().mean(0).sqrt()
    for s in range(S):
        for b in range(B):
            own = table + u.T @ torch.diag(basis.mixing @ z[s, b]) @ v.T
            torch.testing.assert_close(got[s, b], own[tokens[b]])


def test_concat_at_an_embedding_is_a_wider_matrix_on_the_one_hot_token_beside_z() -> None:
    concat = make("concat", "embedding")
    assert isinstance(concat, Concat)
    table = normal(9, 3, seed=4)
    tokens, _ = inputs("embedding")
    z = normal(S, B, 2, seed=2)
    one_hot = F.one_hot(tokens, 9).float().expand(S, B, STEPS, 9)
    wide = torch.cat([one_hot, z[:, :, None].expand(S, B, STEPS, 2)], dim=-1)
    literal = wide @ torch.cat([table, concat.loading.T])
    torch.testing.assert_close(concat(tokens, table[tokens], z), literal)


@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_film_scales_and_shifts_each_unit_or_channel(kind: str) -> None:
    film = make("film", kind)
    assert isinstance(film, Film)
    h, pre = inputs(kind)
    z = normal(S, B, 2, seed=2)
    got = film(h, pre, z)
    for s in range(S):
        for b in range(B):
            scale, shift = 1 + film.scale @ z[s, b], film.shift @ z[s, b]
            for unit in range(3):
                expected = scale[unit] * pre[b, unit] + shift[unit]
                torch.testing.assert_close(got[s, b, unit], expected)
    assert torch.equal(film(h, pre, torch.zeros(1, B, 2))[0], pre)


def test_weights_of_chosen_columns_are_all_weights_with_the_others_at_zero() -> None:
    stage = Stage("output", "dense", 4, 2, inputs=("a", "b", "c", "d"))
    every, some = Weights(stage, 10), Weights(stage, 6, columns=("d", "b"))
    assert Weights.width_at(stage) == 10
    assert Weights.width_at(stage, columns=("d", "b")) == 6
    h, z = normal(B, 4), normal(S, B, 6, seed=2)
    whole = torch.zeros(S, B, 2, 5)
    whole[..., [0, 4, 2]] = z.unflatten(-1, (2, 3))  # the intercept, d, b
    torch.testing.assert_close(some.gain(h, z), every.gain(h, whole.flatten(-2)))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (("c",), r"unknown column at stage output 'c'.*a, b"),
        (("a", "a"), r"'a' is given twice"),
    ],
)
def test_columns_that_do_not_fit_are_refused(columns: tuple[str, ...], message: str) -> None:
    stage = Stage("output", "dense", 2, 1, inputs=("a", "b"))
    with pytest.raises(ConfigError, match=message):
        Weights.width_at(stage, columns=columns)


def test_columns_of_a_stage_whose_inputs_have_no_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="inputs of stage conv1 have no names"):
        Weights.width_at(STAGES["conv"], columns=("a",))


def test_settings_of_an_entry_reach_the_placement() -> None:
    text = "concat@hidden1+basis@output:rank=3 level=writer width=2"
    (one,) = tiny_model(grouped_data(), latents=(LatentConfig.from_text(text),)).latents
    _, basis = one.entries()
    assert isinstance(basis, Basis)
    assert basis.mixing.shape == (3, 2)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"placement": "bias", "rank": 2}, r"bias@output:rank=2: rank does not belong to"),
        ({"placement": "concat", "columns": ("a",)}, "columns does not belong to placement concat"),
    ],
)
def test_a_setting_of_another_placement_is_refused(entry: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_model(grouped_data(), latents=(LatentConfig(level="writer", stage="output", **entry),))


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
    model = tiny_model(data, "lstm", latents=(latent("concat", stage),)).eval()
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


# learned priors and trained loadings

SCALED = ["basis", "concat", "film"]


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
    plain = LatentConfig(level="writer", width=2, stage="output", placement="concat")
    entries = tuple(EntryConfig(stage="output", placement=name) for name in ("bias", "concat"))
    mixed = LatentConfig(level="writer", entries=entries, prior="learned")
    for config in (plain, mixed):
        (one,) = tiny_model(data_for("mlp"), latents=(config,)).latents
        z = normal(B, one.width)
        assert torch.equal(one.scaled(z), z)


# on every stage of every backbone


def _places() -> tuple[list[tuple[str, str, str]], list[tuple[str, str, str]]]:
    possible, refused = [], []
    for backbone in BACKBONES:
        model = build_model(small_config(backbone), data_for(backbone))
        for stage in model.backbone.stages.values():
            for name in PLACEMENTS:
                able = stage.kind in placement_class(name).kinds
                (possible if able else refused).append((backbone, stage.name, name))
    return possible, refused


POSSIBLE, IMPOSSIBLE = _places()
ids = lambda place: f"{place[0]}-{place[2]}@{place[1]}"  # noqa: E731


def model_with(place: tuple[str, str, str], **settings: object) -> HierarchicalModel:
    backbone, stage, placement = place
    entry = latent(placement, stage, **settings)
    return tiny_model(data_for(backbone), backbone, latents=(entry,))


def normal_draws(model: HierarchicalModel, rows: int, samples: int = S) -> list[Tensor]:
    return [normal(samples, rows, one.width, seed=i) for i, one in enumerate(model.latents)]


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
    assert not torch.allclose(together[0], together[1]), "the latent has no effect"


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
    both = tiny_model(data, latents=(LatentConfig(level="writer", width=2, entries=entries),))
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


# closed-form moments of the predictor

AT_OUTPUT = [
    place for place in POSSIBLE if place[1] == "output" and placement_class(place[2]).linear
]


def jacobians(model: HierarchicalModel, x: Tensor) -> list[Tensor]:
    """Return ∂η/∂z of each latent at one row [1, …], [out, Z], by automatic differentiation."""

    def eta(*z: Tensor) -> Tensor:
        return model(x, [one[None, None] for one in z])[0, 0]

    at = tuple(torch.zeros(one.width) for one in model.latents)
    return list(torch.autograd.functional.jacobian(eta, at))


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
    assert model.linear_at_output
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
    assert tiny_model(data_for("mlp"), latents=entries).linear_at_output is exact
