"""Stages and sizes of the backbones are those of the design; their outputs those of plain torch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hlvnn.backbones.base import Backbone
from hlvnn.backbones.cnn import CNN
from hlvnn.backbones.mlp import MLP
from hlvnn.config import ModelConfig
from hlvnn.data.grouped import Level, Schema, Target
from hlvnn.models.build import assemble, build_model
from tests.backbones.making import B, backbone, entered_stages, rows_for
from tests.helpers import data_for, generator, small_config


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
    h = F.relu(model.layers["hidden1"](model.input(x) - model.input.distance().float()))
    h = F.relu(model.layers["hidden2"](h))
    weight = model.layers["output"].weight
    linear = F.linear(model.input(x) - model.input.distance().float(), weight[:, h.shape[1] :])
    plain = F.linear(h, weight[:, : h.shape[1]], model.layers["output"].bias) + linear
    torch.testing.assert_close(model(x), plain)
    seen, _ = entered_stages(model, x)["output"]
    assert torch.equal(seen[:, h.shape[1] :], model.input(x))


def test_the_linear_backbone_is_one_affine_map_that_starts_at_the_frequencies() -> None:
    data = data_for("linear")
    rows = torch.bincount(data.train.y, minlength=5) + 0.5
    start = build_model(small_config("linear"), data).backbone(rows_for("linear")).softmax(-1)
    torch.testing.assert_close(start, (rows / rows.sum()).expand(B, 5))
    model, x = backbone("linear"), rows_for("linear")
    columns = data.train.x.all().double()
    standard = (x.double() - columns.mean(0)) / columns.std(0, correction=0)
    torch.testing.assert_close(model(x), model.output(standard.float()))
