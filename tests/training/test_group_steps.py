"""Steps of the groups: when they are taken, where they begin, what a second fit begins with."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from hlvnn.config import ModelConfig, TrainConfig
from hlvnn.data.batches import Batch
from hlvnn.data.grouped import GroupedDataset
from hlvnn.inference.objective import batch_loss
from hlvnn.latents.posteriors.base import POSTERIOR_START
from hlvnn.models.build import build_model
from hlvnn.models.model import HierarchicalModel
from hlvnn.training.group_steps import LEAST_MOVES, GroupSteps
from hlvnn.training.loop import fit
from hlvnn.training.pace import Pace
from tests.helpers import grouped_data, randomise, small_config
from tests.training.fits import LEVELS, train
from tests.truths.test_groups_by_themselves import planted

WHOLE = Pace(1.0, 1.0, 1.0, 1.0, 0.0)


def planted_scales(groups: int = 60, rows: int = 60) -> GroupedDataset:
    """Return counts whose rate's slopes a group multiplies, which `film` can find."""
    frame = planted("poisson", np.full(groups, rows), 0.0)
    draws = np.random.default_rng(1)
    slope = 0.6 * draws.normal(size=groups)[frame["g"]]
    frame["y"] = draws.poisson(np.exp(slope * frame["x0"] + 0.5 * frame["x1"]))
    return GroupedDataset.from_frame(
        frame, target="y", features=[f"x{n}" for n in range(5)], groups=["g"], target_kind="count"
    )


def test_a_fit_that_is_not_done_says_so_in_a_line(caplog: pytest.LogCaptureFixture) -> None:
    frame = planted("gaussian", np.full(400, 3), 0.8, 0.7)
    data = GroupedDataset.from_frame(
        frame, target="y", features=[f"x{n}" for n in range(5)], groups=["g"]
    )
    model = build_model(ModelConfig(backbone="mlp", latent_config="bias"), data, seed=0)
    with caplog.at_level(logging.INFO, "hlvnn"):
        result = fit(model, data, TrainConfig(num_epochs=2, device="cpu"))
    assert result.newton_gain > 0.01
    assert f"would gain {result.newton_gain:.2g} nats more" in caplog.text


def test_a_second_fit_goes_on_with_what_the_groups_are() -> None:
    data = planted_scales()
    config = ModelConfig(backbone="mlp", likelihood="poisson", latent_config="film", z_dim=2)
    model = build_model(config, data, seed=0)
    settings = TrainConfig(num_epochs=10, batch_size=32, lr=3e-3, device="cpu")
    fit(model, data, settings)
    [one] = model.latents
    found, sd = one.posterior.table[:, :2].clone(), one.prior().stddev.detach().clone()
    assert found.abs().max() > 0.2
    fit(model, data, settings.model_copy(update={"num_epochs": 1, "lr": 1e-4}))
    again, now = one.posterior.table[:, :2].detach(), one.prior().stddev.detach()
    size = found.square().sum().sqrt()
    assert (again - found).square().sum().sqrt() < 0.5 * size
    torch.testing.assert_close(now.max(), sd.max(), rtol=0.3, atol=0.0)


@pytest.mark.parametrize("prior", ["standard", "learned"])
def test_a_latent_that_waits_costs_nothing(prior: str) -> None:
    data = grouped_data(levels=LEVELS, rows=50)
    config = small_config("mlp", latent_config="film", z_dim=2, prior=prior)
    rows: list[dict[str, float]] = []
    fit(
        build_model(config, data, seed=1),
        data,
        train(prior_warmup=0.5),
        lambda now, _: rows.append(now.row),
    )
    of_kl = [name for name in rows[0] if name.startswith("kl_") and name != "kl_weight"]
    assert len(of_kl) == 2
    for name in of_kl:
        assert rows[0][name] == pytest.approx(0, abs=1e-3)
        assert rows[1][name] == pytest.approx(0, abs=1e-3)
        assert rows[3][name] > 0


@pytest.mark.parametrize("objective", ["elbo", "iwae"])
def test_adam_begins_with_narrow_laws_and_natural_steps_with_the_priors(objective: str) -> None:
    data = grouped_data(levels=LEVELS, rows=50)
    model = build_model(small_config("mlp", latent_config="bias"), data, seed=1)
    own = GroupSteps(model, 4, 0.0, bound=objective == "iwae")
    assert len(own.steps) == (0 if objective == "iwae" else 2)
    for one in model.latents:
        share = POSTERIOR_START if objective == "iwae" else 1.0
        law = one.posterior(torch.tensor([0]))
        torch.testing.assert_close(law.stddev[0], share * one.prior().stddev)


def step(
    model: HierarchicalModel,
    own: GroupSteps,
    batch: Batch,
    pace: Pace = WHOLE,
    *,
    warming: bool = False,
) -> None:
    own.watch(batch.groups)
    for parameter in model.backbone.parameters():
        parameter.grad = None
    batch_loss(model, batch, 1.0, 1).loss.backward()
    own.move(float(len(batch.y)), 1.0, pace, warming=warming)


def batches(data: GroupedDataset, size: int) -> list[Batch]:
    rows = torch.arange(len(data.train))
    train = data.train
    return [
        Batch(train.x.take(part), train.groups[part], train.y[part], part)
        for part in rows.split(size)
    ]


def test_a_few_batches_of_a_long_epoch_are_one_to_the_groups() -> None:
    """The network being held, they are the same to the last digits as one batch of their rows."""
    data = grouped_data("features", sizes=(5,), target="real", rows=24)
    tables = []
    for size, per_epoch in ((6, 4 * LEAST_MOVES), (24, LEAST_MOVES)):
        config = small_config("mlp", latent_config="bias", posterior="mean_field")
        model = build_model(config, data, seed=1)
        own = GroupSteps(model, per_epoch, 0.0, bound=False)
        parts = batches(data, size)
        [one] = model.latents
        start = one.posterior.table.clone()
        for number, part in enumerate(parts, 1):
            step(model, own, part, WHOLE._replace(priors=0.02))  # no size steps that are cut
            assert one.posterior.table.equal(start) == (number < len(parts))
        tables.append(one.posterior.in_size(one.posterior.table, own.steps[0].size)[:, 0])
    torch.testing.assert_close(tables[0], tables[1], rtol=1e-4, atol=1e-6)


def test_nothing_is_left_for_the_next_epoch() -> None:
    data = grouped_data("features", sizes=(5,), target="real", rows=41)
    model = build_model(small_config("mlp", latent_config="bias"), data, seed=1)
    own = GroupSteps(model, 41, 0.0, bound=False)
    for part in batches(data, 1):
        step(model, own, part)
    assert own.batches == 0
    assert not own.steps[0].kept
    assert all(parameter.grad is None for parameter in own.parameters)
    torch.testing.assert_close(own.steps[0].seen, own.steps[0].counts)


@pytest.mark.parametrize("sized", [False, True])
@pytest.mark.parametrize("structure", ["bias", "factor", "weights"])
def test_what_all_groups_share_is_the_outputs_and_predicts_as_before(
    structure: str, sized: bool
) -> None:
    data = grouped_data("features", sizes=(5,), target="real", rows=40)
    config = small_config("mlp", latent_config=structure, posterior="mean_field")
    model = randomise(build_model(config, data, seed=1))
    own = GroupSteps(model, 10, 0.0, bound=False)
    [one], bias = own.steps, model.backbone.output_bias()
    if sized:
        one.q.size = one.size.fill_(1.5)
    assert bias is not None
    before, batch = bias.detach().clone(), batches(data, 40)[0]

    def predicted() -> torch.Tensor:
        rows = model.latents.at(batch.groups, unseen=False)
        return model(batch.x, [mean[None] for mean, _ in model.latents.moments(rows)])

    expected = predicted()
    own.recentre()
    assert not torch.equal(bias, before)
    torch.testing.assert_close(predicted(), expected, rtol=1e-4, atol=1e-4)
    common = one.q.table[:, : 1 if structure == "weights" else one.latent.width]  # slopes stay
    torch.testing.assert_close(common.mean(0).abs().max(), torch.tensor(0.0))
