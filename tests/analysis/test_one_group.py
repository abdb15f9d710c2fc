"""One group under the glass: a planted bad group is answered with its worst rows, and why."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from hlvnn.analysis import Results, load_runs, load_sweep
from hlvnn.analysis.report.panels import panel
from hlvnn.data import data_of
from hlvnn.errors import DataError, RunError
from hlvnn.records.predictions import PREDICTIONS, read_predictions
from hlvnn.records.run_folder import read_config
from tests.conftest import Ended


@pytest.fixture(scope="module")
def wards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with one run on a table whose ward `south` has five wrong rows."""
    root = tmp_path_factory.mktemp("wards")
    random = np.random.default_rng(0)
    names = ["north", "south", "east", "west", "middle"]
    frame = pd.DataFrame({"x": random.normal(size=1000), "ward": np.repeat(names, 200)})
    frame["ill"] = np.where(frame["x"] > 0, "yes", "no")
    south = np.flatnonzero((frame["ward"] == "south") & (frame["x"].abs() > 0.5))
    wrong = random.permutation(south)[:40]
    frame.loc[wrong, "ill"] = np.where(frame.loc[wrong, "x"] > 0, "no", "yes")
    frame["planted"] = 0
    frame.loc[wrong, "planted"] = 1
    frame.drop(columns="planted").to_csv(root / "wards.csv", index=False)
    return root


def test_a_bad_group_gets_its_worst_rows_back(
    wards: Path, monkeypatch: pytest.MonkeyPatch, train_one: Callable[..., Ended]
) -> None:
    """Rows with the wrong sign are planted in one ward: they are the worst, and all its misses."""
    monkeypatch.chdir(wards)
    flags = ["--dataset", "table", "--table", "wards.csv", "--target", "ill", "--groups", "ward"]
    flags += ["--backbone", "linear", "--latent-config", "bias", "--num-epochs", "20"]
    ended = train_one(*flags, "--lr", "0.05", "--batch-size", "50", "--name", "one")
    assert ended.code == 0, ended.err
    runs = load_runs("results/wards")
    tables = runs.groups.read(epochs=int(runs.row(0)["best_epoch"]), split="test", labels=True)
    assert tables.sort_values("acc")["label"].iloc[0] == "south"

    found = runs.group("south")
    assert (found.level, found.label, found.split, found.notes) == ("ward", "south", "test", [])
    x = found.rows["input"].str.removeprefix("x=").astype(float)
    is_wrong = (found.rows["y"] == "yes") != (x > 0)
    planted = int(is_wrong.sum())
    assert planted >= 4
    assert is_wrong[:planted].all(), "the planted rows come first"
    assert (found.rows["prediction"] != found.rows["y"])[:planted].all()
    assert found.rows["loss"].is_monotonic_decreasing
    assert found.confusion.to_numpy().sum() == len(found.rows)
    off = found.confusion.loc["yes", "no"] + found.confusion.loc["no", "yes"]
    assert off == int((found.rows["prediction"] != found.rows["y"]).sum())

    own = tables[tables["label"] == "south"].iloc[0]
    told = found.trials[found.trials["split"] == "test"].iloc[0]
    assert (told["acc"], told["n"]) == (own["acc"], own["n"])
    assert told["loss"] == pytest.approx(found.rows["loss"].mean(), rel=1e-5)
    assert found.curve["epoch"].unique().tolist() == runs.epochs["epoch"].tolist()
    latents = runs.latents(0)
    mine = latents[latents["label"] == "south"]
    assert found.posterior["mean"].tolist() == mine["mean"].tolist()
    assert found.posterior["prior_sd"].tolist() == mine["prior_sd"].tolist()
    assert (found.posterior["prior_mean"] == 0).all()
    assert len(found.figure().axes) == 4
    assert "south" in repr(found)
    assert "<table" in found._repr_html_()

    shown = panel(found)
    assert [row.input for row in shown.rows] == found.worst["input"].tolist()
    first = found.worst.iloc[0]
    assert shown.rows[0].said == f"{first['y']} as {first['prediction']}, {first['loss']:.2f} nats"
    assert shown.confusion is not None
    counts = [list(map(int, row[1:])) for row in shown.confusion.rows]
    assert counts == found.confusion.to_numpy().tolist()
    assert "<svg" in shown.curve
    assert "south" in shown.posterior

    (wards / "wards.csv").rename(wards / "away.csv")
    try:
        without = runs.group("south")
    finally:
        (wards / "away.csv").rename(wards / "wards.csv")
    assert "input" not in without.rows
    assert without.notes[0].startswith("what its rows look like is not known: ")
    assert without.rows["loss"].tolist() == found.rows["loss"].tolist()


def test_rows_of_images_are_pictures_of_those_rows(swept: Results) -> None:
    found = swept.group(12)
    assert found.trial == swept.best_trial
    assert (found.gid, found.notes) == (12, [])
    folder = swept.path / f"trial_{found.trial:04d}"
    kept = read_predictions(folder)
    assert kept is not None
    table = kept.table[(kept.table["split"] == "test") & (kept.table["writer"] == 12)]
    assert sorted(found.rows.index) == table["row"].tolist()
    data = data_of(read_config(folder).data)
    assert data.test is not None
    first = int(found.rows.index[0])
    assert (data.test.groups[first, 0], data.test.y[first]) == (12, found.rows["y"].iloc[0])
    assert found.pictures is not None
    expected = data.test.x.take(torch.tensor([first]))[0].numpy()
    np.testing.assert_array_equal(found.pictures[0], expected.reshape(found.pictures[0].shape))
    numbers = found.trials["trial"].unique().tolist()
    assert numbers == [0, 1, 2, 3, 4, 7]  # those with a chosen epoch
    assert len(found.figure().axes) >= 10
    other = swept.group("12", level="writer", trial=0)
    assert other.trial == 0
    assert any("no latent" in note for note in other.notes)
    assert not len(other.posterior)
    other.figure()


def test_what_a_trial_does_not_keep_is_said(copy: Path) -> None:
    best = load_sweep(copy).best_trial
    folder = copy / f"trial_{best:04d}"
    (folder / PREDICTIONS).unlink()
    for name in ("best.pt", "checkpoint.pt", "checkpoint.previous.pt"):
        (folder / name).unlink(missing_ok=True)
    found = load_sweep(copy).group(3)
    assert len(found.trials) == 12
    assert not len(found.rows)
    assert found.notes[0] == "its rows are not known: the trial keeps no predictions.parquet"
    assert found.notes[1].startswith("its posterior is not known: ")
    found.figure()
    shutil.rmtree(folder)
    with pytest.raises(RunError, match="its folder or its"):
        load_sweep(copy).group(3, trial=best)


def test_no_such_group_is_an_error_that_names_the_nearest(swept: Results) -> None:
    with pytest.raises(DataError, match="unknown writer '99'"):
        swept.group(99)
    with pytest.raises(DataError, match="unknown group level 'play'"):
        swept.group(3, level="play")
    with pytest.raises(RunError, match="no trial 77"):
        swept.group(3, trial=77)
