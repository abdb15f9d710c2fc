"""A folder of arrays: DATA_DIR/DATASET/{small,large}/{x,gid,gid2,…,y}_{train,test}.npy.

x: images, tokens or features (see `arrays`). Memory-mapped, so that only the rows in use are in
    memory.
gid, gid2, …: [N] integer, the groups of each level, lowest level first, 0..G-1 over all splits
y: [N] integer class numbers 0..K-1, or float for a real target

A row is one example, in the same place of every array. Where there are x_val.npy and the others,
they are the validation rows. Optional `dataset.json` (see `Description`; `levels.json` in older
folders) says what x is and gives names; `python -m hlvnn.data.convert` writes it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from hlvnn import errors
from hlvnn.columns import TEST, TRAIN, VAL
from hlvnn.config import DataConfig
from hlvnn.data import arrays as kinds
from hlvnn.data import validation
from hlvnn.data.arrays import XKind
from hlvnn.data.grouped import Level, Loaded, Schema, Split, Target, unseen_message
from hlvnn.data.rows import TensorRows
from hlvnn.errors import DataError

DESCRIPTION = "dataset.json"
"""Optional file beside the arrays: what x is; names of levels, groups, classes and characters."""
OLDER = "levels.json"
"""The same, as it was called before."""
SETTINGS = ("data_size", "x_kind")
SPLITS = (TRAIN, TEST)
"""The splits that every folder has."""
MANY_CLASSES = 64
"""Up to here, class numbers that no training row has raise no suspicion."""


class Description(BaseModel):
    """What `dataset.json` may hold; every entry is optional."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    x_kind: XKind | None = None
    """What x is, as --x-kind; without it that is told from shape and type."""
    x_shape: list[int] | None = None
    """Shape of a row, where x holds each row flat: [24, 24, 3]."""
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


def folder_of(config: DataConfig) -> Path:
    """Return the folder that the arrays of a data set are in."""
    return config.data_dir / config.dataset / config.data_size


def files(config: DataConfig) -> list[Path]:
    """Return the files that the data come from."""
    folder = folder_of(config)
    return [*folder.glob("*.npy"), *(folder / name for name in (DESCRIPTION, OLDER))]


def load(config: DataConfig) -> Loaded:
    """Open DATA_DIR/DATASET/SIZE: training and test rows, and validation rows where it has them.

    Raises `DataError` naming the file, the row, what was expected and what to do.
    """
    folder = folder_of(config)
    description = read_description(folder)
    gids = _gid_names(folder, description)
    names = ("x", *gids, "y")
    there = [TRAIN, *([VAL] if any(folder.glob(f"*_{VAL}.npy")) else []), TEST]
    paths = {name: [folder / f"{name}_{split}.npy" for split in there] for name in names}
    _check_present(folder, [path for some in paths.values() for path in some])
    arrays = {name: [read_array(path) for path in some] for name, some in paths.items()}
    validation.check_not_empty(len(arrays["y"][0]), str(paths["y"][0]))
    for name, some in paths.items():
        for path, array, y, y_path in zip(some, arrays[name], arrays["y"], paths["y"], strict=True):
            if array.ndim == 0:
                raise DataError(f"{path}: expected an array with a row per example, got one number")
            validation.check_length(len(array), str(path), len(y), y_path.name)
    levels = tuple(
        _level(config, description, i, paths[gid], arrays[gid]) for i, gid in enumerate(gids)
    )
    described_in = _described_in(folder)
    target = _target(description, described_in, paths["y"], arrays["y"])
    asked = config.x_kind or description.x_kind
    meaning = kinds.of(
        paths["x"], arrays["x"], asked, description.x_shape, description.vocabulary, described_in
    )
    schema = Schema(
        levels=levels,
        x_kind=meaning.kind,
        x_shape=meaning.shape,
        num_tokens=meaning.num_tokens,
        vocabulary=description.vocabulary if meaning.kind == "tokens" else None,
        target=target,
    )
    parts = {
        name: Split(
            TensorRows(meaning.tensor(arrays["x"][i]), str(paths["x"][i])),
            torch.from_numpy(np.stack([arrays[gid][i].astype(np.int32) for gid in gids], axis=1)),
            torch.from_numpy(
                arrays["y"][i].astype(np.int64 if target.kind == "class" else np.float64)
            ),
        )
        for i, name in enumerate(there)
    }
    test = parts[TEST] if len(parts[TEST]) else None
    notes = [meaning.note, _target_note(target, asked is None)]
    return Loaded(
        schema,
        parts[TRAIN],
        test=test,
        val=parts.get(VAL),
        test_fraction=0.0,
        notes=tuple(note for note in notes if note),
    )


def _target_note(target: Target, inferred: bool) -> str:
    if not inferred:
        return ""
    if target.kind == "real":
        return "y: floats, taken as real"
    return f"y: integers, taken as {target.num_classes} classes"


def _described_in(folder: Path) -> str:
    """Return the name of the file that describes the folder, or would."""
    return OLDER if (folder / OLDER).exists() else DESCRIPTION


def read_description(folder: Path) -> Description:
    """Read the folder's `dataset.json`, if it has one; raise `DataError` if it is damaged."""
    there = [folder / name for name in (DESCRIPTION, OLDER) if (folder / name).exists()]
    if len(there) > 1:
        raise DataError(f"{folder}: has {DESCRIPTION} and {OLDER}; keep one of them")
    if not there:
        return Description()
    path = there[0]
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
    """Return gid, gid2, … as far as files or `dataset.json` say."""
    found = {
        path.name.rsplit("_", 1)[0]
        for split in (*SPLITS, VAL)
        for path in folder.glob(f"gid*_{split}.npy")
    }
    numbers = [1, *(int(name[3:]) for name in found if name[3:].isdecimal())]
    count = max(numbers)
    if description.levels is not None and len(description.levels) != count:
        listed = ", ".join(sorted(found)) or "no group arrays"
        raise DataError(
            f"{folder / _described_in(folder)}: names {len(description.levels)} levels "
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
            "levels) and y, each as _train.npy and _test.npy, and all or none as _val.npy"
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
    train = arrays[0]
    size = max(int(array.max(initial=0)) for array in arrays) + 1
    validation.check_dense(np.concatenate(arrays), " and ".join(map(str, paths)), size)
    labels = description.labels.get(name)
    if labels is not None and len(labels) != size:
        raise DataError(
            f"{paths[0].parent / _described_in(paths[0].parent)}: {len(labels)} labels for level "
            f"{name!r}, but the arrays have {size} groups; expected one label per group, in their "
            "order"
        )
    level = Level(name, size, None if labels is None else tuple(labels))
    for path, array in zip(paths[1:], arrays[1:], strict=True):
        untrained = np.bincount(train, minlength=size)[array] == 0
        if untrained.any() and config.unseen == "error":
            raise DataError(unseen_message(str(path), level, array, untrained))
    return level


def _target(
    description: Description, described_in: str, paths: list[Path], arrays: list[np.ndarray]
) -> Target:
    for path, array in zip(paths, arrays, strict=True):
        validation.check_vector(array, str(path), "y")
    train = arrays[0]
    if any(array.dtype.kind == "f" for array in arrays):
        for path, array in zip(paths, arrays, strict=True):
            if train.dtype.kind != array.dtype.kind and len(array):
                raise DataError(
                    f"{path}: holds {array.dtype} while {paths[0].name} holds {train.dtype}; save "
                    "both as integers (classes) or both as floats (a real target)"
                )
        for path, array in zip(paths, arrays, strict=True):
            validation.check_finite(torch.from_numpy(array), str(path))
        return Target("y", "real")
    count, source = description.num_classes, f"num_classes in {described_in}"
    if count is None and description.classes is not None:
        count, source = len(description.classes), f"classes in {described_in}"
    if count is None:
        count, source = int(train.max()) + 1, f"the largest class number in {paths[0].name}"
        distinct = len(np.unique(train))
        if count > 4 * distinct + MANY_CLASSES:
            raise DataError(
                f"{paths[0]}: row {int(train.argmax())} (rows count from 0) is {train.max()}, but "
                f"only {distinct} different class numbers occur; expected 0..K-1; mend the row, or "
                f'say {{"num_classes": {count}}} in {described_in} if it is right'
            )
    for path, array in zip(paths, arrays, strict=True):
        validation.check_labels(array, str(path), max(count, 1), source)
    if count < 2 or train.min() == train.max():
        raise DataError(
            f"{paths[0]}: one class, {train[0]}, in all {len(train)} rows; expected two or more; "
            "for a real target save y as floats"
        )
    classes = None if description.classes is None else tuple(description.classes)
    return Target("y", "class", classes, count)
