"""The search for the learning rate: on planted data it finds where training blows up."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import pytest
import torch

import hlvnn
from hlvnn.analysis import lr_figure
from hlvnn.errors import ConfigError


def world() -> tuple[hlvnn.HierarchicalModel, hlvnn.GroupedDataset]:
    draws = np.random.default_rng(0)
    frame = pd.DataFrame(draws.normal(size=(2000, 4)), columns=list("abcd"))
    frame["g"] = np.arange(2000) % 20
    frame["y"] = np.sin(2 * frame["a"]) + frame["b"] + 0.1 * draws.normal(size=2000)
    data = hlvnn.GroupedDataset.from_frame(frame, target="y", features=list("abcd"), groups=["g"])
    config = hlvnn.ModelConfig(backbone="mlp", latent_config="film", z_dim=2)
    return hlvnn.build_model(config, data, seed=0), data


def test_the_suggestion_trains_better_than_rates_far_from_it() -> None:
    model, data = world()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    found = hlvnn.find_lr(model, data, hlvnn.TrainConfig(batch_size=100))
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())
    assert torch.get_rng_state().equal(state)
    assert 1e-4 < found.suggestion < 0.1
    table = found.table
    assert (table["lr"].diff().dropna() > 0).all()
    assert "suggested: --lr" in str(found)
    losses = {}
    for factor in (0.01, 1.0, 100.0):
        own = copy.deepcopy(model)
        config = hlvnn.TrainConfig(batch_size=100, num_epochs=3, lr=found.suggestion * factor)
        losses[factor] = hlvnn.fit(own, data, config, lambda *_: None).history["train_nll"].min()
    assert losses[1.0] < losses[0.01]
    assert losses[1.0] < losses[100.0]
    figure = lr_figure(table, found.suggestion)
    assert figure.axes[0].get_xscale() == "log"


def test_it_ends_where_the_loss_blows_up() -> None:
    model, data = world()
    found = hlvnn.find_lr(model, data, hlvnn.TrainConfig(batch_size=100), largest=1e6, steps=80)
    assert len(found.table) < 80
    assert found.suggestion < 1


def test_a_range_that_is_none_is_refused() -> None:
    model, data = world()
    with pytest.raises(ConfigError, match=r"from 0\.1 to 0\.01 in 100 steps is no search"):
        hlvnn.find_lr(model, data, lowest=0.1, largest=0.01)
