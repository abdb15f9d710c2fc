"""Each placement does what the same thing written out does, with the settings it takes."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hlvnn.config import LatentConfig
from hlvnn.errors import ConfigError
from hlvnn.latents.placements.basis import Basis
from hlvnn.latents.placements.bias import Bias
from hlvnn.latents.placements.concat import Concat
from hlvnn.latents.placements.film import Film
from hlvnn.latents.placements.weights import Weights
from hlvnn.stages import Stage
from tests.helpers import grouped_data, randomise, tiny_model
from tests.latents.placing import SIDE, STAGES, STEPS, B, S, inputs, make, normal


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
