"""Columns of a table: what they are taken for is told, and what they cannot be is refused."""

from __future__ import annotations

import decimal
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hlvnn import load_run
from hlvnn.config import DataConfig
from hlvnn.data import data_of, load_data
from hlvnn.data.grouped import GroupedDataset
from hlvnn.errors import ConfigError, DataError
from tests.conftest import Ended


def frame(rows: int = 251) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {"y": rng.normal(size=rows), "x": rng.normal(size=rows), "who": np.arange(rows) % 9}
    )


def config(path: Path, **changes: Any) -> DataConfig:
    return DataConfig(dataset="table", table=path, target="y", groups=("who",), **changes)


def load(tmp_path: Path, table: pd.DataFrame, **changes: Any) -> GroupedDataset:
    table.to_csv(tmp_path / "t.csv", index=False)
    return load_data(config(tmp_path / "t.csv", **changes))


def with_column(values: Any) -> pd.DataFrame:
    return frame().assign(c=values)


NUMBERS = np.random.default_rng(1).normal(size=251).round(3).astype(str)
WORDS = [f"a text of {i} words, {i}" for i in range(251)]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["n.b.", *NUMBERS[1:]], r"'c' holds numbers but for 1 of 251 rows, the first 'n.b.' in r"),
        ([text.replace(".", ",") for text in NUMBERS], r"'c' holds numbers with a decimal comma"),
        (pd.date_range("2024-01-01", periods=251).astype(str), r"'c' looks like dates .*--dates"),
        (["1.2.2024", "3.4.2024"] * 125 + ["1.2.2024"], r"'c' looks like dates .*--dates"),
        ([f"id{i:04d}" for i in range(251)], r"'c' holds 251 different texts .*names or ids"),
        (WORDS, r"'c' holds 251 different texts in 251 rows .*free text.*--features"),
    ],
)
def test_text_that_cannot_be_categories_is_refused(
    tmp_path: Path, values: Any, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load(tmp_path, with_column(values))
    with pytest.raises(DataError, match=message):
        GroupedDataset.from_frame(with_column(values), "y", ["x", "c"], ["who"])
    assert load(tmp_path, with_column(values), features=("x",)).schema.columns == ("x",)


def test_categories_may_be_said(tmp_path: Path) -> None:
    data = load(tmp_path, with_column(np.arange(251) % 3), categories=("c",))
    assert data.schema.columns == ("x", "c[1]", "c[2]")
    grades = with_column(np.array(["1", "2", "3+"])[np.arange(251) % 3])
    assert load(tmp_path, grades).schema.columns == ("x", "c[2]", "c[3+]")
    with pytest.raises(DataError, match=r"unknown feature in categories 'd'"):
        load(tmp_path, grades, categories=("d",))


def test_an_index_without_a_name_is_refused(tmp_path: Path) -> None:
    frame().sort_values("y").reset_index(drop=True).to_csv(tmp_path / "t.csv")
    with pytest.raises(DataError, match=r"'Unnamed: 0' has no name: .* index=False"):
        load_data(config(tmp_path / "t.csv"))
    counted = frame().reset_index()
    assert any("'index' counts the rows" in note for note in load(tmp_path, counted).notes)


def test_dates_become_days_in_training_and_prediction(tmp_path: Path) -> None:
    days = np.random.default_rng(0).integers(0, 4000, 251)
    written = (pd.Timestamp("2012-01-01") + pd.to_timedelta(days, unit="D")).strftime("%Y-%m-%d")
    data = load(tmp_path, with_column(written), dates=("c",), test_fraction=0, val_fraction=0)
    assert data.train.x.all()[:, 1].tolist() == (days + 15340).tolist()
    again = data.schema.features_of(with_column(pd.to_datetime(written)))
    assert again[:, 1].tolist() == (days + 15340).tolist()
    with pytest.raises(DataError, match=r"'c' cannot be read as dates"):
        load(tmp_path, with_column("soon"), dates=("c",))


def test_numbers_kept_as_objects_are_numbers() -> None:
    table = frame()
    whole = table.assign(
        x=table["x"].astype(object),
        c=[decimal.Decimal(i) for i in range(251)],
        d=[1, 2.5] * 125 + [3],
    ).astype({"d": object})
    data = GroupedDataset.from_frame(whole, "y", ["x", "c", "d"], ["who"])
    assert data.schema.coding == {"x": "number", "c": "number", "d": "number"}


def test_a_european_file_is_read_when_its_marks_are_said(tmp_path: Path) -> None:
    table = frame().assign(café="ü")
    path = tmp_path / "t.csv"
    table.to_csv(path, index=False, sep=";", decimal=",", encoding="latin-1")
    said = {"sep": ";", "decimal": ",", "encoding": "latin-1"}
    data = load_data(config(path, **said, features=("x",), test_fraction=0, val_fraction=0))
    np.testing.assert_allclose(data.train.y, table["y"])
    with pytest.raises(DataError, match=r"t.csv: not a text in utf-8 .*--encoding latin-1"):
        load_data(config(path))
    with pytest.raises(DataError, match=r"one column, .*seem to be parted by ';': --sep ';'"):
        load_data(config(path, encoding="latin-1", decimal=","))
    with pytest.raises(ConfigError, match=r"--encoding latin-99: no such encoding"):
        load_data(config(path, encoding="latin-99"))
    table.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(ConfigError, match=r"--sep is for text files"):
        load_data(config(tmp_path / "t.parquet", sep=";"))


def test_all_missing_values_and_columns_are_told_at_once() -> None:
    holes = frame().assign(c=1.0)
    holes.loc[3, "x"] = np.nan
    holes.loc[5, "c"] = np.nan
    with pytest.raises(DataError, match=r"(?s)2 problems.*'x' has no value in row 3.*'c' has no"):
        GroupedDataset.from_frame(holes, "y", ["x", "c"], ["who"])
    with pytest.raises(DataError, match=r"(?s)2 problems:\s+1. .*unknown column 'z'.*'w'"):
        GroupedDataset.from_frame(holes, "z", ["x", "w"], ["who"])


def test_columns_and_their_kinds_stand_at_the_start_of_a_run(
    tmp_path: Path, train_one: Callable[..., Ended]
) -> None:
    table = with_column(np.array(["a", "b"])[np.arange(251) % 2]).assign(d="2024-02-03")
    table.to_csv(tmp_path / "t.csv", index=False)
    flags = ("--dataset", "table", "--table", tmp_path / "t.csv", "--target", "y", "--groups")
    ended = train_one(
        *flags, "who", "--dates", "d", "--num-epochs", 1, "--results-dir", tmp_path, "--name", "r"
    )
    assert ended.code == 0, ended.err
    assert "columns: numbers x; days since 1970 d; categories c (a, b)" in ended.out
    assert "target: y, a real number" in ended.out
    assert "group ids: who (whole numbers)" in ended.out
    assert "target 'y': numbers with fractions, taken as real" in ended.out


def test_a_table_that_changed_is_read_again(tmp_path: Path) -> None:
    first = load(tmp_path, frame())
    settings = config(tmp_path / "t.csv")
    assert data_of(settings) is data_of(settings)
    assert data_of(settings).digest() == first.digest()
    frame().assign(x=lambda table: table["x"] * 1000).to_csv(tmp_path / "t.csv", index=False)
    assert data_of(settings).digest() != first.digest()


def test_a_runs_data_are_those_that_it_was_trained_on_or_refused(
    tmp_path: Path, train_one: Callable[..., Ended], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "t.csv"
    frame().to_csv(path, index=False)
    flags = ("--dataset", "table", "--table", path, "--target", "y", "--groups", "who")
    ended = train_one(*flags, "--num-epochs", 1, "--results-dir", tmp_path, "--name", "r")
    assert ended.code == 0, ended.err
    run = tmp_path / "t" / "r"
    assert len(load_run(run).data.train) > 0
    frame().assign(x=lambda table: table["x"] * 1000).to_csv(path, index=False)
    with pytest.raises(DataError, match=r"the data set t has changed since \(hash \w+, was \w+\)"):
        _ = load_run(run).data
    record = json.loads((run / "hyperparams.json").read_text())
    del record["data_hash"]
    (run / "hyperparams.json").write_text(json.dumps(record))
    assert len(load_run(run).data.train) > 0
    assert "the data loaded now are unchecked" in caplog.text
