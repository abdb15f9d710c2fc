"""Group ids: the same label is the same group, in a file and in Python, training and prediction."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import hlvnn
from hlvnn.config import DataConfig
from hlvnn.data import load_data
from hlvnn.data.grouped import GroupedDataset
from hlvnn.errors import DataError
from tests.conftest import Ended


def made(ids: Any, **changes: Any) -> GroupedDataset:
    ids = pd.Series(ids) if not isinstance(ids, pd.Series) else ids
    frame = pd.DataFrame({"y": np.linspace(0, 1, len(ids)), "who": ids})
    return GroupedDataset.from_frame(frame, "y", [], ["who"], **changes)


def groups_of(data: GroupedDataset, ids: Any) -> list[int]:
    return data.schema.groups_of(pd.DataFrame({"who": ids}))[:, 0].tolist()


def read(path: Path, text: str) -> GroupedDataset:
    path.write_text("y,who\n" + text)
    return load_data(DataConfig(dataset="table", table=path, target="y", groups=("who",)))


def test_floats_in_a_file_are_the_whole_numbers_that_they_are_in_python(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    data = read(path, "".join(f"{i / 7},{338 + i % 3}.0\n" for i in range(30)))
    assert data.schema.levels[0].labels == (338, 339, 340)
    for ids in ([338, 340, 1], [338.0, 340.0, 1.0], pd.read_csv(path)["who"].iloc[[0, 2]].tolist()):
        assert groups_of(data, ids)[:2] == [0, 2]
    assert groups_of(data, pd.Categorical([338, 340])) == [0, 2]


def test_leading_zeros_are_text(tmp_path: Path) -> None:
    data = read(tmp_path / "t.csv", "".join(f"{i / 7},00{i % 3}\n" for i in range(30)))
    assert data.schema.levels[0].labels == ("000", "001", "002")


LARGE = 2**63 + np.arange(3, dtype=np.uint64)


def test_large_whole_numbers_stay_apart(tmp_path: Path) -> None:
    data = made(pd.Series(np.repeat(LARGE, 4)))
    assert data.schema.levels[0].labels == tuple(int(value) for value in LARGE)
    assert groups_of(data, LARGE[::-1]) == [2, 1, 0]
    schema = type(data.schema).from_json(data.schema.to_json())
    assert schema.groups_of(pd.DataFrame({"who": LARGE}))[:, 0].tolist() == [0, 1, 2]
    lines = "".join(f"{i / 7},{2**63 + i % 3}\n" for i in range(30))
    assert read(tmp_path / "t.csv", lines).schema.levels[0].labels == data.schema.levels[0].labels
    small = made(pd.Series(np.array([3, 1, 1], np.uint8)))
    assert small.schema.levels[0].labels == (1, 3)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1, "1", 2, "b"], r"'who' holds numbers and text, such as 1 and '1', .*\.astype\(str\)"),
        ([1.5, 2.0], r"row 0 .* is 1.5, expected a label .*choose another column"),
        ([1.0, 2.0**63], r"row 1 .* expected a label below 2\^53, .*as text or as integers"),
    ],
)
def test_labels_that_could_merge_are_refused(ids: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        made(ids)


def test_whole_numbers_kept_as_objects_are_whole_numbers() -> None:
    assert made(pd.Series([3, 1, 3], dtype=object)).schema.levels[0].labels == (1, 3)


def test_older_runs_whose_labels_were_text_still_know_their_groups() -> None:
    data = made(["1", "2", "2"])
    assert groups_of(data, pd.Series([2, 1], dtype=object)) == [1, 0]
    with pytest.raises(DataError, match=r"'who' held text .* whole numbers now"):
        groups_of(data, [2, 1])


@pytest.fixture
def pupils(tmp_path: Path, train_one: Callable[..., Ended]) -> hlvnn.HierarchicalModel:
    """A model of groups 338, 339, 340, written as floats, whose intercepts are far apart."""
    rng = np.random.default_rng(0)
    ids = np.repeat([338, 339, 340], 40)
    frame = pd.DataFrame({"y": (ids - 339) * 5 + rng.normal(size=120) * 0.1, "who": ids * 1.0})
    frame["x"] = rng.normal(size=120)
    frame.to_csv(tmp_path / "t.csv", index=False)
    flags = ("--dataset", "table", "--table", tmp_path / "t.csv", "--target", "y", "--groups")
    own = ("--backbone", "linear", "--latents", "bias@output level=who prior=learned")
    fit = ("--batch-size", "None", "--lr", 0.05, "--num-epochs", 400, "--eval-every", 400)
    ended = train_one(*flags, "who", *own, *fit, "--results-dir", tmp_path, "--name", "r")
    assert ended.code == 0, ended.err
    return hlvnn.load_run(tmp_path / "t" / "r").model


def test_prediction_knows_the_groups_and_tells_of_new_ones(
    pupils: hlvnn.HierarchicalModel, caplog: pytest.LogCaptureFixture
) -> None:
    known = pd.DataFrame({"who": [338, 339, 340], "x": 0.0}, index=["a", "b", "c"])
    with caplog.at_level(logging.WARNING, "hlvnn"):
        predicted = hlvnn.predict(pupils, known)
    assert predicted["mean"].tolist() == pytest.approx([-5, 0, 5], abs=0.2)
    assert not caplog.records
    with caplog.at_level(logging.WARNING, "hlvnn"):
        hlvnn.predict(pupils, known.assign(who=[338, 7, 8]))
    (record,) = caplog.records
    assert record.getMessage() == (
        "2 of 3 rows are of groups without training rows (who 7, 8) and are predicted from the "
        "prior: rows b, c"
    )


def test_known_and_new_groups_have_columns_of_their_own(
    tmp_path: Path, train_one: Callable[..., Ended]
) -> None:
    rng = np.random.default_rng(0)
    ids = np.repeat(np.arange(40), 20)
    y = rng.normal(size=40)[ids] * 5 + rng.normal(size=800)
    frame = pd.DataFrame({"y": y, "x": rng.normal(size=800), "who": [f"w{i}" for i in ids]})
    frame.to_csv(tmp_path / "t.csv", index=False)
    flags = ("--dataset", "table", "--table", tmp_path / "t.csv", "--target", "y", "--groups")
    own = ("--backbone", "linear", "--latents", "bias@output level=who prior=learned")
    fit = ("--batch-size", "None", "--lr", 0.05, "--num-epochs", 300, "--eval-every", 300)
    held = ("--hold-out", 0.25, "--unseen", "prior", "--results-dir", tmp_path, "--name", "r")
    ended = train_one(*flags, "who", *own, *fit, *held)
    assert ended.code == 0, ended.err
    assert "test: 200 of 320 rows are of groups without training rows (10 new who)" in ended.out
    last = pd.read_csv(tmp_path / "t" / "r" / "metrics.csv").iloc[-1]
    assert last["test_known_mse"] == pytest.approx(1.0, abs=0.25)
    assert last["test_new_mse"] == pytest.approx(26, rel=0.6)  # 5² + 1, of ten groups
    both = (120 * last["test_known_mse"] + 200 * last["test_new_mse"]) / 320
    assert last["test_mse"] == pytest.approx(both)
    assert "val_new_mse" not in last
