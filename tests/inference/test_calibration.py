"""Calibration: coverage of intervals and reliability of probabilities, over rows and groups."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss
from torch.distributions import Binomial

import hlvnn
from hlvnn.data.grouped import GroupedDataset, Level, Schema, Split, Target, TensorRows
from hlvnn.errors import ConfigError, DataError
from hlvnn.inference import calibration
from hlvnn.inference.predict import predict
from hlvnn.models.model import HierarchicalModel
from tests.helpers import generator, grouped_data, latent, small_config, tiny_model, uneven_groups

pytestmark = pytest.mark.filterwarnings("ignore:Initializing zero-element")

LEVELS = ("character", "play")
REAL = ("gaussian", "poisson", "binomial")
CLASSES = {"multi": ("categorical", 5), "two": ("categorical", 2), "bernoulli": ("bernoulli", 2)}


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


def with_targets(split: Split, y: torch.Tensor) -> Split:
    return Split(split.x, split.groups, y, split.named)


def drawn_from(model: HierarchicalModel, split: Split, seed: int = 5) -> Split:
    """Return the split with new targets that the model itself predicts: calibrated by making."""
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        rows = model.latents.at(split.groups, unseen=True)
        law = model.likelihood(model(split.x.all(), model.latents.sample(rows, 1)))
        if model.likelihood.counts_trials:
            trials = split.y[:, 1]
            y = torch.stack([Binomial(trials, law.probs[0].double()).sample(), trials], dim=1)
        else:
            y = law.sample()[0]
    return with_targets(split, y.to(split.y.dtype))


def class_case(name: str, rows: int = 600) -> tuple[HierarchicalModel, Split]:
    likelihood, classes = CLASSES[name]
    data = grouped_data(levels=LEVELS, sizes=(12, 3), classes=classes, rows=rows)
    entries = (latent("concat", "hidden2", "character", width=2), latent("bias", "output", "play"))
    model = tiny_model(data, latents=entries, likelihood=likelihood)
    assert data.test is not None
    return model, data.test


def probabilities(model: HierarchicalModel, split: Split) -> np.ndarray:
    return predict(model, split).filter(like="prob_").to_numpy()


# the transform


@pytest.mark.parametrize("name", REAL)
def test_targets_drawn_from_the_model_have_a_uniform_transform(name: str) -> None:
    data = counted_data(name, rows=2000)
    model = linear(data, name)
    split = drawn_from(model, data.test)
    values = calibration.pit(model, split)
    assert values.shape == (2000,)
    assert stats.kstest(values, "uniform").pvalue > 0.01
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
        rate = model.likelihood(model(data.test.x.all(), model.latents.sample(rows, 9))).mean
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


# classes


@pytest.mark.parametrize("name", CLASSES)
def test_the_reliability_of_confidences_is_scikit_learns_curve(name: str) -> None:
    model, split = class_case(name)
    table = calibration.reliability(model, split)
    chances = probabilities(model, split)
    hit = chances.argmax(1) == split.y.numpy()
    accuracy, confidence = calibration_curve(hit, chances.max(1), n_bins=10)
    assert list(table.columns) == ["low", "high", "n", "confidence", "accuracy"]
    assert table["n"].sum() == len(split)
    full = table[table["n"] > 0]
    np.testing.assert_allclose(full["accuracy"], accuracy, rtol=1e-6)
    np.testing.assert_allclose(full["confidence"], confidence, rtol=1e-6)
    assert (full["confidence"] > full["low"]).all()
    assert (full["confidence"] <= full["high"]).all()
    assert table.loc[table["n"] == 0, ["confidence", "accuracy"]].isna().all(axis=None)


@pytest.mark.parametrize("name", CLASSES)
def test_the_reliability_of_one_class_is_scikit_learns_curve(name: str) -> None:
    model, split = class_case(name)
    table = calibration.reliability(model, split, of=1, bins=7)
    truth, chance = (split.y == 1).numpy(), probabilities(model, split)[:, 1]
    share, mean = calibration_curve(truth, chance, n_bins=7)
    full = table[table["n"] > 0]
    np.testing.assert_allclose(full["accuracy"], share, rtol=1e-6)
    np.testing.assert_allclose(full["confidence"], mean, rtol=1e-6)
    assert (full["n"] * full["accuracy"]).sum() == pytest.approx(truth.sum())


@pytest.mark.parametrize("name", CLASSES)
def test_scores_are_scikit_learns_in_every_group_of_every_level(name: str) -> None:
    model, split = class_case(name)
    table = calibration.scores(model, split)
    assert list(table.columns) == [
        *("level", "gid", "label", "n", "acc", "confidence", "ece", "brier")
    ]
    chances, y = probabilities(model, split), split.y.numpy()
    hit, confidence = chances.argmax(1) == y, chances.max(1)
    classes = chances.shape[1]
    assert len(table) == 1 + 12 + 3
    for row in table.itertuples():
        index = LEVELS.index(row.level) if row.level else None
        rows = np.ones(len(y), bool) if index is None else (split.groups[:, index] == row.gid)
        rows = np.asarray(rows)
        assert row.n == rows.sum()
        own = chances[rows].astype(float)
        own /= own.sum(1, keepdims=True)
        if classes == 2:
            brier = brier_score_loss(y[rows], own[:, 1], labels=[0, 1])
        else:
            brier = brier_score_loss(y[rows], own, labels=list(range(classes)))
        assert row.brier == pytest.approx(brier, rel=1e-5)
        assert row.acc == pytest.approx(hit[rows].mean())
        assert row.confidence == pytest.approx(confidence[rows].mean())
        of_bin = np.ceil(10 * confidence[rows]).astype(int)
        gaps = [
            (of_bin == b).mean() * abs((confidence[rows] - hit[rows])[of_bin == b].mean())
            for b in np.unique(of_bin)
        ]
        assert row.ece == pytest.approx(sum(gaps), rel=1e-6)


def test_classes_drawn_from_the_model_are_calibrated_and_sharpened_ones_are_not() -> None:
    data = grouped_data(rows=9000)
    model = tiny_model(data, "linear", latents=(latent("bias", "output"),))
    assert data.test is not None
    with torch.no_grad():  # spread the probabilities out
        model.backbone.output.weight.mul_(3)
    split = drawn_from(model, data.test)
    row = calibration.scores(model, split).iloc[0]
    assert abs(row["acc"] - row["confidence"]) < 4 * math.sqrt(0.25 / 3000)
    assert row["ece"] < 0.04
    with torch.no_grad():
        model.backbone.output.weight.mul_(3)
    sharper = calibration.scores(model, split).iloc[0]
    assert sharper["confidence"] > sharper["acc"] + 0.05
    assert sharper["ece"] > 2 * row["ece"]
    assert sharper["brier"] > row["brier"]


def test_two_classes_score_the_same_by_either_likelihood() -> None:
    """Softmax of (0, η) is sigmoid η."""
    model, split = class_case("bernoulli")
    two, _ = class_case("two")
    chance = torch.linspace(0.01, 0.99, len(split), dtype=torch.float64)
    eta = torch.logit(chance)

    def fixed(eta: torch.Tensor) -> Callable[..., torch.Tensor]:
        return lambda x, draws: eta[None, : len(x)]

    model.forward = fixed(eta[:, None])  # type: ignore[method-assign]
    two.forward = fixed(torch.stack([torch.zeros_like(eta), eta], 1))  # type: ignore[method-assign]
    pd.testing.assert_frame_equal(
        calibration.scores(model, split, num_samples=1),
        calibration.scores(two, split, num_samples=1),
    )


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


# real data


@cache
def fitted(
    shared: Path, file: str, target: str, features: tuple[str, ...], group: str, likelihood: str
) -> tuple[HierarchicalModel, GroupedDataset]:
    frame = pd.read_csv(shared / "data" / "grouped" / f"{file}.csv.gz", dtype={"provnum": str})
    trials = "size" if likelihood == "binomial" else None
    data = GroupedDataset.from_frame(
        frame, target, features, [group], trials=trials, test_fraction=0.3
    )
    entry = hlvnn.LatentConfig(level=group, stage="output", placement="bias", prior="learned")
    config = hlvnn.ModelConfig(backbone="linear", likelihood=likelihood, latents=[entry])
    model = hlvnn.build_model(config, data, seed=0)
    hlvnn.fit(
        model, data, hlvnn.TrainConfig(num_epochs=200, batch_size=None, lr=0.1, eval_every=200)
    )
    return model, data


def covered(model: HierarchicalModel, split: Split, interval: int) -> tuple[float, float]:
    """Return the share covered over all rows, and its standard error if all is well."""
    row = calibration.coverage(model, split).iloc[0]
    share = interval / 100
    return row[f"coverage_{interval}"], math.sqrt(share * (1 - share) / row["n"])


@pytest.mark.data
@pytest.mark.parametrize("interval", [50, 80, 90, 95])
def test_exam_scores_of_new_pupils_fall_where_the_model_says(shared: Path, interval: int) -> None:
    args = ("Exam", "normexam", ("standLRT",), "school", "gaussian")
    model, data = fitted(shared, *args)
    share, error = covered(model, data.test, interval)
    assert abs(share - interval / 100) < 4 * error


@pytest.mark.data
def test_herds_of_cattle_are_covered_and_lengths_of_stay_are_not(shared: Path) -> None:
    """Stays vary far more than a Poisson's (lme4's users add a row effect); coverage shows it."""
    model, data = fitted(shared, "cbpp", "incidence", ("period",), "herd", "binomial")
    share, error = covered(model, data.train, 80)  # 15 test rows would say nothing
    assert abs(share - 0.8) < 4 * error
    model, data = fitted(shared, "medpar", "los", ("hmo", "white"), "provnum", "poisson")
    share, error = covered(model, data.test, 80)
    assert share < 0.8 - 10 * error


@pytest.mark.data
def test_the_use_of_contraception_is_as_frequent_as_predicted(shared: Path) -> None:
    features = ("age", "urban", "livch")
    model, data = fitted(shared, "Contraception", "use", features, "district", "bernoulli")
    table = calibration.reliability(model, data.test, of="Y", bins=5)
    assert table["n"].sum() == len(data.test)
    full = table[table["n"] >= 30]
    error = np.sqrt(full["confidence"] * (1 - full["confidence"]) / full["n"])
    assert len(full) >= 3
    assert (np.abs(full["accuracy"] - full["confidence"]) < 4 * error).all()
    groups = calibration.scores(model, data.test)
    assert set(groups["label"][1:]) <= set(data.schema.levels[0].labels)


def test_digits_have_a_reliability_for_every_writer(digits: GroupedDataset) -> None:
    config = small_config("cnn", latent_config=("bias",))
    model = hlvnn.build_model(config, digits, seed=0)
    hlvnn.fit(model, digits, hlvnn.TrainConfig(num_epochs=5, lr=0.01, eval_every=5))
    table = calibration.scores(model, digits.test)
    assert table["level"].tolist() == ["", *(["writer"] * (len(table) - 1))]
    whole, writers = table.iloc[0], table.iloc[1:]
    assert writers["n"].sum() == whole["n"] == len(digits.test)
    for column in ("acc", "confidence", "brier"):
        assert np.average(writers[column], weights=writers["n"]) == pytest.approx(whole[column])
    assert whole["ece"] <= np.average(writers["ece"], weights=writers["n"])
    evaluation = hlvnn.evaluate(model, digits.test, num_samples=100)
    np.testing.assert_allclose(writers["acc"], evaluation.groups["acc"])
