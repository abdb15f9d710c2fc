"""The scales of columns are the training rows'."""

from __future__ import annotations

import numpy as np
import torch

from hlvnn.backbones.base import InputScale
from hlvnn.backbones.cnn import CNN
from hlvnn.data.grouped import TensorRows
from hlvnn.models.build import assemble, build_model
from tests.helpers import data_for, generator, reloaded, small_config


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
