"""Convert other formats into a folder of arrays.

    python -m hlvnn.data.convert leaf all_data/*.json --out data/femnist/large --levels writer
    python -m hlvnn.data.convert leaf --train train/ --test test/ --out data/plays/small

The folder is written under another name beside its place and renamed when it is whole; one that
exists is never touched.
"""

from __future__ import annotations

import os
import runpy
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
import tyro

from hlvnn.data import leaf, splits
from hlvnn.data.arrays import XKind
from hlvnn.data.folder import DESCRIPTION, SPLITS, Description
from hlvnn.errors import ConfigError, DataError
from hlvnn.strict import Config


class Leaf(Config):
    """Convert LEAF's JSON (`users`, `num_samples`, `user_data`) into a folder of arrays.

    Give either files to split inside each user, or --train and --test. Test rows are drawn at
    random; of text they are each user's last, and training rows that overlap them are dropped.
    """

    out: Path
    """Folder to write, DATA_DIR/DATASET/SIZE; it must not exist."""
    sources: tyro.conf.Positional[tuple[Path, ...]] = ()
    """JSON files, or folders of them, to split inside each user."""
    train: tuple[Path, ...] = ()
    """JSON files, or folders of them, of the training rows (with --test)."""
    test: tuple[Path, ...] = ()
    """JSON files, or folders of them, of the test rows (with --train)."""
    levels: tuple[str, ...] = ()
    """Names of the group levels, lowest first; none given = user (and hierarchy)."""
    test_fraction: float = 0.2
    """Share of each user's rows kept for testing."""
    seed: int = 0
    """Seed of the random split."""
    vocabulary: str = leaf.VOCABULARY
    """Characters of a text in the order of their tokens; the default is LEAF's 80."""


def convert_leaf(config: Leaf) -> int:
    """Convert, reading one JSON file at a time; returns the exit status.

    Raises `ConfigError` for flags that do not go together, `DataError` for damaged files, files of
    different kinds, and an output folder that exists.
    """
    jobs = _jobs(config)
    if config.out.exists():
        raise DataError(
            f"{config.out}: exists already and is not overwritten; move it or choose another --out"
        )
    with _renaming_when_whole(config.out) as folder:
        book = _Book(folder, config)
        for number, (path, split) in enumerate(jobs, start=1):
            users = rows = 0
            for user in leaf.read_users(path, config.vocabulary):
                for name, index in _split_rows(config, user, split, book.number_of(user)).items():
                    book.write(user, name, index, path)
                users += 1
                rows += len(user.y)
            _say(f"{number}/{len(jobs)} {path}: {users:,} users, {rows:,} rows")
        book.close()
    _say(f"wrote {config.out}: " + ", ".join(f"{n:,} {name} rows" for name, n in book.rows.items()))
    return 0


@dataclass
class _Writer:
    """One .npy file that grows row by row."""

    path: Path
    dtype: np.dtype
    row_shape: tuple[int, ...]
    rows: int = 0
    file: BinaryIO = field(init=False)

    def __post_init__(self) -> None:
        self.file = self.path.open("wb")
        self._header()

    def append(self, array: np.ndarray) -> None:
        self.file.write(np.ascontiguousarray(array, self.dtype).tobytes())
        self.rows += len(array)

    def close(self) -> None:
        self.file.seek(0)
        self._header()
        self.file.close()

    def _header(self) -> None:
        # numpy leaves room in a header for the first axis to grow, so its length never changes
        header = {
            "descr": np.lib.format.dtype_to_descr(self.dtype),
            "fortran_order": False,
            "shape": (self.rows, *self.row_shape),
        }
        np.lib.format.write_array_header_1_0(self.file, header)


class _Book:
    """The arrays being written, and the numbers given to users so far."""

    def __init__(self, folder: Path, config: Leaf) -> None:
        self.folder = folder
        self.config = config
        self.users: dict[str, int] = {}
        self.uppers: dict[str, int] = {}
        self.upper_of: list[int | None] = []
        self.writers: dict[str, _Writer] = {}
        self.rows = dict.fromkeys(SPLITS, 0)
        self.first: leaf.User | None = None
        self.levels: list[str] = []
        self.num_classes = 0

    def number_of(self, user: leaf.User) -> int:
        """Return the user's group number, a new one for a user not seen before."""
        if user.name not in self.users:
            self.users[user.name] = len(self.users)
            upper = user.upper
            number = None if upper is None else self.uppers.setdefault(upper, len(self.uppers))
            self.upper_of.append(number)
        return self.users[user.name]

    def write(self, user: leaf.User, split: str, index: np.ndarray, path: Path) -> None:
        """Append rows of one user to a split."""
        if self.first is None:
            self.first = user
            self.levels = _level_names(self.config, user)
        first = self.first
        if (user.x.shape[1:], user.x.dtype, user.y.dtype, user.upper is None) != (
            first.x.shape[1:],
            first.x.dtype,
            first.y.dtype,
            first.upper is None,
        ):
            raise DataError(
                f"{path}: user {user.name!r} has x of {user.x.dtype} {list(user.x.shape[1:])} and "
                f"y of {user.y.dtype}, but {first.name!r} has {first.x.dtype} "
                f"{list(first.x.shape[1:])} and {first.y.dtype}; expected one kind of row in all "
                "files"
            )
        gid = self.users[user.name]
        arrays = {"x": user.x[index], "gid": np.full(len(index), gid, np.int32)}
        if self.upper_of[gid] is not None:
            arrays["gid2"] = np.full(len(index), self.upper_of[gid], np.int32)
        arrays["y"] = user.y[index]
        for name, array in arrays.items():
            self._writer(f"{name}_{split}.npy", array.dtype, array.shape[1:]).append(array)
        self.rows[split] += len(index)
        if user.y.dtype.kind == "i":
            self.num_classes = max(self.num_classes, int(user.y.max()) + 1)

    def _writer(self, file: str, dtype: np.dtype, row_shape: tuple[int, ...]) -> _Writer:
        if file not in self.writers:
            self.writers[file] = _Writer(self.folder / file, dtype, row_shape)
        return self.writers[file]

    def close(self) -> None:
        """Finish the files and write the description."""
        if self.first is None or not self.rows["train"]:
            raise DataError(f"no training rows in {_listed(self.config)}; expected users with rows")
        for name, writer in list(self.writers.items()):
            self._writer(name.replace("train", "test"), writer.dtype, writer.row_shape)
        for writer in self.writers.values():
            writer.close()
        vocabulary = self.config.vocabulary
        num_classes: int | None = self.num_classes
        if self.first.y_text:
            num_classes = len(vocabulary)
        elif self.first.y.dtype.kind == "f":
            num_classes = None
        description = Description(
            x_kind=self._x_kind(self.first),
            levels=self.levels,
            labels={
                name: list(numbers)
                for name, numbers in zip(self.levels, (self.users, self.uppers), strict=False)
            },
            num_classes=num_classes,
            classes=list(vocabulary) if self.first.y_text else None,
            vocabulary=vocabulary if self.first.text else None,
        )
        (self.folder / DESCRIPTION).write_text(description.model_dump_json(exclude_none=True))

    def _x_kind(self, user: leaf.User) -> XKind:
        if user.x.ndim > 2:
            return "image"
        return "features" if user.x.dtype.kind == "f" else "tokens"


def _level_names(config: Leaf, user: leaf.User) -> list[str]:
    found = ["user"] if user.upper is None else ["user", "hierarchy"]
    if config.levels and len(config.levels) != len(found):
        raise ConfigError(
            f"--levels names {len(config.levels)} levels ({', '.join(config.levels)}), but the "
            f"files have {len(found)} ({', '.join(found)}); give one name for each, lowest first"
        )
    return list(config.levels) or found


def _jobs(config: Leaf) -> list[tuple[Path, str | None]]:
    """Return the JSON files with the split they belong to (None = split inside each user)."""
    if bool(config.sources) == bool(config.train or config.test) or (
        bool(config.train) != bool(config.test)
    ):
        raise ConfigError("give either files to split, or both --train and --test")
    if not 0 < config.test_fraction < 1:
        raise ConfigError(
            f"--test-fraction is {config.test_fraction}, expected a share between 0 and 1"
        )
    if len(set(config.vocabulary)) != len(config.vocabulary):
        raise ConfigError("--vocabulary has a character twice")
    given = [(config.sources, None), (config.train, "train"), (config.test, "test")]
    return [(path, split) for paths, split in given for path in _json_files(paths)]


def _json_files(paths: tuple[Path, ...]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        inside = sorted(path.glob("*.json")) if path.is_dir() else [path]
        if not inside or not inside[0].is_file():
            raise DataError(f"{path}: no such JSON file, or a folder without any (*.json)")
        found += inside
    return found


def _split_rows(
    config: Leaf, user: leaf.User, split: str | None, gid: int
) -> dict[str, np.ndarray]:
    everything = np.arange(len(user.y))
    if split is not None:
        return {split: everything}
    one_group = np.zeros(len(user.y), np.int64)
    if user.text:
        gap = splits.overlap(user.take, one_group)
        keep, cut = splits.in_order(one_group, config.test_fraction, gap)
    else:
        seed = (config.seed, splits.TEST, gid)
        keep, cut = splits.within_groups(one_group, config.test_fraction, seed)
        if len(cut) == 0:
            share = (config.test_fraction, (*seed, splits.ACROSS))
            keep, cut = splits.across_groups(one_group[:, None], everything, everything, *share)
    return {"train": keep, "test": cut}


@contextmanager
def _renaming_when_whole(out: Path) -> Iterator[Path]:
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _listed(config: Leaf) -> str:
    return ", ".join(map(str, [*config.sources, *config.train, *config.test]))


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    runpy.run_module("hlvnn.commands.convert", run_name="__main__")
