"""A model with latents and one without, same seed: they differ by the latents and nothing else."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hlvnn.config import TrainConfig
from hlvnn.data.batches import Batches
from hlvnn.data.grouped import GroupedDataset
from hlvnn.errors import ConfigError
from hlvnn.models.build import build_model
from hlvnn.models.model import HierarchicalModel
from hlvnn.models.named import STRUCTURES
from hlvnn.training.cuda_graph import RecordedSteps
from hlvnn.training.loop import Checkpoint, fit
from hlvnn.training.step import Step
from tests.helpers import BACKBONES, POSTERIORS, data_for, generator, grouped_data, small_config
from tests.training.fits import saved


def backbone_of(model: HierarchicalModel) -> dict[str, Tensor]:
    return model.backbone.state_dict()


def settings(backbone: str) -> dict[str, Any]:
    return {} if backbone == "linear" else {"dropout": 0.3}


def fitted(
    data: GroupedDataset, config: dict[str, Any], train: dict[str, Any], *, silent: bool = False
) -> tuple[HierarchicalModel, Checkpoint]:
    """Fit a model with seed 5; silent: its latents' matrices are held at 0."""
    model = build_model(small_config(**{"z_dim": 2, **config}), data, seed=5)
    for latent in model.latents if silent else ():
        for matrix in latent.placements.parameters():
            nn.init.zeros_(matrix).requires_grad_(False)
    kept: list[Checkpoint] = []
    train = {"num_epochs": 3, "batch_size": 10, "lr": 0.01, "device": "cpu", **train}
    fit(model, data, TrainConfig(**train), lambda _, now: kept.append(saved(now())), seed=5)
    return model, kept[-1]


def test_the_weights_of_the_network_start_where_the_pooled_networks_do() -> None:
    for backbone in BACKBONES:
        data = data_for(backbone, levels=("writer", "site"))
        pooled = build_model(small_config(backbone), data, seed=7).state_dict()
        structures = ("bias", "weights", "basis") if backbone == "linear" else STRUCTURES
        for structure in structures:
            try:
                config = small_config(backbone, latent_config=structure, z_dim=2)
                model = build_model(config, data, seed=7)
            except ConfigError:  # a structure of other backbones
                continue
            found = model.state_dict()
            common = [name for name in pooled if name.startswith(("backbone.", "likelihood."))]
            assert common
            assert all(torch.equal(found[name], pooled[name]) for name in common), structure


@pytest.mark.parametrize(
    ("backbone", "structure"),
    [("mlp", "factor"), ("mlp", "film"), ("cnn", "factor"), ("cnn", "film"), ("lstm", "factor")],
)
def test_latents_without_effect_leave_the_pooled_network(backbone: str, structure: str) -> None:
    kind = {"lstm": "tokens"}.get(backbone, "image")
    data = grouped_data(kind, rows=60)
    train = {"augment": 1.0} if kind == "image" else {}
    pooled, at_end = fitted(data, {"backbone": backbone, **settings(backbone)}, train)
    how = {"backbone": backbone, "latent_config": structure, **settings(backbone)}
    latent, also = fitted(data, how, train, silent=True)
    assert float(latent.latents[0].posterior.table.detach().std()) > 0
    assert torch.equal(at_end["random"], also["random"])
    for name, value in backbone_of(pooled).items():
        assert torch.equal(value, backbone_of(latent)[name]), name


@pytest.mark.parametrize("posterior", [*POSTERIORS, "amortised"])
def test_no_posterior_draws_from_the_stream_of_dropout_and_order(posterior: str) -> None:
    data = grouped_data("image", rows=60)
    train = {"augment": 0.5, "num_epochs": 2}
    common = {"backbone": "mlp", "dropout": 0.3}
    _, pooled = fitted(data, common, train)
    _, latent = fitted(data, {**common, "latent_config": "factor", "posterior": posterior}, train)
    for stream in ("order", "random"):
        assert torch.equal(pooled[stream], latent[stream])
    moved = not torch.equal(pooled["noise"], latent["noise"])
    assert moved == (posterior != "point")


def test_a_checkpoint_of_before_goes_on_with_a_stream_from_the_seed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    data = grouped_data(rows=60)
    config, train = {"latent_config": "factor"}, {"num_epochs": 2}
    _, checkpoint = fitted(data, config, train)
    del checkpoint["noise"]
    checkpoint["epoch"], checkpoint["step"] = 1, checkpoint["step"] // 2
    model = build_model(small_config(z_dim=2, **config), data, seed=5)
    again = TrainConfig(num_epochs=2, batch_size=10, lr=0.01, device="cpu")
    with caplog.at_level(logging.INFO, logger="hlvnn"):
        result = fit(model, data, again, resume=checkpoint, seed=5)
    assert result.epochs == 2
    assert "it begins anew, from the seed" in caplog.text


def test_a_recorded_step_knows_the_stream_that_it_draws_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The recording is a stand-in: what it is told before it begins is what counts."""
    from hlvnn.random import Noise

    told: list[Any] = []

    class Graph:
        def register_generator_state(self, generator: torch.Generator) -> None:
            told.append(generator)

    class Recording:
        def __init__(self, graph: Graph, **_: object) -> None:
            told.append("recording")

        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", Recording)
    data = grouped_data(rows=60)
    model = build_model(small_config(latent_config="factor", z_dim=2), data)
    batches = Batches(data.train, 10, generator=generator())
    recorded = RecordedSteps(Step(model, TrainConfig(), None, len(batches)), batches)
    recorded.begin(batches.order(), 0)
    noise = Noise(1)
    with model.latents.source.using(noise):
        recorded._record(False, 1)
    assert told == [noise.generators["cpu"], "recording"]


def test_a_law_that_only_torch_can_draw_is_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = grouped_data(rows=60)
    model = build_model(small_config(latent_config="factor", z_dim=2), data)
    batches = Batches(data.train, 10, generator=generator())
    step = Step(model, TrainConfig(), None, len(batches))
    assert RecordedSteps.is_possible(step, batches)
    monkeypatch.setattr(type(model.latents[0].posterior), "normal", False)
    assert not RecordedSteps.is_possible(step, batches)
