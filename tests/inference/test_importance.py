"""Importance weights: bounds on the evidence beside exact ones, diagnostics beside ArviZ's."""

from __future__ import annotations

import logging
import math
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from arviz_stats.base import array_stats
from scipy import stats

import hlvnn
from hlvnn.data.grouped import GroupedDataset
from hlvnn.errors import ConfigError
from hlvnn.inference import importance
from hlvnn.inference.importance import (
    blocks_of,
    effective_sample_size,
    evidence,
    first_of,
    log_weights,
    pareto_k,
)
from hlvnn.inference.objective import full_elbo
from hlvnn.models.model import HierarchicalModel
from tests.helpers import grouped_data, latent, tiny_model

Fitted = tuple[HierarchicalModel, GroupedDataset]
featureless = pytest.mark.filterwarnings("ignore:Initializing zero-element")


@cache
def fitted(shared: Path, file: str, groups: tuple[str, ...], latents: tuple[str, ...]) -> Fitted:
    frame = pd.read_csv(shared / "data" / "grouped" / f"{file}.csv.gz")
    columns = {
        "Pastes": {"target": "strength", "features": []},
        "Penicillin": {"target": "diameter", "features": []},
        "cbpp": {"target": "incidence", "trials": "size", "features": ["period"]},
    }[file]
    if file == "cbpp":
        frame["period"] = frame["period"].astype(str)
    data = GroupedDataset.from_frame(frame, groups=groups, **columns)  # type: ignore[arg-type]
    config = hlvnn.ModelConfig(
        backbone="linear", latents=tuple(hlvnn.LatentConfig.from_text(text) for text in latents)
    )
    model = hlvnn.build_model(config, data, seed=0)
    train = hlvnn.TrainConfig(num_epochs=1000, batch_size=None, lr=0.05, eval_every=1000)
    hlvnn.fit(model, data, train)
    return model, data


CBPP = ("cbpp", ("herd",), ("bias@output level=herd prior=learned",))
EXACT = {
    "nested levels, one given the other": (
        "Pastes",
        ("sample", "batch"),
        (
            "bias@output level=sample prior=learned given=batch",
            "bias@output level=batch prior=learned",
        ),
        247.9945,
    ),
    "a nested prior": (
        "Pastes",
        ("sample", "batch"),
        (
            "bias@output level=sample prior=nested parent=batch",
            "- level=batch width=1 prior=learned",
        ),
        247.9945,
    ),
    "crossed levels, one joint": (
        "Penicillin",
        ("plate", "sample"),
        (
            "bias@output level=plate prior=learned given=sample",
            "bias@output level=sample prior=learned posterior=joint",
        ),
        332.1883,
    ),
}


@featureless
@pytest.mark.data
@pytest.mark.parametrize("name", EXACT)
def test_where_q_is_exact_every_weight_is_the_likelihood(name: str, shared: Path) -> None:
    file, groups, latents, criterion = EXACT[name]
    model, data = fitted(shared, file, groups, latents)
    found = evidence(model, data.train, 50)
    assert -2 * found.value == pytest.approx(criterion, abs=0.05)
    assert (found.blocks["ess"] > 0.99 * 50).all()
    assert found.standard_error < 0.02
    blocks = {"Pastes": 10, "Penicillin": 1}[file]
    assert len(found.blocks) == blocks
    assert found.blocks["rows"].sum() == len(data.train)


@pytest.mark.data
def test_the_bound_of_cbpp_is_that_of_quadrature(shared: Path) -> None:
    """−91.983 is lme4's −50.005 with the binomial constants."""
    model, data = fitted(shared, *CBPP)
    elbo = full_elbo(model, data.train).value
    bounds = [evidence(model, data.train, 1000, seed).value for seed in range(20)]
    print(f"\nELBO {elbo:.4f}, bound {np.mean(bounds):.4f} ± {np.std(bounds):.4f}")
    assert np.mean(bounds) == pytest.approx(-91.983, abs=0.01)
    assert np.mean(bounds) > elbo
    error = evidence(model, data.train, 1000, 0).standard_error
    assert error == pytest.approx(np.std(bounds), rel=0.5)


@pytest.mark.data
def test_one_draw_gives_the_elbo_and_more_draws_do_not_lower_it(shared: Path) -> None:
    model, data = fitted(shared, *CBPP)
    blocks = blocks_of(model, data.train)
    weights = log_weights(model, data.train, blocks.of_row, 4000)
    elbo = full_elbo(model, data.train).value
    ones = weights.sum(1)
    assert float(ones.mean()) == pytest.approx(elbo, abs=4 * float(ones.std()) / math.sqrt(4000))
    means = [
        float((weights.unflatten(0, (-1, s)).logsumexp(1) - math.log(s)).sum(1).mean())
        for s in (1, 2, 5, 20, 100)
    ]
    assert means == sorted(means)


@pytest.mark.data
def test_the_bound_does_not_depend_on_how_rows_are_packed(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = fitted(shared, *CBPP)
    whole = evidence(model, data.train, 400)
    monkeypatch.setattr(importance, "ROWS_AT_ONCE", 10)
    packed = evidence(model, data.train, 400)
    error = math.hypot(whole.standard_error, packed.standard_error)
    assert packed.value == pytest.approx(whole.value, abs=4 * error)
    assert packed.blocks["rows"].tolist() == whole.blocks["rows"].tolist()
    np.testing.assert_allclose(packed.blocks["bound"], whole.blocks["bound"], atol=0.05)


def test_blocks_are_the_top_groups_where_levels_are_nested() -> None:
    nested = grouped_data(levels=("writer", "school"))  # group g lies in g modulo 3
    entries = (latent("bias", "output", "writer"), latent("bias", "output", "school"))
    model = tiny_model(nested, latents=entries)
    found = blocks_of(model, nested.train)
    assert found.labels == [0, 1, 2]
    assert torch.equal(found.of_row, nested.train.groups[:, 1].long())
    lower = tiny_model(nested, latents=entries[:1])
    assert len(blocks_of(lower, nested.train).labels) == 6


def test_crossed_levels_are_one_block() -> None:
    data = grouped_data(levels=("writer", "school"))
    groups = data.train.groups.clone()
    groups[:3, 1] = torch.tensor([0, 1, 2])
    groups[:3, 0] = 0
    crossed = type(data.train)(data.train.x, groups, data.train.y)
    entries = (latent("bias", "output", "writer"), latent("bias", "output", "school"))
    found = blocks_of(tiny_model(data, latents=entries), crossed)
    assert found.labels == ["all"]
    assert found.of_row.unique().tolist() == [0]


def test_a_model_without_latents_has_its_likelihood_for_evidence() -> None:
    data = grouped_data(target="real")
    model = tiny_model(data)
    assert evidence(model, data.train, 3).value == pytest.approx(
        full_elbo(model, data.train).value, rel=1e-5
    )


def test_a_point_has_no_evidence() -> None:
    data = grouped_data()
    model = tiny_model(data, latent_config=("embedding",))
    with pytest.raises(ConfigError, match=r"writer concat@output: a point has no density"):
        evidence(model, data.train)


def test_the_first_row_of_each_group_is_found() -> None:
    assert first_of(torch.tensor([4, 2, 4, 2, 7])).tolist() == [1, 0, 4]


# diagnostics

LAWS = {
    "Pareto 0.4": stats.genpareto(0.4),
    "Pareto 0.9": stats.genpareto(0.9),
    "log-normal": stats.lognorm(1.0),
    "uniform": stats.uniform(0.1, 1),
}


@pytest.mark.parametrize("draws", [100, 225, 1000, 4000])
@pytest.mark.parametrize("name", LAWS)
def test_pareto_k_and_effective_sizes_are_arvizs(name: str, draws: int) -> None:
    log_weight = np.log(LAWS[name].rvs((draws, 3), random_state=draws))
    k = pareto_k(log_weight)
    for column in range(3):
        _, expected = array_stats.psislw(-log_weight[:, column])
        assert k[column] == pytest.approx(float(expected), rel=1e-6, abs=1e-6)
    weight = np.exp(log_weight - log_weight.max(0))
    weight /= weight.sum(0)
    expected_size = 1 / (weight**2).sum(0)
    got = effective_sample_size(torch.from_numpy(log_weight)).numpy()
    np.testing.assert_allclose(got, expected_size, rtol=1e-9)


def test_pareto_k_finds_the_shape() -> None:
    for shape in (0.2, 0.5, 0.8):
        weights = stats.genpareto(shape).rvs((40_000, 4), random_state=0)
        assert pareto_k(np.log(weights)).mean() == pytest.approx(shape, abs=0.07)


def test_too_few_draws_have_no_k_and_constant_weights_no_tail() -> None:
    assert np.isnan(pareto_k(np.zeros((24, 2)))).all()
    assert (pareto_k(np.zeros((1000, 2))) == -np.inf).all()


@pytest.mark.data
def test_a_posterior_far_off_is_told(shared: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, data = fitted(shared, *CBPP)
    with caplog.at_level(logging.WARNING, "hlvnn"):
        evidence(model, data.train, 1000)
        assert not caplog.records  # nearly equal weights
        (one,) = model.latents
        table = one.posterior.table
        kept = table.detach().clone()
        with torch.no_grad():
            table[:, 1] -= 2.0  # far too sure
        bad = evidence(model, data.train, 1000)
        with torch.no_grad():
            table.copy_(kept)
    assert "of 15 blocks have poor importance weights" in caplog.text
    assert (bad.blocks["pareto_k"] > 0.7).sum() > 5


def exact_logistic(y: np.ndarray, sd: float, grid: int = 4001) -> tuple[float, float]:
    """Return the posterior mean and SD of σ(z), z ~ N(0, sd²), given Bernoulli y: by a grid."""
    z = np.linspace(-12, 12, grid)
    p = 1 / (1 + np.exp(-z))
    log_density = stats.norm.logpdf(z, scale=sd) + y.sum() * np.log(p)
    log_density += (len(y) - y.sum()) * np.log1p(-p)
    weight = np.exp(log_density - log_density.max())
    weight /= weight.sum()
    mean = float((weight * p).sum())
    return mean, float(np.sqrt((weight * (p - mean) ** 2).sum()))


def skewed() -> Fitted:
    """A model with a poor q on purpose: its posteriors stay where they start."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(6), 8)
    y = rng.random(48) < np.repeat([0.02, 0.2, 0.5, 0.7, 0.95, 1.0], 8)
    frame = pd.DataFrame({"g": group, "y": y})
    data = GroupedDataset.from_frame(frame, target="y", features=[], groups=["g"])
    config = hlvnn.ModelConfig(
        backbone="linear",
        latents=(hlvnn.LatentConfig.from_text("bias@output level=g prior=standard"),),
    )
    model = hlvnn.build_model(config, data, seed=0)
    with torch.no_grad():
        model.backbone.output.bias.zero_()  # type: ignore[union-attr]
        (latent,) = model.latents
        latent.posterior.table[:, 0] = 0.3
        latent.posterior.table[:, 1] = 0.5  # the log of its SD: wider than the posterior
    return model, data


@featureless
def test_reweighted_predictions_follow_the_exact_posterior_and_not_q() -> None:
    model, data = skewed()
    frame = pd.DataFrame({"g": np.arange(6)})
    plain = hlvnn.predict(model, frame, num_samples=4000)
    weighted = hlvnn.predict(model, frame, num_samples=4000, reweight=data)
    y = data.train.y.numpy()
    for group in range(6):
        mean, sd = exact_logistic(y[data.train.groups[:, 0].numpy() == group], sd=1.0)
        row = weighted.loc[group]
        error = sd / math.sqrt(row["ess"])
        assert row["prob_True"] == pytest.approx(mean, abs=4 * error)
        assert row["sd_True"] == pytest.approx(sd, rel=0.08)
    assert abs(plain["prob_True"] - weighted["prob_True"]).max() > 0.1
    assert weighted["ess"].between(100, 4000).all()
    assert weighted["pareto_k"].lt(0.7).all()


@featureless
def test_reweighting_leaves_rows_of_unseen_groups_to_the_prior() -> None:
    model, data = skewed()
    frame = pd.DataFrame({"g": [0, 99, 5]}, index=["a", "b", "c"])
    table = hlvnn.predict(model, frame, num_samples=2000, reweight=data)
    assert list(table.index) == ["a", "b", "c"]
    assert table["ess"].isna().tolist() == [False, True, False]
    assert table.loc["b", "prob_True"] == pytest.approx(0.5, abs=0.02)


@featureless
def test_evaluation_takes_the_same_weights_as_prediction() -> None:
    model, data = skewed()
    table = hlvnn.predict(model, data.train, num_samples=500, seed=3, reweight=data.train)
    result = hlvnn.evaluate(model, data.train, 500, seed=3, reweight=data.train)
    of_y = np.where(data.train.y.numpy() == 1, table["prob_True"], table["prob_False"])
    assert result.scalars["loss"] == pytest.approx(-np.log(of_y).mean(), rel=1e-5)


@pytest.mark.data
@featureless
def test_two_levels_are_weighted_within_each_draw_of_the_upper_one(shared: Path) -> None:
    """Where q is the exact posterior, weights are equal and change nothing but the draws."""
    model, data = fitted(shared, *EXACT["nested levels, one given the other"][:3])
    table = hlvnn.predict(model, data.train, num_samples=900, reweight=data)
    plain = hlvnn.predict(model, data.train, num_samples=900)
    assert (table["ess"] / 900).min() > 0.97
    difference = (table["mean"] - plain["mean"]).abs() / plain["sd_mean"]
    assert difference.max() < 6 * math.sqrt(2 / 30)  # 30 draws of the upper level
