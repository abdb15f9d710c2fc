"""A step that is not finite is kept, and taken once more where it stops being finite."""

from __future__ import annotations

import traceback
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from hlvnn.commands.debugger import up_to_ours
from hlvnn.config import ModelConfig, TrainConfig
from hlvnn.data.grouped import GroupedDataset
from hlvnn.data.rows import TensorRows
from hlvnn.errors import NotFiniteError
from hlvnn.models.build import build_model
from hlvnn.records.checkpoint import load_checkpoint, save_checkpoint
from hlvnn.training import failure
from hlvnn.training.loop import fit

BAD_STEP = 37
SETTINGS = TrainConfig(num_epochs=4, batch_size=10, device="cpu")


def data() -> GroupedDataset:
    draws = np.random.default_rng(0)
    frame = pd.DataFrame(draws.normal(size=(300, 3)), columns=["a", "b", "c"])
    frame["g"] = np.arange(300) % 12
    frame["y"] = frame["a"] + draws.normal(size=300)
    return GroupedDataset.from_frame(frame, target="y", features=["a", "b", "c"], groups=["g"])


def rows_of_steps(rows: GroupedDataset) -> list[torch.Tensor]:
    """Return the rows of every step of a fit with seed 3, as a callback-free fit has them."""
    generator = torch.Generator().manual_seed(3)
    order = [torch.randperm(len(rows.train), generator=generator) for _ in range(4)]
    return [part for epoch in order for part in epoch.split(10)]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_planted_step_is_kept_and_taken_once_more(dropout: float, tmp_path: Path) -> None:
    """A module gives no number at step 37, and in that step alone."""
    rows = data()
    config = ModelConfig(backbone="mlp", latent_config="film", z_dim=2, dropout=dropout)
    model = build_model(config, rows, seed=0)
    calls, inputs = [0], []

    def broken(module: torch.nn.Module, given: tuple[torch.Tensor], out: torch.Tensor) -> object:
        if not model.training:
            return None
        calls[0] += 1
        inputs.append(given[0].detach().clone())
        return out * torch.nan if calls[0] == BAD_STEP + 1 else None

    handle = model.backbone.get_submodule("layers.hidden2").register_forward_hook(broken)
    result = fit(model, rows, SETTINGS, lambda *_: None, seed=3)
    handle.remove()
    assert result.diverged
    kept = result.failure
    assert kept is not None
    assert kept[failure.STEP] == BAD_STEP
    path = tmp_path / "failure.pt"
    save_checkpoint(kept, path)
    again = build_model(config, rows, seed=9)
    seen: list[torch.Tensor] = []
    layer = again.backbone.get_submodule("layers.hidden2")
    layer.register_forward_hook(lambda _, given, out: seen.append(given[0].detach()))
    failure.replay(again, rows, SETTINGS, load_checkpoint(path))
    torch.testing.assert_close(seen[0], inputs[BAD_STEP], msg="the same weights, rows and draws")


def test_it_stops_at_rows_that_are_not_finite() -> None:
    rows = data()
    model = build_model(ModelConfig(backbone="mlp", latent_config="bias"), rows, seed=0)
    row = int(rows_of_steps(rows)[BAD_STEP][4])
    first = next(n for n, part in enumerate(rows_of_steps(rows)) if row in part)
    assert isinstance(rows.train.x, TensorRows)
    rows.train.x.tensor[row] = torch.inf  # after the data were checked
    kept = fit(model, rows, SETTINGS, lambda *_: None, seed=3).failure
    assert kept is not None
    assert kept[failure.STEP] == first
    assert row in kept[failure.ROWS]
    with pytest.raises(NotFiniteError, match=r"inputs x: 3 of 30 numbers \[10, 3\]"):
        failure.replay(model, rows, SETTINGS, kept)


def test_the_debugger_opens_in_the_network_and_not_in_a_library() -> None:
    rows = data()
    model = build_model(ModelConfig(backbone="mlp", latent_config="bias"), rows, seed=0)
    handle = model.backbone.get_submodule("layers.hidden2").register_forward_hook(
        lambda _, __, out: out * torch.inf if model.training else None
    )
    kept = fit(model, rows, SETTINGS, lambda *_: None, seed=3).failure
    assert kept is not None
    assert kept[failure.STEP] == 0
    with pytest.raises(NotFiniteError, match=r"output of backbone\.layers\.hidden2") as raised:
        failure.replay(model, rows, SETTINGS, kept)
    handle.remove()
    last = traceback.extract_tb(up_to_ours(raised.tb))[-1]
    assert last.filename.endswith(str(Path("hlvnn") / "backbones" / "mlp.py"))
    assert traceback.extract_tb(raised.tb)[-1].filename != last.filename


def test_weights_that_a_gradient_has_spoilt_are_named() -> None:
    rows = data()
    model = build_model(ModelConfig(backbone="mlp", latent_config="bias"), rows, seed=0)
    weight = next(model.backbone.parameters())
    weight.register_hook(lambda gradient: gradient * torch.nan)
    kept = fit(model, rows, SETTINGS, lambda *_: None, seed=3).failure
    assert kept is not None
    assert kept[failure.STEP] == 1, "the step after: its loss is the first that is not finite"
    with pytest.raises(NotFiniteError, match="the weights before the step are not finite"):
        failure.replay(model, rows, SETTINGS, kept)
