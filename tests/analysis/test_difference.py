"""Two runs side by side: what was planted between them is asked back, by the command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from hlvnn.analysis import diff
from hlvnn.columns import DATA_HASH
from hlvnn.errors import RunError
from hlvnn.records.predictions import PREDICTIONS, read_predictions, write_predictions
from hlvnn.records.run_folder import HYPERPARAMS, METRICS
from tests.conftest import Ended

FROM, BY, GROUP, NATS = 4, 0.25, 3, 1.5
"""Run b: from which epoch on it differs, by how much, and the group that it predicts worse."""


@pytest.fixture
def two(small_sweep: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Return a run, and a copy in which a difference of each kind is planted."""
    a, b = (
        Path(shutil.copytree(small_sweep / "trial_0001", tmp_path / name)) for name in ("a", "b")
    )
    record = json.loads((b / HYPERPARAMS).read_text())
    record["config"] |= {"dropout": 0.25, "clip_grad": 1.0}
    record["config"] |= {"print_freq": 7, "results_dir": "elsewhere"}
    record["versions"]["torch"] = "1.0"
    record["code"] = {"commit": "0" * 40, "dirty": True}
    record["origin"] = "from trial T, changed: dropout=0.25 (was 0.1)"
    (b / HYPERPARAMS).write_text(json.dumps(record))
    metrics = pd.read_csv(b / METRICS)
    metrics.loc[metrics["epoch"] >= FROM, "val_loss"] += BY
    metrics["seconds"] += 1
    metrics.to_csv(b / METRICS, index=False)
    kept = read_predictions(b)
    assert kept is not None
    table = kept.table
    wrong = (table["split"] == "test") & (table["writer"] == GROUP)
    table.loc[wrong, "log_prob"] -= NATS
    table.loc[wrong, "prediction"] = (table.loc[wrong, "y"] + 1) % 10
    parts = {str(s): part.drop(columns="split") for s, part in table.groupby("split")}
    write_predictions(b, kept.epoch, parts, 10**6)
    return a, b


def test_what_was_planted_between_two_runs_is_found(
    two: tuple[Path, Path], analysis: Callable[..., Ended]
) -> None:
    found = diff(*two)
    assert found.settings["b"].to_dict() == {"dropout": "0.25", "clip_grad": "1"}
    assert found.settings.loc["clip_grad", "a"] == "None", "a value, and not one that is unknown"
    assert {"torch", "code", "origin"} == {*found.about.index}
    assert found.about.loc["code", "b"] == "0" * 40 + " with changes"
    assert found.first_epoch == FROM
    assert found.epochs["column"].tolist() == ["val_loss"]
    assert found.epochs["difference"].tolist() == pytest.approx([BY])
    assert found.groups["gid"][0] == GROUP
    assert found.groups["gain"].tolist() == pytest.approx([NATS] + [0.0] * (len(found.groups) - 1))
    n = int(found.groups["n"][0])
    assert (found.rows["gid"][:n] == GROUP).all()
    assert (found.rows["prediction_b"] != found.rows["y"])[:n].all()
    a, b = (read_predictions(folder) for folder in two)
    assert a is not None
    assert b is not None
    own, other = (kept.table[kept.table["split"] == "test"] for kept in (a, b))
    right = [(table["y"] == table["prediction"]).to_numpy() for table in (own, other)]
    won = int((right[0] & ~right[1]).sum())
    accuracy, nats = found.tests
    assert (accuracy.won, accuracy.lost) == (won, 0)
    assert accuracy.p == pytest.approx(stats.binomtest(won, won).pvalue)
    assert nats.gain == pytest.approx(NATS * n / len(own))

    ended = analysis("diff", *two)
    assert (ended.code, ended.err) == (0, "")
    assert "settings that differ: 2" in ended.out
    assert f"they differ from epoch {FROM} on" in ended.out
    assert f"p = {accuracy.p:.2g} over rows (McNemar's exact test)" in ended.out
    assert ended.out.strip() == str(found).strip()
    assert "<table" in found._repr_html_()


def test_a_run_beside_itself_differs_in_nothing(two: tuple[Path, Path]) -> None:
    found = diff(two[0], two[0])
    assert (len(found.settings), len(found.about), found.first_epoch) == (0, 0, None)
    assert (found.groups["gain"] == 0).all()
    assert "no epoch that both have differs" in str(found)


def test_what_a_run_does_not_keep_is_said_to_be_absent(two: tuple[Path, Path]) -> None:
    a, b = two
    (b / PREDICTIONS).unlink()
    record = json.loads((a / HYPERPARAMS).read_text())
    record.pop("code", None)
    del record["config"]["skip"]
    (a / HYPERPARAMS).write_text(json.dumps(record))
    found = diff(a, b)
    assert not len(found.rows)
    assert "rows are not compared: predictions.parquet of b is absent" in str(found)
    assert "the commit of the code is not recorded of a" in found.notes
    assert "settings that only b records: skip=False" in found.notes


def test_rows_of_other_data_are_not_compared(two: tuple[Path, Path]) -> None:
    record = json.loads((two[1] / HYPERPARAMS).read_text())
    (two[1] / HYPERPARAMS).write_text(json.dumps(record | {DATA_HASH: "other"}))
    found = diff(*two)
    assert "rows are not compared: a and b did not predict the same test rows" in found.notes
    assert "data" in found.about.index
    assert found.first_epoch == FROM


def test_a_shorter_run_is_compared_as_far_as_it_goes(two: tuple[Path, Path]) -> None:
    metrics = pd.read_csv(two[1] / METRICS)
    metrics[metrics["epoch"] < FROM].to_csv(two[1] / METRICS, index=False)
    found = diff(*two)
    assert found.first_epoch is None
    assert f"a has 6 epochs, b {FROM - 1}" in found.notes


def test_a_folder_that_is_no_run_is_refused_with_what_to_give(
    small_sweep: Path, analysis: Callable[..., Ended]
) -> None:
    ended = analysis("diff", small_sweep, small_sweep / "trial_0001")
    assert ended.code == 2
    assert "is no run: hyperparams.json is missing; it is a sweep; give one of its" in ended.err
    with pytest.raises(RunError, match="give a run's folder"):
        diff(small_sweep / "trial_0001", small_sweep / "nothing")


def test_real_targets_are_compared_by_their_squared_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train_one: Callable[..., Ended]
) -> None:
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"x": random.normal(size=200), "who": np.arange(200) % 5})
    frame["y"] = frame["x"] + frame["who"] + random.normal(size=200)
    frame.to_csv("t.csv", index=False)
    flags = ["--dataset", "table", "--table", "t.csv", "--target", "y", "--groups", "who"]
    flags += ["--backbone", "mlp", "--hidden", "4", "--num-epochs", "2", "--target-kind", "real"]
    for name, lr in (("one", "0.01"), ("two", "0.02")):
        ended = train_one(*flags, "--lr", lr, "--name", name)
        assert ended.code == 0, ended.err
    found = diff("results/t/one", "results/t/two")
    assert found.settings.index.tolist() == ["lr"]
    assert [test.measure for test in found.tests] == ["mse", "loss"]
    assert found.first_epoch == 1
