"""A generalised mixed model's fit: that it is the ELBO's maximum, and what it says of itself."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from hlvnn.config import ModelConfig
from hlvnn.data.grouped import GroupedDataset
from hlvnn.inference.objective import full_elbo
from hlvnn.models.build import build_model
from hlvnn.models.model import HierarchicalModel
from hlvnn.training.loop import Checkpoint, FitResult, fit
from tests.helpers import same_bits
from tests.training.fits import saved, train
from tests.truths.test_groups_by_themselves import FEATURES, KINDS, planted

CROSSED = ("bias@output level=g", "weights@output:columns=x0 level=h")


def world(kind: str) -> GroupedDataset:
    frame = planted(kind, torch.arange(2, 12).repeat(6).numpy(), 0.7)
    frame["h"] = [f"h{place % 7}" for place in range(len(frame))]
    return GroupedDataset.from_frame(frame, "y", FEATURES, ["g", "h"], target_kind=KINDS[kind])


def fitted(
    data: GroupedDataset, kind: str, *latents: str, **settings: Any
) -> tuple[HierarchicalModel, FitResult]:
    config = ModelConfig(backbone="linear", likelihood=kind, latents=latents)
    model = build_model(config, data, seed=0)
    return model, fit(model, data, train(num_epochs=7, **settings), lambda *_: None)


@pytest.mark.parametrize("kind", ["bernoulli", "poisson"])
def test_no_change_of_a_parameter_raises_the_elbo(kind: str) -> None:
    data = world(kind)
    model, result = fitted(data, kind, *CROSSED)
    assert (result.epochs, result.elbo_error) == (1, 0)
    assert result.newton_gain < 1e-3
    draws = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        for size in (0.03, -0.03):
            before = parameter.detach().clone()
            with torch.no_grad():
                parameter.add_(size * torch.randn(parameter.shape, generator=draws))
            assert full_elbo(model, data.train).value < result.elbo + 1e-3, name
            with torch.no_grad():
                parameter.copy_(before)
    assert full_elbo(model, data.train).value == pytest.approx(result.elbo, abs=1e-4)


def test_one_that_has_ended_does_not_go_on(caplog: pytest.LogCaptureFixture) -> None:
    data = world("bernoulli")
    kept: list[Checkpoint] = []
    config = ModelConfig(backbone="linear", likelihood="bernoulli", latents=CROSSED[:1])
    model = build_model(config, data, seed=0)
    with caplog.at_level(logging.INFO, logger="hlvnn"):
        fit(model, data, train(), lambda _, checkpoint: kept.append(saved(checkpoint())))
    assert any(
        line.startswith("fitted all at once, as a generalised linear mixed model: its ELBO's")
        for line in caplog.messages
    )
    again = build_model(config, data, seed=0)
    result = fit(again, data, train(), lambda *_: None, resume=kept[0])
    assert result.epochs == 1
    assert same_bits(model, again)


def test_it_says_why_it_is_fitted_by_minibatches(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="hlvnn"):
        _, result = fitted(world("poisson"), "poisson", CROSSED[0], kl_weight=0.5)
    assert result.epochs == 7
    line = "fitted by minibatches and not all at once: --kl-weight 0.5 is not 1.0"
    assert line in caplog.messages
