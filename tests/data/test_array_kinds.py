"""Folders of arrays: what x is must be plain, or said."""

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
from hlvnn.data.leaf import VOCABULARY, read_users
from hlvnn.errors import DataError
from tests.conftest import Ended

RNG = np.random.default_rng(0)
N = 120


def pixels(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, (N, *shape), dtype=np.uint8)


def save(root: Path, x: np.ndarray, **said: Any) -> DataConfig:
    place = root / "letters" / "small"
    place.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        np.save(place / f"x_{split}.npy", x)
        np.save(place / f"gid_{split}.npy", (np.arange(len(x)) % 5).astype(np.int32))
        np.save(place / f"y_{split}.npy", np.arange(len(x)) % 3)
    (place / "dataset.json").write_text(json.dumps(said))
    return DataConfig(dataset="letters", data_dir=root)


COLUMNS = np.stack([RNG.integers(0, 90, N), RNG.integers(0, 2, N)], axis=1)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (pixels(1728), r"would be read as text, but holds bytes up to 255; .*--x-kind.*dataset.js"),
        (pixels(24, 24, 4), r"looks like images with their channels last.* 24 channels of 24×4"),
        (RNG.normal(size=(N, 50, 3)), r"would be images of 50×3 pixels; sequences .*--x-kind"),
        (COLUMNS, r"would be read as text, but has columns that end at 1 and at 8\d"),
    ],
)
def test_what_is_hardly_what_it_looks_like_is_refused(
    tmp_path: Path, x: np.ndarray, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load_data(save(tmp_path, x))


@pytest.mark.parametrize(
    ("x", "said", "kind", "shape"),
    [
        (pixels(1728), {"x_kind": "channels-last", "x_shape": [24, 24, 3]}, "image", (3, 24, 24)),
        (pixels(1728), {"x_kind": "image", "x_shape": [3, 24, 24]}, "image", (3, 24, 24)),
        (pixels(576), {"x_kind": "image"}, "image", (24, 24)),
        (pixels(24, 24, 4), {"x_kind": "channels-last"}, "image", (4, 24, 24)),
        (pixels(24, 24, 4), {"x_kind": "image"}, "image", (24, 24, 4)),
        (RNG.normal(size=(N, 50, 3)), {"x_kind": "features"}, "features", (150,)),
        (COLUMNS, {"x_kind": "features"}, "features", (2,)),
        (COLUMNS, {"x_kind": "tokens"}, "tokens", (2,)),
        (pixels(1728), {"x_kind": "tokens"}, "tokens", (1728,)),
    ],
)
def test_the_kind_may_be_said(
    tmp_path: Path, x: np.ndarray, said: Any, kind: str, shape: tuple[int, ...]
) -> None:
    data = load_data(save(tmp_path, x, **said))
    assert (data.schema.x_kind, data.schema.x_shape) == (kind, shape)
    assert data.train.x.take(torch.arange(5)).shape == (5, *shape)
    assert not any(note.startswith("x:") for note in data.notes)
    if "x_shape" not in said:
        config = save(tmp_path, x).model_copy(update={"x_kind": said["x_kind"]})
        assert load_data(config).digest() == data.digest()


def test_channels_that_come_last_are_put_first(tmp_path: Path) -> None:
    x = pixels(6, 5, 3)
    data = load_data(save(tmp_path, x, x_kind="channels-last", x_shape=[6, 5, 3]))
    assert data.test is not None
    assert np.array_equal(data.test.x.all().numpy(), x.transpose(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("x", "said", "message"),
    [
        (pixels(10), {"x_kind": "image"}, r"is to be image and has shape .*as x_shape in dataset"),
        (pixels(10), {"x_shape": [3, 4]}, r"rows of shape \[10\], but x_shape .* is \[3, 4\]"),
        (RNG.normal(size=(N, 9)), {"x_kind": "tokens"}, r"is to be tokens .*expected \[N, W\] int"),
        (COLUMNS, {"x_kind": "image"}, r"is to be image .*astype\('uint8'\)"),
        (COLUMNS, {"x_kind": "picture"}, r"dataset.json: x_kind: "),
    ],
)
def test_a_kind_that_cannot_be_is_refused(
    tmp_path: Path, x: np.ndarray, said: Any, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load_data(save(tmp_path, x, **said))


def test_what_was_inferred_stands_at_the_start_of_a_run(
    tmp_path: Path, train_one: Callable[..., Ended]
) -> None:
    save(tmp_path, pixels(3, 8, 8))
    flags = ("--dataset", "letters", "--data-dir", tmp_path, "--num-epochs", 1, "--channels", 2, 2)
    ended = train_one(*flags, "--results-dir", tmp_path / "results", "--name", "r")
    assert ended.code == 0, ended.err
    assert "x: [120, 3, 8, 8] of uint8, taken as images 8×8, 3 channels" in ended.out
    assert "y: integers, taken as 3 classes" in ended.out


def test_names_of_files_are_no_text(tmp_path: Path) -> None:
    rows = {"x": ["img_0001.png", "img_0002.png"], "y": [0, 1]}
    content = {"users": ["u"], "num_samples": [2], "user_data": {"u": rows}}
    path = tmp_path / "all.json"
    path.write_text(json.dumps(content))
    with pytest.raises(
        DataError, match=r"user 'u': x holds names of files, such as 'img_0001.png'"
    ):
        list(read_users(path, VOCABULARY))
