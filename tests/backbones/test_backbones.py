"""Backbones: their stages and sizes, what they compute, and what goes in and comes out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hlvnn.backbones.base import Backbone, InputScale
from hlvnn.backbones.cnn import CNN
from hlvnn.backbones.mlp import MLP
from hlvnn.config import ModelConfig
from hlvnn.data.grouped import Level, Schema, Target, TensorRows
from hlvnn.errors import ConfigError
from hlvnn.models.build import assemble, build_model
from tests.helpers import (
    BACKBONES,
    Hook,
    backbone_class,
    data_for,
    generator,
    grouped_data,
    randomise,
    reloaded,
    same_bits,
    small_config,
    untouched_parameters,
)

S, B = 3, 4


def backbone(name: str, kind: str | None = None, **settings: object) -> Backbone:
    data = data_for(name) if kind is None else grouped_data(kind)
    return randomise(build_model(small_config(name, **settings), data).backbone)


def rows_for(name: str, number: int = B) -> Tensor:
    return data_for(name).train.x.all()[:number]


def published(name: str, size: str) -> Backbone:
    """Return the backbone of the design's table, for 62 or 53 classes and for 1,000 columns."""
    kinds = {
        "cnn": ("image", (28, 28), 62, None),
        "lstm": ("tokens", (80,), 53, 86),
        "mlp": ("features", (10,), 2, None),
    }
    kind, shape, classes, tokens = kinds[name]
    schema = Schema(
        levels=(Level("writer", 3),),
        x_kind=kind,  # type: ignore[arg-type]
        x_shape=shape,
        target=Target("y", "class", num_classes=classes),
        num_tokens=tokens,
    )
    config = ModelConfig(backbone=name, model_size=size, likelihood="categorical")  # type: ignore[arg-type]
    return assemble(config, schema).backbone


# every backbone


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_without_latents_returns_one_output_per_row(name: str) -> None:
    assert backbone(name)(rows_for(name)).shape == (B, 5)


def entered_stages(model: Backbone, x: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Return each stage's input and pre-activation as the hook sees them."""
    seen = {}

    def enter(stage: str, h: Tensor, pre: Tensor) -> Tensor:
        seen[stage] = (h, pre)
        return pre

    model(x, Hook(enter))
    return seen


@pytest.mark.parametrize("name", BACKBONES)
def test_stages_are_entered_in_order_with_the_shapes_they_announce(name: str) -> None:
    model = backbone(name)
    seen = entered_stages(model, rows_for(name))
    assert list(seen) == [stage for stage in model.stages if stage in seen]
    assert "output" in seen
    for stage, (h, pre) in seen.items():
        announced = model.stages[stage]
        assert announced.name == stage
        if announced.kind == "embedding":  # tokens [B, T] and [B, T, out]
            assert int(h.max()) < announced.in_features
            assert pre.shape == (*h.shape, announced.out_features)
        else:
            assert (h.shape[1], pre.shape[1]) == (announced.in_features, announced.out_features)


@pytest.mark.parametrize(
    ("name", "settings"), [*((name, {}) for name in BACKBONES), ("mlp", {"skip": True})]
)
def test_draws_may_enter_at_any_stage(name: str, settings: dict[str, bool]) -> None:
    model, x = backbone(name, **settings), rows_for(name)
    shift = torch.randn(S, B, generator=generator())
    shift[0] = 0
    for at in entered_stages(model, x):

        def enter(stage: str, h: Tensor, pre: Tensor, at: str = at) -> Tensor:
            if stage != at:
                return pre
            return pre + shift.view(S, B, *(1 for _ in pre.shape[1:]))

        out = model(x, Hook(enter))
        assert out.shape == (S, B, 5)
        torch.testing.assert_close(out[0], model(x))
        assert not torch.allclose(out[1], out[0])


@pytest.mark.parametrize("name", BACKBONES)
def test_gradients_reach_every_parameter_of_a_backbone(name: str) -> None:
    model, x = backbone(name), rows_for(name)
    out = model(x)
    (out * torch.randn(out.shape, generator=generator())).sum().backward()
    assert untouched_parameters(model) == []


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_saves_and_loads_the_same_bits(name: str) -> None:
    model, x = backbone(name), rows_for(name)
    again = reloaded(model, backbone(name))
    assert same_bits(model, again)
    assert torch.equal(model(x), again(x))


@pytest.mark.parametrize("name", BACKBONES)
def test_a_row_does_not_depend_on_its_neighbours(name: str) -> None:
    model, x = backbone(name), rows_for(name)
    torch.testing.assert_close(model(x)[2:3], model(x[2:3]))


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_leaves_its_input_alone(name: str) -> None:
    x = rows_for(name)
    before = x.clone()
    backbone(name)(x)
    assert torch.equal(x, before)


# stages and sizes, as the design says


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("cnn", ["conv1", "conv2", "hidden", "output"]),
        ("lstm", ["embedding", "lstm1", "lstm2", "hidden", "output"]),
        ("mlp", ["hidden1", "hidden2", "output"]),
        ("linear", ["output"]),
    ],
)
def test_stages_have_the_names_of_the_design(name: str, stages: list[str]) -> None:
    assert list(backbone(name).stages) == stages


@pytest.mark.parametrize(
    ("name", "size", "shapes"),
    [
        (
            "cnn",
            "small",
            {
                "conv1.weight": (16, 1, 3, 3),
                "conv2.weight": (32, 16, 3, 3),
                "hidden.weight": (256, 32 * 7 * 7),
                "output.weight": (62, 256),
            },
        ),
        (
            "cnn",
            "large",
            {
                "conv1.weight": (32, 1, 5, 5),
                "conv2.weight": (64, 32, 5, 5),
                "hidden.weight": (2048, 64 * 7 * 7),
                "output.weight": (62, 2048),
            },
        ),
        (
            "lstm",
            "small",
            {
                "embedding.weight": (86, 64),
                "lstm1.weight_ih_l0": (4 * 16, 64),
                "lstm2.weight_ih_l0": (4 * 16, 16),
                "hidden.weight": (64, 16),
                "output.weight": (53, 64),
            },
        ),
        (
            "lstm",
            "large",
            {
                "embedding.weight": (86, 128),
                "lstm1.weight_ih_l0": (4 * 256, 128),
                "lstm2.weight_ih_l0": (4 * 256, 256),
                "hidden.weight": (256, 256),
                "output.weight": (53, 256),
            },
        ),
        ("mlp", "small", {"layers.hidden1.weight": (64, 10), "layers.hidden2.weight": (64, 64)}),
        ("mlp", "large", {"layers.hidden1.weight": (256, 10), "layers.output.weight": (2, 256)}),
    ],
)
def test_sizes_are_those_of_the_design(
    name: str, size: str, shapes: dict[str, tuple[int, ...]]
) -> None:
    state = published(name, size).state_dict()
    assert {key: tuple(state[key].shape) for key in shapes} == shapes


def test_the_whole_small_cnn_has_the_parameters_of_its_layers() -> None:
    layers = (16 * 9 + 16) + (32 * 16 * 9 + 32) + (256 * 1568 + 256) + (62 * 256 + 62)
    assert sum(p.numel() for p in published("cnn", "small").parameters()) == layers


def test_the_last_lstm_row_of_the_large_size_runs() -> None:
    x = torch.randint(86, (2, 80), generator=generator(), dtype=torch.int16)
    assert published("lstm", "large")(x).shape == (2, 53)


# against plain torch


def test_the_cnn_is_the_textbook_network() -> None:
    model = backbone("cnn")
    assert isinstance(model, CNN)
    plain = nn.Sequential(
        model.conv1, nn.ReLU(), nn.MaxPool2d(2), model.conv2, nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), model.hidden, nn.ReLU(), model.output,
    )  # fmt: skip
    x = rows_for("cnn")
    torch.testing.assert_close(model(x), plain(x[:, None].float() / 255))


def test_the_lstm_reads_the_window_and_answers_at_its_last_step() -> None:
    model = backbone("lstm")
    x = rows_for("lstm")
    steps = model.embedding(x.long())  # [B, T, E]
    for number in (1, 2):
        source = getattr(model, f"lstm{number}")
        twin = nn.LSTM(source.input_size, source.hidden_size, batch_first=True)
        twin.load_state_dict(source.state_dict())
        steps, _ = twin(steps)
    expected = model.output(F.relu(model.hidden(steps[:, -1])))
    torch.testing.assert_close(model(x), expected)


def test_the_mlp_is_relu_layers_on_standardised_columns() -> None:
    model, x = backbone("mlp"), rows_for("mlp")
    columns = data_for("mlp").train.x.all().double()
    standard = (x.double() - columns.mean(0)) / columns.std(0, correction=0)
    plain = nn.Sequential(
        model.layers["hidden1"],
        nn.ReLU(),
        model.layers["hidden2"],
        nn.ReLU(),
        model.layers["output"],
    )
    torch.testing.assert_close(model(x), plain(standard.float()))


def test_an_mlp_that_skips_adds_a_linear_part_whose_columns_latents_see() -> None:
    model, x = backbone("mlp", skip=True), rows_for("mlp")
    assert isinstance(model, MLP)
    h = F.relu(model.layers["hidden1"](model.input(x) - model.input.offset()))
    h = F.relu(model.layers["hidden2"](h))
    weight = model.layers["output"].weight
    linear = F.linear(model.input(x) - model.input.offset(), weight[:, h.shape[1] :])
    plain = F.linear(h, weight[:, : h.shape[1]], model.layers["output"].bias) + linear
    torch.testing.assert_close(model(x), plain)
    seen, _ = entered_stages(model, x)["output"]
    assert torch.equal(seen[:, h.shape[1] :], model.input(x))


def test_the_linear_backbone_is_one_affine_map_that_starts_at_zero() -> None:
    data = data_for("linear")
    assert torch.equal(
        build_model(small_config("linear"), data).backbone(rows_for("linear")), torch.zeros(B, 5)
    )
    model, x = backbone("linear"), rows_for("linear")
    columns = data.train.x.all().double()
    standard = (x.double() - columns.mean(0)) / columns.std(0, correction=0)
    torch.testing.assert_close(model(x), model.output(standard.float()))


# options and inputs


@pytest.mark.parametrize("name", ["cnn", "lstm", "mlp"])
def test_dropout_acts_in_training_alone(name: str) -> None:
    model, x = backbone(name, dropout=0.5), rows_for(name)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))
    without = reloaded(model, backbone(name))
    torch.testing.assert_close(model(x), without(x))


@pytest.mark.parametrize("norm", ["batch", "layer"])
@pytest.mark.parametrize("name", ["cnn", "lstm", "mlp"])
def test_a_norm_sets_the_mean_and_variance_of_the_hidden_pre_activations(
    name: str, norm: str
) -> None:
    data = data_for(name)
    model = build_model(small_config(name, norm=norm), data).backbone.train()
    seen = entered_stages(model, data.train.x.all())
    for stage in ("embedding", "output"):  # have no norm
        seen.pop(stage, None)
    for _, pre in seen.values():
        # batch: for each channel over rows and space; layer: for each row over its units
        values = (pre.transpose(0, 1) if norm == "batch" else pre).flatten(1)
        torch.testing.assert_close(values.mean(1), torch.zeros(len(values)), atol=1e-4, rtol=0)
        assert (values.var(1, correction=0) < 1.01).all()
        assert (values.var(1, correction=0) > 0.5).any()


@pytest.mark.parametrize("norm", ["batch", "layer"])
@pytest.mark.parametrize("name", ["cnn", "lstm", "mlp"])
def test_a_norm_works_on_draws_and_gradients_reach_it(name: str, norm: str) -> None:
    data = data_for(name)
    placed = {"cnn": "conv1", "lstm": "hidden", "mlp": "hidden1"}[name]
    model = backbone(name, norm=norm).train()
    x = data.train.x.all()

    def enter(stage: str, h: Tensor, pre: Tensor) -> Tensor:
        if stage != placed:
            return pre
        return pre + torch.randn(S, *pre.shape, generator=generator())

    out = model(x, Hook(enter))
    assert out.shape == (S, len(x), 5)
    (out * torch.randn(out.shape, generator=generator(1))).sum().backward()
    assert untouched_parameters(model) == []


@pytest.mark.parametrize("shape", [(8, 8), (28, 28), (9, 13), (4, 4), (3, 8, 12)])
def test_the_cnn_takes_images_of_any_size_and_colour(shape: tuple[int, ...]) -> None:
    model = CNN(shape, 7, (2, 3), 3, 5)
    assert model(torch.rand(B, *shape, generator=generator())).shape == (B, 7)


@pytest.mark.parametrize("name", ["cnn", "mlp"])
def test_bytes_and_the_same_floats_from_0_to_1_are_the_same_image(name: str) -> None:
    data = grouped_data("image")
    model = build_model(small_config(name), data).backbone
    other = build_model(small_config(name), data).backbone
    x = data.train.x.all()
    other.observe(TensorRows(x.float() / 255))
    randomise(model), randomise(other)
    torch.testing.assert_close(model(x), other(x.float() / 255), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_the_lstm_takes_tokens_of_any_integer_type(dtype: torch.dtype) -> None:
    model, x = backbone("lstm"), rows_for("lstm")
    assert torch.equal(model(x.to(dtype)), model(x))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("cnn", {"channels": (4,)}, "two convolutions"),
        ("cnn", {"hidden": (4, 4)}, "one dense hidden layer"),
        ("lstm", {"lstm": (4, 4, 4)}, "two LSTM layers"),
        ("lstm", {"hidden": ()}, "one dense hidden layer"),
    ],
)
def test_the_wrong_count_of_sizes_is_refused(
    name: str, settings: dict[str, tuple[int, ...]], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        backbone(name, **settings)


@pytest.mark.parametrize("shape", [(3, 8), (8, 3)])
def test_images_too_small_to_pool_twice_are_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match=f"4×4 pixels, got {shape[0]}×{shape[1]}"):
        CNN(shape, 7, (2, 3), 3, 5)


@pytest.mark.parametrize("kind", ["image", "tokens", "features"])
@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_refuses_data_it_does_not_read_and_names_one_that_does(
    name: str, kind: str
) -> None:
    if kind in backbone_class(name).x_kinds:
        assert backbone(name, kind)(grouped_data(kind).train.x.all()).shape[-1] == 5
        return
    suited = {"image": "cnn", "tokens": "lstm", "features": "mlp"}[kind]
    with pytest.raises(ConfigError, match=f"the data are {kind}; use --backbone {suited}"):
        backbone(name, kind)


# the scales of columns


def test_columns_are_scaled_by_the_training_rows_mean_and_sd() -> None:
    x = torch.randn(1001, 3, generator=generator(), dtype=torch.float64)
    x = x * torch.tensor([1e-6, 1.0, 1e9]) + torch.tensor([5.0, -3e4, 1e9])
    scale = InputScale(3)
    scale.observe(TensorRows(x), chunk=100)
    stored = x.float().double().numpy()  # rows come out as float32
    np.testing.assert_allclose(scale.center.numpy(), stored.mean(0), rtol=1e-6)
    np.testing.assert_allclose(scale.scale.numpy(), stored.std(0), rtol=1e-5)


def test_a_constant_column_is_left_at_its_scale() -> None:
    x = torch.full((7, 2), 0.1)
    x[:, 1] = torch.arange(7)
    scale = InputScale(2)
    scale.observe(TensorRows(x))
    assert scale.scale.tolist() == [1, 2]
    assert torch.isfinite(scale(x)).all()


def test_scales_are_saved_with_the_model() -> None:
    data = data_for("linear")
    model = build_model(small_config("linear"), data)
    fresh = assemble(small_config("linear"), data.schema)
    assert not torch.equal(fresh.backbone.input.scale, model.backbone.input.scale)
    again = reloaded(model, fresh)
    assert torch.equal(again.backbone.input.scale, model.backbone.input.scale)
    assert torch.equal(again.backbone.input.center, model.backbone.input.center)


def test_the_cnn_runs_channels_last_even_with_one_input_channel() -> None:
    """One input channel makes the layout ambiguous; left so, all runs at half the speed."""
    backbone = CNN((28, 28), 62, (16, 32), 3, 256)
    outputs: list[torch.Tensor] = []
    for conv in (backbone.conv1, backbone.conv2):
        conv.register_forward_hook(lambda _, __, output: outputs.append(output))
    backbone(torch.zeros(4, 28, 28, dtype=torch.uint8))
    for output in outputs:
        assert output.is_contiguous(memory_format=torch.channels_last)
