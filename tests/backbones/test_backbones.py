"""The laws that every backbone keeps, its options, and the inputs it takes or refuses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hlvnn.backbones.cnn import CNN
from hlvnn.data.grouped import TensorRows
from hlvnn.errors import ConfigError
from hlvnn.models.build import build_model
from tests.backbones.making import B, S, backbone, entered_stages, rows_for
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

# every backbone


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_without_latents_returns_one_output_per_row(name: str) -> None:
    assert backbone(name)(rows_for(name)).shape == (B, 5)


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
