"""LEAF's JSON to a folder of arrays, and back through `load_data`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hlvnn.commands.convert import main
from hlvnn.config import DataConfig
from hlvnn.data import load_data
from hlvnn.data.convert import Leaf, convert_leaf
from hlvnn.data.leaf import VOCABULARY
from hlvnn.errors import ConfigError, DataError

Content = dict[str, Any]


def images(users: dict[str, int], seed: int = 0) -> Content:
    """LEAF's FEMNIST: 784 floats a row, class numbers."""
    rng = np.random.default_rng(seed)
    return {
        "users": list(users),
        "num_samples": list(users.values()),
        "user_data": {
            name: {
                "x": rng.random((n, 784)).round(3).tolist(),
                "y": rng.integers(0, 62, n).tolist(),
            }
            for name, n in users.items()
        },
    }


def speeches(users: dict[str, str], length: int = 400) -> Content:
    """LEAF's Shakespeare: overlapping windows of 80 characters; user -> play."""
    rng = np.random.default_rng(0)
    texts = {name: "".join(rng.choice(list(VOCABULARY), length)) for name in users}
    count = length - 80
    return {
        "users": list(users),
        "hierarchies": list(users.values()),
        "num_samples": [count] * len(users),
        "user_data": {
            name: {
                "x": [text[i : i + 80] for i in range(count)],
                "y": [text[i + 80] for i in range(count)],
            }
            for name, text in texts.items()
        },
    }


def write(path: Path, content: Content) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def config_of(root: Path, **changes: Any) -> DataConfig:
    return DataConfig(dataset="leaf", data_dir=root / "data", val_fraction=0, **changes)


def out_of(root: Path) -> Path:
    return root / "data" / "leaf" / "small"


def test_images_come_back_user_by_user(tmp_path: Path) -> None:
    one, two = images({"f01": 7, "f02": 1, "f03": 0}), images({"f04": 12}, seed=1)
    paths = (write(tmp_path / "in/0.json", one), write(tmp_path / "in/1.json", two))
    assert (
        convert_leaf(Leaf(out=out_of(tmp_path), sources=(tmp_path / "in",), levels=("writer",)))
        == 0
    )
    data = load_data(config_of(tmp_path))
    (level,) = data.schema.levels
    assert (level.name, level.labels) == ("writer", ("f01", "f02", "f04"))
    assert (data.schema.x_kind, data.schema.x_shape) == ("image", (28, 28))
    assert torch.bincount(data.test.groups[:, 0]).tolist() == [1, 0, 2]
    for content, names in ((one, ("f01", "f02")), (two, ("f04",))):
        for name in names:
            expected = {
                (y, *np.float32(x).tolist())
                for x, y in zip(*content["user_data"][name].values(), strict=True)
            }
            gid = level.labels.index(name)
            got = set()
            for split in data.splits().values():
                mine = (split.groups[:, 0] == gid).nonzero().squeeze(1)
                x = split.x.take(mine).flatten(1).tolist()
                got |= {(int(y), *row) for y, row in zip(split.y[mine], x, strict=True)}
            assert got == expected
    assert len(paths) == 2


def test_text_is_cut_in_time_and_shares_no_character(tmp_path: Path) -> None:
    users = {"HAMLET_GHOST": "HAMLET", "LEAR_FOOL": "LEAR", "LEAR_KENT": "LEAR"}
    content = speeches(users)
    path = write(tmp_path / "all.json", content)
    levels = ("character", "play")
    convert_leaf(Leaf(out=out_of(tmp_path), sources=(path,), levels=levels, test_fraction=0.25))
    data = load_data(config_of(tmp_path))
    assert [(level.name, level.labels) for level in data.schema.levels] == [
        ("character", tuple(users)),
        ("play", ("HAMLET", "LEAR")),
    ]
    assert data.schema.vocabulary == VOCABULARY
    assert data.schema.num_tokens == data.schema.target.num_classes == 80
    assert (len(data.train), len(data.test)) == (3 * 160, 3 * 80)
    for gid, rows in enumerate(content["user_data"].values()):
        train, test = (
            split.subset((split.groups[:, 0] == gid).nonzero().squeeze(1))
            for split in (data.train, data.test)
        )
        for split, begin in ((train, 0), (test, 240)):
            read = ["".join(VOCABULARY[i] for i in row) for row in split.x.all().tolist()]
            assert read == rows["x"][begin : begin + len(split)]
            assert "".join(VOCABULARY[i] for i in split.y) == "".join(
                rows["y"][begin : begin + len(split)]
            )
    # validation of such a folder is cut in time as well: 80 rows are in neither part
    cut = load_data(config_of(tmp_path).model_copy(update={"val_fraction": 0.2}))
    assert (len(cut.train), len(cut.val)) == (3 * (160 - 32 - 80), 3 * 32)


def test_given_train_and_test_files_are_kept_apart(tmp_path: Path) -> None:
    train = write(tmp_path / "train/a.json", images({"a": 5, "b": 6}))
    test = write(tmp_path / "test/a.json", images({"b": 2, "c": 3}, seed=1))
    convert_leaf(Leaf(out=out_of(tmp_path), train=(train.parent,), test=(test.parent,)))
    with pytest.raises(DataError, match=r"group 'c', which has no training rows"):
        load_data(config_of(tmp_path))
    data = load_data(config_of(tmp_path, unseen="prior"))
    assert data.schema.levels[0].name == "user"
    assert (data.schema.levels[0].labels, data.schema.levels[0].new) == (("a", "b"), ("c",))
    assert data.test.groups[:, 0].tolist() == [1, 1, -1, -1, -1]


def test_users_too_small_to_split_leave_an_empty_test(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", images({"a": 1, "b": 2}))
    convert_leaf(Leaf(out=out_of(tmp_path), sources=(path,)))
    assert load_data(config_of(tmp_path)).test is None


def test_the_seed_decides_the_split(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", images({"a": 50, "b": 50}))
    digests = []
    for i, seed in enumerate((0, 0, 1)):
        convert_leaf(Leaf(out=out_of(tmp_path / str(i)), sources=(path,), seed=seed))
        digests.append(load_data(config_of(tmp_path / str(i))).digest())
    assert digests[0] == digests[1] != digests[2]


def test_float_y_and_feature_rows(tmp_path: Path) -> None:
    rows = {"x": [[1.0, 2.5], [0, 1]], "y": [0.5, 1.5]}
    content = {"users": ["a"], "num_samples": [2], "user_data": {"a": rows}}
    convert_leaf(Leaf(out=out_of(tmp_path), sources=(write(tmp_path / "a.json", content),)))
    data = load_data(config_of(tmp_path))
    assert (data.schema.x_kind, data.schema.target.kind) == ("features", "real")


def damaged(change: Any) -> Content:
    content = images({"anna": 3, "ben": 2})
    change(content)
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            damaged(lambda c: c.pop("num_samples")),
            r"a.json: no num_samples; expected a LEAF object",
        ),
        (damaged(lambda c: c["users"].pop()), r"a.json: 1 users, 2 num_samples"),
        (damaged(lambda c: c["users"].__setitem__(0, "ana")), r"no 'ana'; did you mean 'anna'\?"),
        (damaged(lambda c: c["user_data"]["ben"].pop("y")), r"user 'ben': expected an object with"),
        (damaged(lambda c: c["user_data"]["ben"]["y"].pop()), r"user 'ben': 2 x, 1 y and num_samp"),
        (damaged(lambda c: c["num_samples"].__setitem__(1, 9)), r"user 'ben': 2 x, 2 y .*9"),
        (damaged(lambda c: c["user_data"]["ben"]["x"][1].pop()), r"user 'ben': .*differ in length"),
        (
            damaged(lambda c: c["user_data"]["ben"]["y"].__setitem__(1, -1)),
            r"'ben': y, row 1 is -1",
        ),
        (
            damaged(lambda c: c["user_data"]["ben"].update(x=[[0.5, 1], [2, 3]])),
            r"user 'ben' has x of float32 \[2\].*'anna' has float32 \[28, 28\].*one kind of row",
        ),
        ({"users": [], "num_samples": [], "user_data": {}}, r"no training rows in .*a.json"),
        ([1, 2], r"a.json: no users, num_samples, user_data"),
    ],
)
def test_damaged_files_leave_nothing_behind(tmp_path: Path, content: Any, message: str) -> None:
    path = write(tmp_path / "a.json", content)
    with pytest.raises(DataError, match=message):
        convert_leaf(Leaf(out=out_of(tmp_path), sources=(path,)))
    assert list(out_of(tmp_path).parent.iterdir()) == []


def test_damaged_text(tmp_path: Path) -> None:
    content = speeches({"FOOL": "LEAR"})
    content["user_data"]["FOOL"]["x"][7] = "é" * 80
    path = write(tmp_path / "a.json", content)
    with pytest.raises(DataError, match=r"'FOOL': row 7 .*character 'é'.*--vocabulary"):
        convert_leaf(Leaf(out=out_of(tmp_path), sources=(path,)))
    content["user_data"]["FOOL"]["x"][7] = "short"
    write(path, content)
    with pytest.raises(DataError, match=r"'FOOL': x, row 7 is not a text of 80 characters"):
        convert_leaf(Leaf(out=out_of(tmp_path), sources=(path,)))
    path.write_text('{"users": [')
    with pytest.raises(DataError, match=r"a.json: not a JSON file"):
        convert_leaf(Leaf(out=out_of(tmp_path), sources=(path,)))


def test_an_existing_folder_is_not_touched(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", images({"a": 5}))
    kept = write(out_of(tmp_path) / "mine.json", {})
    with pytest.raises(DataError, match="exists already and is not overwritten"):
        convert_leaf(Leaf(out=out_of(tmp_path), sources=(path,)))
    assert [entry.name for entry in out_of(tmp_path).iterdir()] == [kept.name]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": ()}, r"either files to split, or both --train and --test"),
        ({"train": (Path("a.json"),)}, r"either files to split, or both"),
        ({"test_fraction": 1.5}, r"--test-fraction is 1.5"),
        ({"vocabulary": "aa"}, r"--vocabulary has a character twice"),
        ({"levels": ("writer", "site")}, r"names 2 levels \(writer, site\), but .*1 \(user\)"),
    ],
)
def test_flags_that_do_not_go_together(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "a.json", images({"a": 5}))
    settings: dict[str, Any] = {"out": out_of(tmp_path), "sources": (path,)}
    with pytest.raises(ConfigError, match=message):
        convert_leaf(Leaf(**(settings | changes)))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "a.json", images({"a": 5, "b": 5}))

    def run(*more: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main(["leaf", str(path), *more])
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out + printed.err

    code, printed = run("--out", str(out_of(tmp_path)))
    assert code == 0
    assert "1/1" in printed
    assert "8 train rows, 2 test rows" in printed
    code, printed = run("--out", str(out_of(tmp_path)))
    assert code == 2
    assert printed.startswith("error: ")
    code, printed = run("--ou", "x")
    assert code == 2
    assert "--out" in printed
