"""A mixture finds both explanations of data that have two, and keeps them afterwards."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
import torch

from hlvnn import TrainConfig, evaluate, fit, load_run
from hlvnn.config import run_config
from hlvnn.data.grouped import GroupedDataset, Split, TensorRows
from hlvnn.inference.objective import full_elbo
from hlvnn.inference.predict import predict
from hlvnn.models.build import build_model
from hlvnn.models.model import HierarchicalModel
from hlvnn.random import seeding
from hlvnn.training.execution import execute
from tests.helpers import (
    generator,
    grouped_data,
    latent,
    randomise,
    same_bits,
    small_config,
    tiny_model,
    write_folder,
)
from tests.latents.mixtures import GRID, STEP, mixed, whole

LOG_2 = math.log(2)
NOISE, MODE = 0.4, 1.5


def absolute_value(
    posterior: str, groups: int = 4, rows: int = 6, width: int = 1, **settings: object
) -> tuple[HierarchicalModel, GroupedDataset]:
    """Return a fixed network η = |z|, and y = 1.5 + noise: in each group z is near 1.5 or −1.5.

    Only the posteriors are left to be found.
    """
    group = torch.arange(groups).repeat_interleave(rows)[:, None].int()
    y = MODE + NOISE * torch.randn(groups * rows, generator=generator(1), dtype=torch.float64)
    base = grouped_data(sizes=(groups,), target="real", rows=6 * groups)
    data = GroupedDataset(base.schema, Split(TensorRows(torch.zeros(groups * rows, 4)), group, y))
    entry = latent("concat", "hidden1", width=width, posterior=posterior, **settings)
    config = small_config("mlp", latents=(entry,), hidden=(2,))
    model = build_model(config, data)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("posterior" in name)
    (placement,) = model.latents[0].entries()
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter.zero_()
        model.backbone.layers["output"].weight.fill_(1.0)
        for parameter in placement.parameters():
            parameter.copy_(torch.tensor([[1.0], [-1.0]]))
        model.likelihood.log_noise.fill_(math.log(NOISE))
        model.likelihood.center.zero_()
        model.likelihood.scale.fill_(1.0)
    return model, data


def log_evidence(model: HierarchicalModel, train: Split) -> float:
    """Return Σ_g log ∫ N(z; 0, 1) Π_i p(y_i | z) dz by quadrature."""
    batch = whole(train)
    (one,) = model.latents
    groups = batch.groups[:, 0].long()
    with torch.no_grad():
        z = GRID.float()[:, None].expand(-1, len(batch.y), 1)
        rows = model.likelihood.log_prob(model(batch.x, [z]), batch.y).double()
        joint = torch.zeros(len(GRID), one.posterior.num_groups, dtype=torch.float64)
        joint.index_add_(1, groups, rows)
        joint += one.prior().log_prob(GRID.float()).double()[:, None]
        return float((joint.logsumexp(0) + math.log(STEP)).sum())


def fitted(
    posterior: str, batch_size: int | None = None, **settings: object
) -> tuple[HierarchicalModel, float, float, float]:
    """Return the fitted model, its ELBO with the error, and the log evidence."""
    model, data = absolute_value(posterior, **settings)
    epochs, lr = (300, 0.05) if batch_size is None else (100, 0.01)
    config = TrainConfig(num_epochs=epochs, batch_size=batch_size, lr=lr, eval_every=epochs)
    fit(model, data, config, seed=3)
    elbo = full_elbo(model, data.train, num_samples=2000)
    return model, elbo.value, elbo.standard_error, log_evidence(model, data.train)


# fits


@pytest.mark.parametrize(("components", "batch_size"), [(2, None), (2, 8), (3, None)])
def test_a_mixture_finds_both_explanations_and_gains_log_two_a_group(
    components: int, batch_size: int | None
) -> None:
    model, value, error, evidence = fitted("mixture", batch_size, components=components)
    _, single, single_error, same = fitted("mean_field", batch_size)
    groups = model.latents[0].posterior.num_groups
    assert evidence == pytest.approx(same)
    assert value < evidence + 4 * error
    assert single < evidence + 4 * single_error
    assert error < 0.1
    assert value > evidence - 0.1 * groups, "the mixture is all but exact"
    assert value - single > 0.8 * groups * LOG_2
    law = model.latents[0].posterior(torch.arange(groups))
    with torch.no_grad():
        right = (law.log_prob(GRID.float()[:, None]).exp() * (GRID[:, None, 0] > 0)).sum(0) * STEP
    assert right.tolist() == pytest.approx([0.5] * groups, abs=0.1)


# what comes after a fit


def test_prediction_averages_over_both_explanations() -> None:
    model, _, _, _ = fitted("mixture")
    data = absolute_value("mixture")[1]
    table = predict(model, data.train, num_samples=400)
    assert table["mean"].to_numpy() == pytest.approx(MODE, abs=0.4)
    assert table["sd"].to_numpy() == pytest.approx(NOISE, rel=0.3)
    scores = evaluate(model, data.train, 100).scalars
    assert scores["mse"] == pytest.approx(NOISE**2, rel=0.4)
    assert len(evaluate(model, data.train, 5).groups) == 4


def test_the_posterior_table_has_the_mixtures_mean_and_sd() -> None:
    model = tiny_model(grouped_data(), latents=(mixed(width=2),))
    randomise(model.latents, 0.7)
    table = model.posterior("writer")
    law = model.latents[0].posterior(torch.arange(6))
    with torch.no_grad():
        rows = model.latents.at(torch.arange(6)[:, None], unseen=False)
        with seeding(0):
            (z,) = model.latents.sample(rows, 100_000)
    for k in range(2):
        mean, sd = table[f"mean_z{k + 1}"].to_numpy(), table[f"sd_z{k + 1}"].to_numpy()
        assert mean == pytest.approx(law.mean[:, k].detach().numpy(), rel=1e-5)
        assert sd == pytest.approx(law.stddev[:, k].detach().numpy(), rel=1e-5)
        assert z[:, :, k].mean(0).numpy() == pytest.approx(mean, abs=0.02)
        assert z[:, :, k].std(0).numpy() == pytest.approx(sd, rel=0.02)


def test_the_posterior_of_a_mixture_over_epsilon_is_that_of_z() -> None:
    data = grouped_data()
    one = mixed(prior="learned", centred=False)
    model = tiny_model(data, latents=(one,)).eval()
    groups = torch.arange(6)[:, None]
    with torch.no_grad(), seeding(0):
        rows = model.latents.at(groups, unseen=False)
        (z,) = model.latents.sample(rows, 40_000)
        mean, sd = model.latents.marginal(0)
    assert ((z.mean(0) - mean).abs() < 5 * sd / 200).all()
    torch.testing.assert_close(z.std(0), sd, rtol=0.03, atol=0)


def test_a_run_with_a_mixture_is_saved_loaded_and_predicts_the_same(tmp_path: Path) -> None:
    settings = {
        "dataset": "tiny",
        "data_dir": write_folder(tmp_path / "data"),
        "channels": [2, 3],
        "hidden": [4],
        "latents": ["concat@output level=gid width=2 posterior=mixture components=3"],
        "num_epochs": 2,
        "batch_size": 16,
        "eval_samples": 3,
        "device": "cpu",
    }
    folder = tmp_path / "run"
    kept: list[int] = []
    result = execute(run_config(settings, "test"), folder, report=lambda e: kept.append(e.epoch))
    again = load_run(folder)
    assert kept == [1, 2]
    assert again.model.latents[0].posterior.strata == 3
    assert full_elbo(again.model, again.data.train).value == result.elbo
    assert result.elbo_error > 0
    other = load_run(folder)
    assert same_bits(again.model, other.model)
    pd.testing.assert_frame_equal(
        predict(again.model, again.data.test, seed=1), predict(other.model, again.data.test, seed=1)
    )
