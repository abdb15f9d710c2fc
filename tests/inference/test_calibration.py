"""Calibration of real targets and counts: the transform, coverage, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from hlvnn.data.grouped import GroupedDataset, Level, Schema, Split, Target, TensorRows
from hlvnn.errors import ConfigError, DataError
from hlvnn.inference import calibration
from hlvnn.inference.predict import predict
from hlvnn.models.model import HierarchicalModel
from tests.helpers import generator, latent, tiny_model, uneven_groups
from tests.inference.calibrated import LEVELS, class_case, drawn_from, with_targets

pytestmark = pytest.mark.filterwarnings("ignore:Initializing zero-element")

REAL = ("gaussian", "poisson", "binomial")


def counted_data(likelihood: str, rows: int = 400, groups: int = 8) -> GroupedDataset:
    """Return data of two levels whose y the likelihood can have; half the rows are the test's."""
    random = generator(3)
    splits = []
    for seed in (0, 1):
        lowest = uneven_groups(rows, groups, seed)
        x = TensorRows(torch.randn(rows, 2, generator=random))
        if likelihood == "gaussian":
            y = 40 + 7 * torch.randn(rows, generator=random, dtype=torch.float64)
        else:
            y = torch.randint(0, 6, (rows,), generator=random).double()
        if likelihood == "binomial":
            y = torch.stack([y, y + torch.randint(1, 9, (rows,), generator=random)], dim=1)
        splits.append(Split(x, torch.stack([lowest, lowest % 3], dim=1).int(), y))
    target = Target("y", "real", trials="size" if likelihood == "binomial" else None)
    levels = (Level("character", groups), Level("play", 3, ("Hamlet", "Lear", "Timon")))
    schema = Schema(levels=levels, x_kind="features", x_shape=(2,), target=target)
    return GroupedDataset(schema, splits[0], test=splits[1])


def linear(data: GroupedDataset, likelihood: str, **settings: object) -> HierarchicalModel:
    entries = (
        latent("bias", "output", "character", prior="learned"),
        latent("weights", "output", "play"),
    )
    return tiny_model(data, "linear", latents=entries, likelihood=likelihood, **settings)


# the transform


@pytest.mark.parametrize("name", REAL)
def test_targets_drawn_from_the_model_have_a_uniform_transform(name: str) -> None:
    data = counted_data(name, rows=2000)
    model = linear(data, name)
    pvalues = []
    for seed in range(5, 10):
        split = drawn_from(model, data.test, seed)
        values = calibration.pit(model, split)
        assert values.shape == (2000,)
        pvalues.append(stats.kstest(values, "uniform").pvalue)
    assert len(pvalues) * min(pvalues) > 0.01, "Bonferroni's, over five sets of targets"
    row = calibration.coverage(model, split).iloc[0]
    for interval in calibration.INTERVALS:
        error = math.sqrt(interval * (1 - interval) / 2000)
        assert abs(row[f"coverage_{100 * interval:g}"] - interval) < 4 * error


def test_the_gaussian_transform_is_that_of_the_closed_form() -> None:
    """A linear predictor is normal under q, so y is: N(m, s² + σ²)."""
    data = counted_data("gaussian")
    model = linear(data, "gaussian")
    with torch.no_grad():
        rows = model.latents.at(data.test.groups, unseen=False)
        mean, variance = (
            part.squeeze(-1).double().numpy()
            for part in model.predictor_moments(data.test.x.all(), rows)
        )
    center, scale = model.likelihood.units()
    sd = np.sqrt(scale**2 * variance + model.likelihood.noise_sd() ** 2)
    exact = stats.norm.cdf(data.test.y.numpy(), center + scale * mean, sd)
    ours = calibration.pit(model, data.test, num_samples=4000)
    np.testing.assert_allclose(ours, exact, atol=0.03)
    assert np.abs(ours - exact).mean() < 0.005


@pytest.mark.parametrize("name", ["poisson", "binomial"])
def test_counts_lie_between_their_distribution_function_and_the_count_before(name: str) -> None:
    """A point for z has one law, which scipy knows."""
    data = counted_data(name)
    entry = latent("bias", "output", "character", posterior="point", prior="none")
    model = tiny_model(data, "linear", latents=(entry,), likelihood=name)
    split = data.test
    mean = predict(model, split)["mean"].to_numpy()
    if name == "poisson":
        y, law = split.y.numpy(), stats.poisson(mean)
    else:
        y, law = split.y[:, 0].numpy(), stats.binom(split.y[:, 1].numpy(), mean)
    below, up_to = law.cdf(y - 1), law.cdf(y)
    where = np.random.default_rng(7).random(len(y))
    ours = calibration.pit(model, split, seed=7)
    np.testing.assert_allclose(ours, below + where * (up_to - below), atol=1e-6)
    assert (below == 0).any()  # counts of 0 occur


def test_the_transform_averages_probabilities_not_predictors() -> None:
    data = counted_data("poisson")
    model = linear(data, "poisson")
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(2)
        rows = model.latents.at(data.test.groups, unseen=True)
        rate = model.likelihood(
            model(data.test.x.all(), model.latents.sample_mirrored(rows, 9))
        ).mean
    y = data.test.y.numpy()
    below, up_to = (stats.poisson.cdf(at, rate.numpy()).mean(0) for at in (y - 1, y))
    where = np.random.default_rng(2).random(len(y))
    expected = below + where * (up_to - below)
    ours = calibration.pit(model, data.test, num_samples=9, seed=2)
    np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_the_seed_says_all_and_the_callers_stream_is_left_alone() -> None:
    data = counted_data("poisson")
    model = linear(data, "poisson")
    state = torch.get_rng_state()
    first = calibration.pit(model, data.test, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(first, calibration.pit(model, data.test, seed=1))
    assert (first != calibration.pit(model, data.test, seed=2)).any()


# coverage


def test_a_noise_sd_half_as_large_covers_what_the_normal_law_says() -> None:
    data = counted_data("gaussian", rows=4000)
    entry = latent("bias", "output", "character", posterior="point", prior="none")
    model = tiny_model(data, "linear", latents=(entry,), likelihood="gaussian")
    split = drawn_from(model, data.test)
    with torch.no_grad():
        model.likelihood.log_noise -= math.log(2)
    row = calibration.coverage(model, split, intervals=(0.5, 0.9)).iloc[0]
    for interval in (0.5, 0.9):
        expected = 2 * stats.norm.cdf(stats.norm.ppf(0.5 + interval / 2) / 2) - 1
        error = math.sqrt(expected * (1 - expected) / 4000)
        assert abs(row[f"coverage_{100 * interval:g}"] - expected) < 4 * error


@pytest.mark.parametrize("name", REAL)
def test_coverage_is_counted_in_every_group_of_every_level(name: str) -> None:
    data = counted_data(name)
    model = linear(data, name)
    table = calibration.coverage(model, data.test)
    columns = [f"coverage_{percent}" for percent in (50, 80, 90, 95)]
    assert list(table.columns) == ["level", "gid", "label", "n", *columns]
    assert table["level"].tolist() == [""] + 8 * ["character"] + 3 * ["play"]
    assert table["label"].tolist() == ["", *range(8), "Hamlet", "Lear", "Timon"]
    assert table["gid"].tolist() == [-1, *range(8), 0, 1, 2]
    values = calibration.pit(model, data.test)
    rows = pd.DataFrame(
        {
            column: (values >= (1 - share) / 2) & (values <= (1 + share) / 2)
            for column, share in zip(columns, calibration.INTERVALS, strict=True)
        }
    )
    np.testing.assert_allclose(table.loc[0, columns].astype(float), rows.mean())
    for index, level in enumerate(LEVELS):
        expected = rows.groupby(data.test.groups[:, index].numpy()).agg(["mean", "size"])
        ours = table[table["level"] == level]
        np.testing.assert_allclose(ours[columns], expected.xs("mean", axis=1, level=1))
        assert ours["n"].tolist() == expected[columns[0], "size"].tolist()


def test_new_groups_are_listed_and_nameless_ones_count_over_all_rows_only() -> None:
    data = counted_data("gaussian")
    schema = data.schema
    levels = (Level("character", 8, new=("ghost",)), schema.levels[1])
    model = linear(data, "gaussian")
    model.schema = Schema(**{**vars(schema), "levels": levels})
    groups, named = data.test.groups.clone(), data.test.groups.clone()
    groups[:50, 0], named[:30, 0], named[30:50, 0] = -1, 8, -1
    table = calibration.coverage(model, Split(data.test.x, groups, data.test.y, named))
    table = table.set_index(["level", "label"])
    assert table.loc[("", ""), "n"] == 400
    assert table.loc[("character", "ghost"), "n"] == 30
    assert table.loc[("character", "ghost"), "gid"] == 8
    assert table.loc["character", "n"].sum() == 380
    assert table.loc["play", "n"].sum() == 400


def test_no_rows_give_an_empty_table() -> None:
    data = counted_data("gaussian")
    none = data.test.subset(torch.zeros(0, dtype=torch.int64))
    assert len(calibration.coverage(linear(data, "gaussian"), none)) == 0
    model, split = class_case("multi")
    none = split.subset(torch.zeros(0, dtype=torch.int64))
    assert len(calibration.scores(model, none)) == 0
    assert calibration.reliability(model, none)["n"].sum() == 0


def test_many_groups_take_no_longer_than_their_rows() -> None:
    data = counted_data("gaussian", rows=20000, groups=10000)
    table = calibration.coverage(linear(data, "gaussian"), data.test, num_samples=2)
    assert (table["level"] == "character").sum() == 10000


# what cannot be


def test_a_target_of_the_other_kind_is_refused_with_what_to_use() -> None:
    model, split = class_case("multi")
    message = "target 'y': pit and coverage are for a real target, and it is a class one; use rel"
    for ask in (calibration.pit, calibration.coverage):
        with pytest.raises(ConfigError, match=message):
            ask(model, split)
    data = counted_data("gaussian")
    message = "target 'y': reliability and scores are for a class target, and it is a real one"
    for ask in (calibration.reliability, calibration.scores):
        with pytest.raises(ConfigError, match=message):
            ask(linear(data, "gaussian"), data.test)


def test_impossible_requests_are_refused() -> None:
    model, split = class_case("multi")
    with pytest.raises(ConfigError, match=r"bins \(0\)"):
        calibration.scores(model, split, bins=0)
    with pytest.raises(DataError, match=r"unknown class of 'y' 7\. There are 5, from 0 to 4"):
        calibration.reliability(model, split, of=7)
    data = counted_data("poisson")
    model = linear(data, "poisson")
    with pytest.raises(ConfigError, match=r"intervals \(90\): expected probabilities between 0"):
        calibration.coverage(model, data.test, intervals=(90,))
    with pytest.raises(ConfigError, match="num_samples"):
        calibration.coverage(model, data.test, num_samples=0)
    bad = with_targets(data.test, data.test.y + 0.5)
    with pytest.raises(DataError, match=r"row 0 .* expects whole numbers"):
        calibration.pit(model, bad)
