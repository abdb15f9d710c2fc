"""A folder of arrays: DATA_DIR/DATASET/{small,large}/{x,gid,gid2,…,y}_{train,test}.npy.

x: images [N, H, W] or [N, C, H, W] (uint8 0..255, or float), or [N, 784] of these, read as 28×28;
    tokens [N, W] of any other integer type, from 0; features [N, D] float. Memory-mapped, so that
    only the rows in use are in memory.
gid, gid2, …: [N] integer, the groups of each level, lowest level first, 0..G-1 over both splits
y: [N] integer class numbers 0..K-1, or float for a real target

A row is one example, in the same place of every array. Optional `levels.json` (see `Description`)
gives names; `python -m hlvnn.data.convert` writes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from hlvnn import errors
from hlvnn.columns import TEST, TRAIN
from hlvnn.config import DataConfig
from hlvnn.data import validation
from hlvnn.data.assemble import assemble, check_hold_out
from hlvnn.data.grouped import GroupedDataset, Level, Schema, Split, Target, unseen_message
from hlvnn.data.rows import TensorRows
from hlvnn.errors import DataError

DESCRIPTION = "levels.json"
"""Optional file beside the arrays: names of levels, groups, classes and characters."""
SPLITS = (TRAIN, TEST)
SIDE = 28
"""Height and width of images that come as 784 numbers a row."""
MANY_CLASSES = 64
"""Up to here, class numbers that no training row has raise no suspicion."""


class Description(BaseModel):
    """What `levels.json` may hold; every entry is optional."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    levels: list[str] | None = None
    """Names of the levels, lowest first; without it gid, gid2, …"""
    labels: dict[str, list[str | int]] = {}
    """Per level, what group 0, 1, … is called."""
    num_classes: int | None = None
    """Number of classes; without it the largest class number in y_train, plus one."""
    classes: list[str | int] | None = None
    """What class 0, 1, … is called."""
    vocabulary: str | None = None
    """The character that token 0, 1, … stands for."""


@dataclass(frozen=True)
class Input:
    """What x is: the kind and shape of a row, and the number of tokens."""

    kind: Literal["image", "tokens", "features"]
    shape: tuple[int, ...]
    num_tokens: int | None = None


def load_folder(config: DataConfig) -> GroupedDataset:
    """Open DATA_DIR/DATASET/SIZE and cut its validation split from the training rows.

    Raises `DataError` naming the file, the row, what was expected and what to do.
    """
    check_hold_out(config)
    folder = config.data_dir / config.dataset / config.data_size
    description = read_description(folder)
    gids = _gid_names(folder, description)
    paths = {
        name: [folder / f"{name}_{split}.npy" for split in SPLITS] for name in ("x", *gids, "y")
    }
    _check_present(folder, [path for pair in paths.values() for path in pair])
    arrays = {name: [read_array(path) for path in pair] for name, pair in paths.items()}
    validation.check_not_empty(len(arrays["y"][0]), str(paths["y"][0]))
    for name, pair in paths.items():
        for path, array, y, y_path in zip(pair, arrays[name], arrays["y"], paths["y"], strict=True):
            if array.ndim == 0:
                raise DataError(f"{path}: expected an array with a row per example, got one number")
            validation.check_length(len(array), str(path), len(y), y_path.name)
    levels = tuple(
        _level(config, description, i, paths[gid], arrays[gid]) for i, gid in enumerate(gids)
    )
    target = _target(description, paths["y"], arrays["y"])
    meaning = _input(paths["x"], arrays["x"], description)
    schema = Schema(
        levels=levels,
        x_kind=meaning.kind,
        x_shape=meaning.shape,
        num_tokens=meaning.num_tokens,
        vocabulary=description.vocabulary if meaning.kind == "tokens" else None,
        target=target,
        unseen=config.unseen,
    )
    train, test = (
        Split(
            TensorRows(_tensor(arrays["x"][i], meaning), str(paths["x"][i])),
            torch.from_numpy(np.stack([arrays[gid][i].astype(np.int32) for gid in gids], axis=1)),
            torch.from_numpy(
                arrays["y"][i].astype(np.int64 if target.kind == "class" else np.float64)
            ),
        )
        for i in range(2)
    )
    return assemble(config, schema, train, test if len(test) else None)


def read_description(folder: Path) -> Description:
    """Read the folder's `levels.json`, if it has one; raise `DataError` if it is damaged."""
    path = folder / DESCRIPTION
    if not path.exists():
        return Description()
    try:
        return Description.model_validate_json(path.read_bytes())
    except ValidationError as error:
        known = ", ".join(Description.model_fields)
        problems = errors.from_validation(error, str(path))
        raise DataError(f"{problems}. Expected a JSON object with any of: {known}.") from error


def read_array(path: Path) -> np.ndarray:
    """Open one .npy file memory-mapped (written changes stay in memory)."""
    try:
        array: np.ndarray = np.load(path, mmap_mode="c", allow_pickle=False)
    except ValueError as error:
        if "Python objects" in str(error):
            raise DataError(f"{path}: holds Python objects, expected plain numbers") from error
        raise DataError(f"{path}: not a whole .npy file ({error}); write it again") from error
    except (OSError, EOFError) as error:
        raise DataError(f"{path}: cannot be read ({error}); write it again") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        kind = getattr(array, "dtype", type(array).__name__)
        raise DataError(f"{path}: expected integers or floats, got {kind}")
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return array


def _gid_names(folder: Path, description: Description) -> list[str]:
    """Return gid, gid2, … as far as files or `levels.json` say."""
    found = {
        path.name.rsplit("_", 1)[0] for split in SPLITS for path in folder.glob(f"gid*_{split}.npy")
    }
    numbers = [1, *(int(name[3:]) for name in found if name[3:].isdecimal())]
    count = max(numbers)
    if description.levels is not None and len(description.levels) != count:
        listed = ", ".join(sorted(found)) or "no group arrays"
        raise DataError(
            f"{folder / DESCRIPTION}: names {len(description.levels)} levels "
            f"({', '.join(description.levels)}), but the folder has {listed}; expected one name "
            "per group array gid, gid2, …, lowest level first"
        )
    return ["gid" if i == 1 else f"gid{i}" for i in range(1, count + 1)]


def _check_present(folder: Path, paths: list[Path]) -> None:
    if not folder.is_dir():
        sizes = sorted(path.name for path in folder.parent.iterdir() if path.is_dir())
        raise DataError(
            f"{folder}: no such folder; {folder.parent} has {', '.join(sizes) or 'no folders'}; "
            "choose one of them with --data-size, or put the arrays there"
        )
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise DataError(
            f"{folder}: missing {', '.join(missing)}; a data set is x, gid (gid2, … for more "
            "levels) and y, each as _train.npy and _test.npy"
        )


def _level(
    config: DataConfig,
    description: Description,
    i: int,
    paths: list[Path],
    arrays: list[np.ndarray],
) -> Level:
    for path, array in zip(paths, arrays, strict=True):
        validation.check_groups(array, str(path))
    name = description.levels[i] if description.levels else paths[0].name.rsplit("_", 1)[0]
    train, test = arrays
    size = int(max(train.max(), test.max(initial=0))) + 1
    validation.check_dense(np.concatenate(arrays), " and ".join(map(str, paths)), size)
    labels = description.labels.get(name)
    if labels is not None and len(labels) != size:
        raise DataError(
            f"{paths[0].parent / DESCRIPTION}: {len(labels)} labels for level {name!r}, but the "
            f"arrays have {size} groups; expected one label per group, in their order"
        )
    level = Level(name, size, None if labels is None else tuple(labels))
    untrained = np.bincount(train, minlength=size)[test] == 0
    if untrained.any() and config.unseen == "error":
        raise DataError(unseen_message(str(paths[1]), level, test, untrained))
    return level


def _target(description: Description, paths: list[Path], arrays: list[np.ndarray]) -> Target:
    for path, array in zip(paths, arrays, strict=True):
        validation.check_vector(array, str(path), "y")
    train, test = arrays
    if train.dtype.kind == "f" or test.dtype.kind == "f":
        if train.dtype.kind != test.dtype.kind and len(test):
            raise DataError(
                f"{paths[1]}: holds {test.dtype} while {paths[0].name} holds {train.dtype}; save "
                "both as integers (classes) or both as floats (a real target)"
            )
        for path, array in zip(paths, arrays, strict=True):
            validation.check_finite(torch.from_numpy(array), str(path))
        return Target("y", "real")
    count, source = description.num_classes, f"num_classes in {DESCRIPTION}"
    if count is None and description.classes is not None:
        count, source = len(description.classes), f"classes in {DESCRIPTION}"
    if count is None:
        count, source = int(train.max()) + 1, f"the largest class number in {paths[0].name}"
        distinct = len(np.unique(train))
        if count > 4 * distinct + MANY_CLASSES:
            raise DataError(
                f"{paths[0]}: row {int(train.argmax())} (rows count from 0) is {train.max()}, but "
                f"only {distinct} different class numbers occur; expected 0..K-1; mend the row, or "
                f'say {{"num_classes": {count}}} in {DESCRIPTION} if it is right'
            )
    for path, array in zip(paths, arrays, strict=True):
        validation.check_labels(array, str(path), max(count, 1), source)
    classes = None if description.classes is None else tuple(description.classes)
    return Target("y", "class", classes, count)


def _input(paths: list[Path], arrays: list[np.ndarray], description: Description) -> Input:
    train, test = arrays
    if train.shape[1:] != test.shape[1:] or train.dtype != test.dtype:
        raise DataError(
            f"{paths[1]}: rows of shape {list(test.shape[1:])} and type {test.dtype}, but "
            f"{paths[0].name} has {list(train.shape[1:])} and {train.dtype}; save both the same way"
        )
    byte_or_float = train.dtype == np.uint8 or train.dtype.kind == "f"
    if train.ndim in (3, 4) and byte_or_float:
        return Input("image", train.shape[1:])
    if train.ndim == 2 and train.shape[1] == SIDE**2 and byte_or_float:
        return Input("image", (SIDE, SIDE))
    if train.ndim == 2 and train.dtype.kind == "f":
        return Input("features", train.shape[1:])
    if train.ndim == 2 and train.dtype.kind in "iu":
        known = len(description.vocabulary) if description.vocabulary else None
        for path, array in zip(paths, arrays, strict=True):
            _check_tokens(path, array, known)
        largest = max(int(array.max(initial=0)) for array in arrays)
        return Input("tokens", train.shape[1:], known or largest + 1)
    raise DataError(
        f"{paths[0]}: shape {list(train.shape)} of {train.dtype} is no known input; expected "
        "images [N, H, W] or [N, C, H, W] (uint8 or float), tokens [N, W] (integer) or "
        "features [N, D] (float)"
    )


def _check_tokens(path: Path, array: np.ndarray, known: int | None) -> None:
    most = np.inf if known is None else known - 1
    if array.size and (int(array.min()) < 0 or int(array.max()) > most):
        row, place = (int(i) for i in np.argwhere((array < 0) | (array > most))[0])
        upto = "" if known is None else f" to {known - 1} (the vocabulary of {DESCRIPTION})"
        raise DataError(
            f"{path}: row {row}, column {place} (counted from 0) is {array[row, place]}, expected "
            f"tokens from 0{upto}; renumber the tokens"
        )


def _tensor(array: np.ndarray, meaning: Input) -> torch.Tensor:
    """Wrap x without copying, but for types that torch cannot gather."""
    if array.dtype in (np.uint16, np.uint32, np.uint64):
        array = array.astype(np.int32 if array.dtype == np.uint16 else np.int64)
    return torch.from_numpy(array).reshape(len(array), *meaning.shape)
