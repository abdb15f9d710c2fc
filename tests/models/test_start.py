"""Where an untrained model starts: at the marginal law of y, with latents and without."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from hlvnn import TrainConfig, build_model, fit
from hlvnn.backbones.base import Backbone
from hlvnn.data.grouped import GroupedDataset
from hlvnn.latents.latent_set import LatentSet
from hlvnn.models.model import HierarchicalModel
from hlvnn.stages import Enter, Stage, untouched
from tests.helpers import BACKBONES, LIKELIHOODS, data_for, likelihood_class, small_config
from tests.likelihoods.making import make, targets

SHARES = torch.tensor([0.78, 0.15, 0.05, 0.02, 0.0])
"""Of the classes, skewed as letters of a text are; one never occurs."""


def skewed(data: GroupedDataset) -> GroupedDataset:
    """Return the data with other classes, which nothing tells."""
    train = data.train
    counts = (SHARES * len(train)).round().long()
    y = torch.arange(len(SHARES)).repeat_interleave(counts)
    y = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(0))]
    assert len(y) == len(train)
    return replace(data, train=replace(train, y=y))


def frequencies(y: Tensor) -> Tensor:
    rows = torch.bincount(y, minlength=len(SHARES)) + 0.5
    return rows / rows.sum()


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_the_start_is_where_the_targets_alone_put_the_predictor(name: str) -> None:
    likelihood = make(name)
    y = targets(likelihood).repeat_interleave(1000, 0)  # beside which half a row counts nothing
    likelihood.observe(y)
    start = likelihood.start(y)
    assert start.shape == (likelihood.num_outputs,)

    def fits(eta: Tensor) -> float:
        with torch.no_grad():
            log_prob: Tensor = likelihood.log_prob(eta.float().expand(len(y), -1), y)
        return float(log_prob.double().sum())

    for step in torch.eye(likelihood.num_outputs) * 0.05:
        assert fits(start) > max(fits(start + step), fits(start - step))


@pytest.mark.parametrize("name", ["categorical", "bernoulli", "binomial"])
def test_a_start_is_finite_where_a_class_never_occurs(name: str) -> None:
    cls = likelihood_class(name)
    likelihood = cls(2 if cls.target == "class" else None)
    never = torch.zeros(9, dtype=torch.int64)
    y = torch.stack([never, never + 2], dim=1).double() if likelihood.counts_trials else never
    start = likelihood.start(y)
    p = start.softmax(0)[1] if name == "categorical" else start.sigmoid()[0]
    assert float(p) == pytest.approx(0.5 / (10 if name != "binomial" else 19))


@pytest.mark.parametrize("structure", ["none", "factor"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_an_untrained_model_predicts_the_frequencies(backbone: str, structure: str) -> None:
    data = skewed(data_for(backbone, rows=100))
    if backbone == "linear":
        structure = {"factor": "bias"}.get(structure, structure)
    config = small_config(backbone, latent_config=structure, likelihood="categorical")
    model = build_model(config, data).eval()
    with torch.no_grad():
        z = [torch.zeros(1, len(data.train), latent.width) for latent in model.latents]
        mean = model(data.train.x.all(), z)[0].softmax(-1).mean(0)
    expected = frequencies(data.train.y)
    bias = model.backbone.output_bias()
    assert bias is not None
    assert torch.allclose(bias, expected.log())
    close = 1e-6 if backbone == "linear" else 0.1  # the other weights start at random
    assert torch.allclose(mean, expected, atol=close)


def test_a_fit_begins_at_the_entropy_of_the_classes() -> None:
    data = skewed(data_for("lstm", rows=100))
    model = build_model(small_config("lstm"), data)
    entropy = float(torch.special.entr(SHARES).sum())
    row = fit(model, data, TrainConfig(num_epochs=1, lr=1e-4, batch_size=20)).history.iloc[0]
    assert row["train_nll"] == pytest.approx(entropy, abs=0.15) != math.log(len(SHARES))


class Own(Backbone):
    """Somebody's network, whose output has no bias, or another name."""

    x_kinds = frozenset({"features"})

    def __init__(self, last: nn.Module, name: str) -> None:
        super().__init__()
        self.add_module(name, last)
        self.last = name
        self.stages = {"output": Stage("output", "dense", 4, 5)}

    def forward(self, x: Tensor, enter: Enter = untouched) -> Tensor:
        return enter("output", x, self.get_submodule(self.last)(x))


@pytest.mark.parametrize(
    ("last", "name"), [(nn.Linear(4, 5, bias=False), "output"), (nn.Linear(4, 5), "head")]
)
def test_an_output_without_a_bias_is_left_alone(last: nn.Module, name: str) -> None:
    data = skewed(data_for("mlp", rows=100))
    before = {key: value.clone() for key, value in last.state_dict().items()}
    likelihood = likelihood_class("categorical")(5)
    model = HierarchicalModel(Own(last, name), LatentSet([], [6]), likelihood, data.schema)
    model.observe(data)
    assert model.backbone.output_bias() is None
    assert all(torch.equal(last.state_dict()[key], value) for key, value in before.items())
