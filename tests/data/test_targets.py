"""Targets: classes, real numbers and counts are told apart, or have to be said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import hlvnn
from hlvnn.data.grouped import GroupedDataset
from hlvnn.errors import ConfigError, DataError
from tests.conftest import Ended
from tests.helpers import write_folder

ROWS = 240


def made(y: Any, kind: Any = None, **changes: Any) -> GroupedDataset:
    frame = pd.DataFrame({"y": y, "x": np.linspace(0, 1, ROWS), "who": np.arange(ROWS) % 6})
    return GroupedDataset.from_frame(frame, "y", ["x"], ["who"], target_kind=kind, **changes)


DIGIT = np.arange(ROWS) % 7
TWO = np.arange(ROWS) % 2


@pytest.mark.parametrize(
    ("y", "kind", "expected"),
    [
        (TWO, None, ("class", (0, 1), "Bernoulli")),
        (TWO * 1.0, None, ("class", (0, 1), "Bernoulli")),
        (TWO, "real", ("real", None, "Gaussian")),
        (DIGIT, "class", ("class", tuple(range(7)), "Categorical")),
        (DIGIT, "real", ("real", None, "Gaussian")),
        (DIGIT, "count", ("real", None, "Poisson")),
        (DIGIT * 10, None, ("real", None, "Gaussian")),
        (np.linspace(0, 1, ROWS), None, ("real", None, "Gaussian")),
        (
            [f"c{i % 5}" for i in range(ROWS)],
            None,
            ("class", ("c0", "c1", "c2", "c3", "c4"), "Categorical"),
        ),
    ],
)
def test_the_kind_is_told_from_the_values_or_said(y: Any, kind: Any, expected: Any) -> None:
    data = made(y, kind)
    target = data.schema.target
    model = hlvnn.build_model(hlvnn.ModelConfig(), data)
    assert (target.kind, target.labels, type(model.likelihood).__name__) == expected
    assert bool(data.notes) == (kind is None)
    again = type(data.schema).from_json(data.schema.to_json())
    assert again == data.schema
    assert ("counts" in data.schema.to_json()["target"]) == (kind == "count")


@pytest.mark.parametrize("y", [DIGIT, DIGIT + 1, DIGIT * 1.0])
def test_a_few_whole_numbers_are_refused_until_said(y: Any) -> None:
    with pytest.raises(DataError, match=r"'y' holds the whole numbers [01] to [67], .*target-kind"):
        made(y)


@pytest.mark.parametrize(
    ("y", "kind", "message"),
    [
        (["a"] * ROWS, None, r"'y' has one class, 'a', in all 240 rows"),
        ([1] * ROWS, "class", r"'y' has one class, 1, in all 240 rows"),
        (np.linspace(0, 1, ROWS), "class", r"is to be classes and is 0.004\d+ in row 1 .*real"),
        (DIGIT - 1, "count", r"is to be a count and is -1.0 in row 0"),
        (np.linspace(0, 1, ROWS), "count", r"is to be a count and is 0.004\d+ in row 1"),
        ([f"c{i % 5}" for i in range(ROWS)], "real", r"'y' is to be real and holds"),
        ([f"{i},5" for i in range(ROWS)], None, r"'y' holds numbers with a decimal comma"),
        ([f"id{i}" for i in range(ROWS)], "class", r"'y' holds 240 different texts"),
    ],
)
def test_what_is_not_of_the_kind_is_refused(y: Any, kind: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        made(y, kind)


def test_trials_count_successes() -> None:
    with pytest.raises(DataError, match=r"counts successes of trials .* cannot be class"):
        made(TWO, "class", trials="x")


def test_two_classes_are_learned_as_such_by_the_command(
    tmp_path: Path, train_one: Callable[..., Ended]
) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=ROWS)
    frame = pd.DataFrame({"y": (x > 0).astype(int), "x": x, "who": np.arange(ROWS) % 6})
    frame.to_csv(tmp_path / "t.csv", index=False)
    flags = ("--dataset", "table", "--table", tmp_path / "t.csv", "--target", "y", "--groups")
    run = ("who", "--num-epochs", 20, "--lr", 0.01, "--results-dir", tmp_path, "--name", "r")
    ended = train_one(*flags, *run)
    assert ended.code == 0, ended.err
    assert "target: y, one of 0, 1" in ended.out
    assert "target 'y': two whole numbers, 0 and 1, taken as classes" in ended.out
    metrics = pd.read_csv(tmp_path / "t" / "r" / "metrics.csv")
    assert metrics["val_acc"].iloc[-1] > 0.8
    frame.assign(y=DIGIT).to_csv(tmp_path / "t.csv", index=False)
    ended = train_one(*flags, *run[:-1], "s")
    assert ended.code == 2
    assert "say which with --target-kind" in ended.err
    assert not (tmp_path / "t" / "s").exists()


def test_classes_without_rows_are_told_and_one_alone_is_refused(
    tmp_path: Path, train_one: Callable[..., Ended]
) -> None:
    root = write_folder(tmp_path, "letters")
    y = np.load(root / "letters" / "small" / "y_train.npy")
    np.save(root / "letters" / "small" / "y_train.npy", np.where(y == 1, 0, y))
    y_test = np.load(root / "letters" / "small" / "y_test.npy")
    np.save(root / "letters" / "small" / "y_test.npy", np.zeros_like(y_test))
    flags = ("--dataset", "letters", "--data-dir", root, "--num-epochs", 1, "--channels", 2, 2)
    ended = train_one(*flags, "--results-dir", tmp_path / "results", "--name", "r")
    assert ended.code == 0, ended.err
    assert "classes without a training row: 1\n" in ended.out
    np.save(root / "letters" / "small" / "y_train.npy", np.zeros_like(y))
    ended = train_one(*flags, "--results-dir", tmp_path / "results", "--name", "s")
    assert ended.code == 2
    assert "y_train.npy: one class, 0, in all" in ended.err


def test_a_kind_goes_with_its_likelihood() -> None:
    with pytest.raises(ConfigError, match=r"needs a class target; 'y' is real; say --target-kind"):
        hlvnn.build_model(hlvnn.ModelConfig(likelihood="bernoulli"), made(TWO, "real"))
