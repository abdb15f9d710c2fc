"""Norms of gradients and the size of a step, against what a single step makes of planted data."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from hlvnn.columns import GRADIENTS, STEP_SIZE
from hlvnn.config import TrainConfig
from hlvnn.data.batches import Batch
from hlvnn.inference.objective import batch_loss
from hlvnn.models.build import build_model
from hlvnn.training.loop import fit
from tests.helpers import grouped_data, small_config


def norm(tensors: list[torch.Tensor | None]) -> float:
    return math.sqrt(
        sum(float(t.detach().double().square().sum()) for t in tensors if t is not None)
    )


def test_they_are_those_of_the_batchs_mean_loss_and_of_adams_first_step() -> None:
    """In Adam's first step every weight that has a gradient goes as far as the learning rate."""
    data = grouped_data("features", sizes=(5,), target="real", rows=40)
    model = build_model(small_config("mlp", latent_config="bias"), data, seed=1)
    start = copy.deepcopy(model).train()
    rows = torch.arange(len(data.train))
    batch = Batch(data.train.x.take(rows), data.train.groups, data.train.y, rows)
    batch_loss(start, batch, 1.0, 1).loss.backward()
    network = list(start.backbone.parameters())
    config = TrainConfig(
        num_epochs=1, batch_size=None, lr=1e-3, lr_schedule="constant", grad_norms=True
    )
    row = fit(model, data, config, lambda *_: None, seed=3).history.iloc[0]
    assert row["grad_network"] == pytest.approx(norm([p.grad for p in network]), rel=1e-5)
    prior = [p.grad for x in start.latents for p in x.prior.parameters()]
    prior += [p.grad for p in start.likelihood.parameters()]
    assert row["grad_priors"] == pytest.approx(norm(prior), rel=1e-5)
    assert row["grad_posteriors"] > 0
    assert row["grad_loadings"] == 0, "a bias passes nothing on its way"
    moved = sum(int((p.grad != 0).sum()) for p in network if p.grad is not None)
    expected = 1e-3 * math.sqrt(moved) / norm(network)
    assert row[STEP_SIZE] == pytest.approx(expected, rel=1e-3)


def test_they_change_nothing_and_stand_in_the_history_alone_where_they_are_asked_for() -> None:
    data = grouped_data("features", sizes=(5,), target="class", rows=40)
    histories, weights = [], []
    for wanted in (False, True):
        model = build_model(small_config("mlp", latent_config="film", z_dim=2), data, seed=1)
        config = TrainConfig(num_epochs=3, batch_size=16, grad_norms=wanted, clip_grad=0.1)
        histories.append(fit(model, data, config, lambda *_: None).history)
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert weights[0].equal(weights[1])
    named = {*GRADIENTS, STEP_SIZE}
    assert not named & set(histories[0])
    assert named <= set(histories[1])
    assert (histories[1][list(named)] >= 0).all(axis=None)
    assert (histories[1]["grad_network"] > 0.1).any(), "measured before they are clipped"
    assert (histories[1]["grad_loadings"] > 0).any()
