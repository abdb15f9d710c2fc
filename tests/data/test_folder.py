"""Folders of arrays: what they hold, and every way in which they can be wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hlvnn.config import DataConfig
from hlvnn.data import load_data
from hlvnn.data.grouped import Level
from hlvnn.errors import ConfigError, DataError

Arrays = dict[str, Any]


def make_arrays(rows: int = 90) -> Arrays:
    rng = np.random.default_rng(0)
    arrays: Arrays = {}
    for split, n in (("train", rows), ("test", rows // 3)):
        arrays[f"x_{split}"] = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        arrays[f"gid_{split}"] = (np.arange(n) % 6).astype(np.int32)
        arrays[f"gid2_{split}"] = (np.arange(n) % 6 // 3).astype(np.int32)
        arrays[f"y_{split}"] = np.arange(n) % 5
    return arrays


def save(root: Path, arrays: Arrays) -> Path:
    folder = root / "letters" / "small"
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return folder


def config_of(root: Path, **changes: Any) -> DataConfig:
    return DataConfig(dataset="letters", data_dir=root, **changes)


def test_a_folder_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    arrays = make_arrays()
    save(tmp_path, arrays)
    data = load_data(config_of(tmp_path, val_fraction=0))
    assert (data.schema.x_kind, data.schema.x_shape) == ("image", (28, 28))
    assert data.schema.levels == (Level("gid", 6), Level("gid2", 2))
    assert data.schema.target.num_classes == 5
    for name, split in data.splits().items():
        assert split.x.all().dtype == torch.uint8
        assert np.array_equal(split.x.all(), arrays[f"x_{name}"])
        assert np.array_equal(split.groups[:, 0], arrays[f"gid_{name}"])
        assert np.array_equal(split.groups[:, 1], arrays[f"gid2_{name}"])
        assert np.array_equal(split.y, arrays[f"y_{name}"])


def test_validation_is_cut_from_each_group_without_copying_x(tmp_path: Path) -> None:
    save(tmp_path, make_arrays())
    data = load_data(config_of(tmp_path, val_fraction=0.2))
    assert data.counts(0).tolist() == [12] * 6
    assert torch.bincount(data.val.groups[:, 0]).tolist() == [3] * 6
    (train, _), (val, _) = ([t for _, t in s.x.sources()] for s in (data.train, data.val))
    assert train.data_ptr() == val.data_ptr()


def test_files_are_never_written(tmp_path: Path) -> None:
    folder = save(tmp_path, make_arrays())
    before = (folder / "x_train.npy").read_bytes()
    load_data(config_of(tmp_path)).train.x.sources()[0][1].zero_()
    assert (folder / "x_train.npy").read_bytes() == before


def test_the_digest_sees_one_byte(tmp_path: Path) -> None:
    arrays = make_arrays()
    save(tmp_path, arrays)
    before = load_data(config_of(tmp_path)).digest()
    assert load_data(config_of(tmp_path)).digest() == before
    arrays["x_test"][-1, -1, -1] ^= 1
    save(tmp_path, arrays)
    assert load_data(config_of(tmp_path)).digest() != before


@pytest.mark.parametrize(
    ("x", "kind", "shape", "dtype"),
    [
        (np.zeros((90, 784), np.float32), "image", (28, 28), torch.float32),
        (np.zeros((90, 784), np.uint8), "image", (28, 28), torch.uint8),
        (np.zeros((90, 3, 8, 9), np.float64), "image", (3, 8, 9), torch.float32),
        (np.zeros((90, 7), ">f4"), "features", (7,), torch.float32),
        (np.full((90, 80), 61, np.int64), "tokens", (80,), torch.int64),
        (np.full((90, 80), 61, np.uint8), "tokens", (80,), torch.uint8),
        (np.full((90, 80), 61, np.uint16), "tokens", (80,), torch.int32),
    ],
)
def test_the_shape_and_type_of_x_say_what_it_is(
    tmp_path: Path, x: np.ndarray, kind: str, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    save(tmp_path, make_arrays() | {"x_train": x, "x_test": x[:30]})
    data = load_data(config_of(tmp_path))
    assert (data.schema.x_kind, data.schema.x_shape) == (kind, shape)
    assert data.train.x.take(torch.tensor([0])).dtype == dtype
    assert data.train.x.all().shape[1:] == shape
    assert data.schema.num_tokens == (62 if kind == "tokens" else None)


def test_float_y_is_a_real_target(tmp_path: Path) -> None:
    arrays = make_arrays()
    save(tmp_path, arrays | {name: arrays[name] / 2 for name in ("y_train", "y_test")})
    data = load_data(config_of(tmp_path))
    assert data.schema.target.kind == "real"
    assert data.train.y.dtype == torch.float64


def test_levels_json_names_levels_groups_and_classes(tmp_path: Path) -> None:
    folder = save(tmp_path, make_arrays())
    names = {"levels": ["writer", "school"], "labels": {"writer": list("abcdef")}}
    (folder / "levels.json").write_text(json.dumps(names | {"classes": list("vwxyz")}))
    schema = load_data(config_of(tmp_path)).schema
    assert schema.levels == (Level("writer", 6, tuple("abcdef")), Level("school", 2))
    assert schema.target.labels == tuple("vwxyz")


def test_new_groups_in_the_test_rows_integrate_the_prior(tmp_path: Path) -> None:
    arrays = make_arrays()
    kept = arrays["gid_train"] != 2
    for name in ("x", "gid", "gid2", "y"):
        arrays[f"{name}_train"] = arrays[f"{name}_train"][kept]
    save(tmp_path, arrays)
    with pytest.raises(DataError, match=r"gid_test.npy: row 2 .*group 2,.*no training rows.*prior"):
        load_data(config_of(tmp_path))
    data = load_data(config_of(tmp_path, unseen="prior"))
    assert data.schema.levels[0] == Level("gid", 5, (0, 1, 3, 4, 5), (2,))
    groups, gids = data.test.groups[:, 0], data.test.gids[:, 0]
    assert groups[:6].tolist() == [0, 1, -1, 2, 3, 4]
    assert gids[:6].tolist() == [0, 1, 5, 2, 3, 4]


def test_a_folder_without_test_rows(tmp_path: Path) -> None:
    arrays = make_arrays()
    for name in ("x", "gid", "gid2", "y"):
        arrays[f"{name}_test"] = arrays[f"{name}_test"][:0]
    save(tmp_path, arrays)
    assert load_data(config_of(tmp_path)).test is None


# What can be wrong


def edit(name: str, change: Callable[[Any], Any]) -> Callable[[Arrays], None]:
    def apply(arrays: Arrays) -> None:
        arrays[name] = change(arrays[name])

    return apply


def put(name: str, place: Any, value: Any, dtype: Any = None) -> Callable[[Arrays], None]:
    def apply(arrays: Arrays) -> None:
        if dtype is not None:
            for split in ("train", "test"):
                key = f"{name.rsplit('_', 1)[0]}_{split}"
                arrays[key] = arrays[key].astype(dtype)
        arrays[name][place] = value

    return apply


BAD = {
    "missing x": (lambda a: a.pop("x_test"), r"letters/small: missing x_test.npy; a data set is x"),
    "missing y": (lambda a: a.pop("y_train"), r"missing y_train.npy"),
    "missing gid": (lambda a: a.pop("gid_train"), r"missing gid_train.npy"),
    "one gid2 only": (lambda a: a.pop("gid2_test"), r"missing gid2_test.npy"),
    "a gap in gids": (
        lambda a: a.update(gid4_train=a["gid_train"], gid4_test=a["gid_test"]),
        r"missing gid3_train.npy, gid3_test.npy",
    ),
    "short x": (edit("x_train", lambda x: x[:-1]), r"x_train.npy: 89 rows, but y_train.npy has 90"),
    "short gid": (
        edit("gid_test", lambda g: g[:9]),
        r"gid_test.npy: 9 rows, but y_test.npy has 30",
    ),
    "long gid2": (edit("gid2_train", lambda g: np.repeat(g, 2)), r"gid2_train.npy: 180 rows"),
    "negative gid": (put("gid_train", 7, -1), r"gid_train.npy: row 7 .*is -1, expected .*from 0"),
    "negative gid in test": (put("gid_test", 7, -9), r"gid_test.npy: row 7 .*is -9"),
    "gid with holes": (
        edit("gid_train", lambda g: np.where(g == 3, 2, g)),
        r"gid_test.npy: row 3 .*group 3,.*no training rows",
    ),
    "gid with holes in both": (
        lambda a: [a.update({k: np.where(a[k] == 3, 2, a[k])}) for k in ("gid_train", "gid_test")],
        r"gid_train.npy and .*gid_test.npy: .*up to 5 but 3 never occurs; .*without holes",
    ),
    "a huge gid": (put("gid_train", 0, 2**31 - 1), r"go up to 2147483647 but 6 never occurs"),
    "float gid": (edit("gid_train", lambda g: g.astype(float)), r"gid_train.npy: .*got float64"),
    "gid of two levels": (
        edit("gid_train", lambda g: np.stack([g, g], 1)),
        r"gid_train.npy: expected group numbers of shape \[N\], got \[90, 2\].*gid2",
    ),
    "unseen test group": (put("gid_test", 4, 6), r"gid_test.npy: row 4 .*group 6,.*no training"),
    "one-hot y": (
        edit("y_train", lambda y: np.eye(5)[y]),
        r"y_train.npy: .*\[90, 5\]; if it is one-hot, save y.argmax",
    ),
    "negative label": (put("y_train", 8, -1), r"y_train.npy: row 8 .*is -1, expected .* 0 to 4"),
    "label out of range": (
        put("y_test", 8, 5),
        r"y_test.npy: row 8 .*is 5, expected .*0 to 4 \(the largest class number in y_train.npy\)",
    ),
    "a stray label": (put("y_train", 8, 999), r"y_train.npy: row 8 .*is 999, but only 6 different"),
    "float and integer y": (edit("y_test", lambda y: y / 2), r"y_test.npy: holds float64 while"),
    "NaN in y": (put("y_train", 3, np.nan, float), r"y_train.npy: row 3 .*is nan, expected finite"),
    "NaN in x": (
        put("x_train", (40, 2, 3), np.nan, np.float32),
        r"x_train.npy: row 40, column 59 .*is nan, expected finite numbers; mend",
    ),
    "infinity in x": (put("x_test", (5, 0, 0), np.inf, np.float16), r"x_test.npy: row 5, column 0"),
    "empty training set": (
        lambda a: a.update({k: v[:0] for k, v in a.items() if k.endswith("train")}),
        r"y_train.npy: the training set is empty",
    ),
    "other x in test": (
        edit("x_test", lambda x: x[:, :20]),
        r"x_test.npy: rows of shape \[20, 28\].*x_train.npy has \[28, 28\]",
    ),
    "text in y": (edit("y_train", lambda y: y.astype(str)), r"y_train.npy: expected integers or"),
    "objects in x": (
        edit("x_train", lambda x: x.astype(object)),
        r"x_train.npy: holds Python objects",
    ),
    "one number": (edit("x_train", lambda x: np.float32(3)), r"x_train.npy: expected an array"),
    "five-dimensional x": (
        lambda a: a.update({k: v[:, None, None] for k, v in a.items() if k[0] == "x"}),
        r"x_train.npy: shape \[90, 1, 1, 28, 28\] of uint8 is no known input",
    ),
    "negative token": (
        lambda a: a.update(x_train=np.full((90, 8), -1), x_test=np.zeros((30, 8), int)),
        r"x_train.npy: row 0, column 0 .*is -1, expected tokens from 0",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arrays_name_file_row_and_expectation(tmp_path: Path, case: str) -> None:
    arrays = make_arrays()
    change, message = BAD[case]
    change(arrays)
    save(tmp_path, arrays)
    with pytest.raises(DataError, match=message) as caught:
        load_data(config_of(tmp_path))
    assert str(tmp_path) in str(caught.value)


def test_a_file_cut_short(tmp_path: Path) -> None:
    path = save(tmp_path, make_arrays()) / "x_train.npy"
    whole = path.read_bytes()
    for content in (whole[:-100], whole[:20], b""):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"x_train.npy: .*write it again"):
            load_data(config_of(tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"levels.json: .*JSON"),
        (
            '{"level": ["writer"]}',
            r"levels.json: level: no such setting.*any of: x_kind, .*levels, labels",
        ),
        ('{"levels": ["writer"]}', r"names 1 levels \(writer\), but the folder has gid, gid2"),
        ('{"labels": {"gid": ["a"]}}', r"1 labels for level 'gid', but the arrays have 6 groups"),
        ('{"num_classes": 4}', r"y_train.npy: row 4 .*is 4, .*0 to 3 \(num_classes in levels.json"),
    ],
)
def test_a_wrong_levels_json(tmp_path: Path, content: str, message: str) -> None:
    (save(tmp_path, make_arrays()) / "levels.json").write_text(content)
    with pytest.raises(DataError, match=message):
        load_data(config_of(tmp_path))


def test_unknown_data_sets_list_what_there_is(tmp_path: Path) -> None:
    save(tmp_path, make_arrays())
    with pytest.raises(DataError, match=r"'leters'; did you mean 'letters'\?.*digits, letters"):
        load_data(DataConfig(dataset="leters", data_dir=tmp_path))
    with pytest.raises(DataError, match=r"unknown data set ''.*Known: .*shakespeare"):
        load_data(DataConfig(data_dir=tmp_path / "nowhere"))


def test_a_size_that_is_not_there(tmp_path: Path) -> None:
    save(tmp_path, make_arrays())
    with pytest.raises(DataError, match=r"letters/large: no such folder; .*has small.*--data-size"):
        load_data(config_of(tmp_path, data_size="large"))


def test_hold_out_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    with pytest.raises(ConfigError, match="hold_out"):
        load_data(config_of(tmp_path, hold_out=0.5))
    save(tmp_path, make_arrays())
    data = load_data(config_of(tmp_path, hold_out=0.5, unseen="prior"))
    assert data.schema.levels[0].size == 3
    assert len(data.test) == 30 + 45
