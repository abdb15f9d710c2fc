"""Tables of what groups are like: whose a row is, what columns are, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from hlvnn.config import DataConfig
from hlvnn.data.attributes import attributes_of, kind_of, read_attributes
from hlvnn.data.schema import Level, Schema, Target
from hlvnn.errors import ConfigError, DataError

LEVELS = ("ward", "site")
SCHEMA = Schema(
    (Level("ward", 3, ("007", "b", "c"), new=("d",)), Level("site", 2)),
    "features",
    (1,),
    Target("y", "real"),
)


def read(folder: Path, text: str, **settings: object) -> pd.DataFrame:
    path = folder / "wards.csv"
    path.write_text(text, encoding="utf-8")
    return read_attributes(path, DataConfig(**settings), LEVELS).table  # type: ignore[arg-type]


def test_the_column_called_as_a_level_holds_the_labels(tmp_path: Path) -> None:
    table = read(tmp_path, "age,ward,kind,site\n7,007,x,1\n,b,y,0\n", sep=",")
    assert table["level"].tolist() == ["ward", "ward"], "the lowest level that has a column"
    assert table["label"].tolist() == ["007", "b"]
    assert table["age"].tolist()[0] == 7
    assert pd.isna(table["age"][1])
    assert table["site"].tolist() == [1, 0], "an upper level is an attribute"


def test_columns_level_and_label_serve_several_levels(tmp_path: Path) -> None:
    table = read(tmp_path, "level;label;beds\nsite;1;3,5\nward;b;9\n", sep=";", decimal=",")
    assert table.to_numpy().tolist() == [["site", "1", 3.5], ["ward", "b", 9]]


def test_parquet_and_frames_are_read_alike(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"site": [0, 1], "big": [True, False], "from": pd.to_datetime(["1970-01-11"] * 2)}
    )
    path = tmp_path / "sites.parquet"
    frame.to_parquet(path)
    for found in (read_attributes(path, DataConfig(), LEVELS), attributes_of(frame, LEVELS, "f")):
        assert found.table["label"].tolist() == ["0", "1"]
        assert found.table["big"].tolist() == ["True", "False"]
        assert found.table["from"].tolist() == [10, 10], "days since 1970"


def test_it_says_what_it_took_columns_for_and_where_data_and_table_differ(tmp_path: Path) -> None:
    text = "ward,age,kind,name,same\n007,5,x,Ann,1\nb,6,x,Bo,1\ne,7,y,Cy,1\nf,8,y,Di,1\n"
    (tmp_path / "w.csv").write_text(text, encoding="utf-8")
    found = read_attributes(tmp_path / "w.csv", DataConfig(), LEVELS)
    first, second = found.told(SCHEMA)
    assert "2 of 4 ward have a row, 2 have none (c, d); 2 rows are of no group here (e, f)" in first
    assert "age: a number, 5 to 8" in second
    assert "kind: categories x, y" in second
    assert "name: text, kept and not compared: 4 different texts for 4 groups" in second
    assert "same: 1 for all (not compared)" in second
    assert not kind_of(found.table["name"]).is_compared


REFUSED = {
    "name,age\na,1\n": "no column holds the labels of groups: none is called as a group level",
    "ward,age\nb,1\nc,2\nb,3\n": "ward 'b' is there twice, in rows 0 and 2",
    "ward,age\nb,1\n,2\n": "column 'ward' has no value in row 1",
    "ward\nb\n": "no column beside the labels",
    "ward,acc\nb,1\n": "an attribute cannot be called 'acc'",
    "ward,rows\nb,1\n": "an attribute cannot be called 'rows'",
    ",ward,age\n0,b,1\n": "column 'Unnamed: 0' has no name",
    "ward,age\nb,inf\n": "column 'age', row 0 (rows count from 0) is inf",
    "level,label,age\nwing,b,1\n": "row 0 (rows count from 0): unknown group level 'wing'",
    "ward;age\nb;1\n": "its columns seem to be parted by ';': --sep ';'",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_wrong_is_told_with_file_row_and_column(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, text)
    assert REFUSED[text] in str(caught.value)
    assert str(tmp_path / "wards.csv") in str(caught.value)


def test_a_file_that_is_not_there_and_labels_of_other_data_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.csv: no such file; give its path with --group-tab"):
        read_attributes(tmp_path / "gone.csv", DataConfig(), LEVELS)
    strange = attributes_of(pd.DataFrame({"ward": ["x"], "age": [1]}), LEVELS, "w.csv")
    with pytest.raises(DataError, match=r"w\.csv: none of its 1 labels \(x\) is one of the 4 gro"):
        strange.check(SCHEMA)
    strange.check(replace(SCHEMA, levels=(Level("ward", 1, ("x",)),)))
    frame = pd.DataFrame({"ward": ["x"], "age": [1]})
    frame.to_parquet(tmp_path / "w.parquet")
    with pytest.raises(ConfigError, match="--sep is for text files"):
        read_attributes(tmp_path / "w.parquet", DataConfig(sep=";"), LEVELS)
