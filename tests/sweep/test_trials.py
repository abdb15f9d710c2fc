"""Successes out of trials: from a column of a frame to predictions per trial."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import special, stats

import hlvnn
from hlvnn.data import load_data
from hlvnn.data.batches import Batches
from hlvnn.data.grouped import GroupedDataset, Schema, Split, Target
from hlvnn.errors import ConfigError, DataError
from hlvnn.inference.predict import score_rows
from hlvnn.likelihoods.binomial import Binomial
from hlvnn.models.build import build_model
from tests.helpers import generator, randomise

ROWS = 40


@pytest.fixture
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    size = rng.integers(1, 12, ROWS)
    return pd.DataFrame(
        {
            "cured": rng.integers(0, size + 1),
            "size": size,
            "dose": rng.normal(size=ROWS),
            "ward": np.arange(ROWS) % 5,
        }
    )


def dataset(frame: pd.DataFrame, **settings: object) -> GroupedDataset:
    options = {"target": "cured", "features": ["dose"], "groups": ["ward"], "trials": "size"}
    return GroupedDataset.from_frame(frame, **{**options, **settings})  # type: ignore[arg-type]


def config(likelihood: str | None = None) -> hlvnn.ModelConfig:
    latent = hlvnn.LatentConfig(level="ward", stage="output", placement="bias", prior="learned")
    return hlvnn.ModelConfig(backbone="linear", likelihood=likelihood, latents=[latent])


def test_y_is_the_successes_and_the_trials(frame: pd.DataFrame) -> None:
    data = dataset(frame)
    assert data.schema.target == Target("cured", "real", trials="size")
    assert data.train.y.dtype == torch.float64
    np.testing.assert_array_equal(data.train.y, frame[["cured", "size"]])


def test_subsets_batches_and_splits_keep_the_pairs_together(frame: pd.DataFrame) -> None:
    data = dataset(frame, test_fraction=0.3, val_fraction=0.3)
    pairs = set(zip(frame["cured"], frame["size"], frame["dose"].astype("float32"), strict=True))
    seen = 0
    for split in data.splits().values():
        for batch in Batches(split, 7, generator=generator()):
            assert batch.y.shape == (len(batch.x), 2)
            rows = zip(*batch.y.T.tolist(), batch.x[:, 0].numpy(), strict=True)
            assert set(rows) <= pairs
            seen += len(batch.y)
    assert seen == ROWS
    assert torch.equal(data.train.subset(torch.tensor([3, 1])).y, data.train.y[[3, 1]])


def test_the_digest_sees_the_trials(frame: pd.DataFrame) -> None:
    more = frame.assign(size=frame["size"] + 1)
    assert dataset(frame).digest() == dataset(frame).digest()
    assert dataset(frame).digest() != dataset(more).digest()


def test_the_schema_keeps_the_trials(frame: pd.DataFrame) -> None:
    schema = dataset(frame).schema
    assert Schema.from_json(json.loads(json.dumps(schema.to_json()))) == schema


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("size", 0, r"column 'size', row 6 .* is 0.0, expected a whole number from 1"),
        ("size", 2.5, r"column 'size', row 6 .* is 2.5, expected a whole number from 1"),
        ("cured", -1, r"column 'cured', row 6 .* is -1.0 of .*, expected a whole number from 0"),
        ("cured", 0.5, r"column 'cured', row 6 .* is 0.5 of .*, expected a whole number from 0"),
        ("cured", 99, r"column 'cured', row 6 .* is 99.0 of .* to the row's trials \('size'\)"),
        ("size", np.nan, r"column 'size' has no value in row 6"),
    ],
)
def test_bad_counts_are_named_by_column_and_row(
    frame: pd.DataFrame, column: str, value: float, message: str
) -> None:
    bad = frame.astype({column: float})
    bad.loc[6, column] = value
    with pytest.raises(DataError, match=f"ward.csv: {message}"):
        dataset(bad, name="ward.csv")


def test_counts_have_to_be_numbers(frame: pd.DataFrame) -> None:
    with pytest.raises(DataError, match=r"column 'size' holds .*, expected whole numbers"):
        dataset(frame.assign(size=frame["size"].astype(str)))
    with pytest.raises(DataError, match="is both target and trials"):
        dataset(frame, trials="cured")
    with pytest.raises(DataError, match=r"sizes.*'size'"):
        dataset(frame, trials="sizes")


def test_arrays_are_checked_as_well(frame: pd.DataFrame) -> None:
    data = dataset(frame)
    split = data.train
    with pytest.raises(DataError, match=r"train.y: expected y of shape \[N, 2\]"):
        GroupedDataset(data.schema, replace(split, y=split.y[:, 0]))
    wrong = split.y.clone()
    wrong[3, 0] = wrong[3, 1] + 1
    with pytest.raises(DataError, match=r"train.y: column 'cured', row 3"):
        GroupedDataset(data.schema, Split(split.x, split.groups, wrong))
    with pytest.raises(DataError, match=r"it has trials \('n'\) and must count successes"):
        Target("y", "class", num_classes=2, trials="n")


def test_binomial_is_the_likelihood_of_trials(frame: pd.DataFrame) -> None:
    assert isinstance(build_model(config(), dataset(frame)).likelihood, Binomial)
    for name in ("gaussian", "poisson", "bernoulli"):
        with pytest.raises(ConfigError, match=f"{name} cannot use the trials in 'size'; leave"):
            build_model(config(name), dataset(frame))
    with pytest.raises(ConfigError, match=r"binomial needs .* behind each 'cured'; name their"):
        build_model(config("binomial"), dataset(frame, trials=None, target_kind="count"))


def test_scores_are_of_the_rows_counts_and_their_proportion(frame: pd.DataFrame) -> None:
    data = dataset(frame)
    latent = hlvnn.LatentConfig(level="ward", stage="output", placement="bias", prior="none")
    settings = {"backbone": "linear", "latents": [latent.model_copy(update={"posterior": "point"})]}
    model = randomise(build_model(hlvnn.ModelConfig(**settings), data))  # type: ignore[arg-type]
    scores = score_rows(model, data.train, num_samples=3)
    intercept, slope = model.summary()["estimate"]
    wards = model.posterior("ward")["mean_(Intercept)"].to_numpy()
    log_odds = intercept + slope * frame["dose"] + wards[frame["ward"]]
    p = special.expit(log_odds)
    np.testing.assert_allclose(scores.prediction, p, rtol=1e-5)
    np.testing.assert_allclose(scores.y, frame["cured"] / frame["size"])
    expected = -stats.binom.logpmf(frame["cured"], frame["size"], p)
    np.testing.assert_allclose(scores.loss, expected, rtol=1e-5)
    found = hlvnn.evaluate(model, data.train).scalars
    assert found["mse"] == pytest.approx(np.mean((frame["cured"] / frame["size"] - p) ** 2))
    assert found["loss"] == pytest.approx(expected.mean(), rel=1e-5)


def test_predictions_are_per_trial_and_need_no_trials(frame: pd.DataFrame) -> None:
    model = randomise(build_model(config(), dataset(frame)))
    rows = frame[["dose", "ward"]].assign(ward=[*range(5), *[77] * (ROWS - 5)])
    table = hlvnn.predict(model, rows, num_samples=4000)
    assert list(table.columns) == ["mean", "sd", "sd_mean"]
    mean = table["mean"].to_numpy()
    assert ((mean > 0) & (mean < 1)).all()
    np.testing.assert_allclose(table["sd"], np.sqrt(mean * (1 - mean)), rtol=1e-6)


def test_a_table_with_trials_trains_from_its_file(frame: pd.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "wards.csv"
    frame.to_csv(path, index=False)
    settings = {"dataset": "table", "table": path, "target": "cured", "groups": ("ward",)}
    data = load_data(hlvnn.DataConfig(**settings, trials="size", val_fraction=0.2))  # type: ignore[arg-type]
    assert data.schema.columns == ("dose",)
    assert data.test is not None
    assert data.test.y.shape[1] == 2
    model = build_model(config(), data)
    result = hlvnn.fit(model, data, hlvnn.TrainConfig(num_epochs=3, batch_size=8))
    assert np.isfinite(result.elbo)
    assert result.elbo_error == 0
