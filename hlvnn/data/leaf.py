"""LEAF's JSON files, read user by user.

A file is one object: `users` (names), `num_samples` (rows of each), `user_data` (name -> `x`, `y`),
and for some data sets `hierarchies` (the level above, for each user: the play of a character).

Source: S. Caldas and others (2018), LEAF: A Benchmark for Federated Settings.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hlvnn import errors
from hlvnn.data.arrays import FILE_NAME, SIDE
from hlvnn.errors import DataError

VOCABULARY = "\n !\"&'(),-.0123456789:;>?ABCDEFGHIJKLMNOPQRSTUVWXYZ[]abcdefghijklmnopqrstuvwxyz}"
"""LEAF's 80 characters, in the order of their tokens."""


@dataclass(frozen=True)
class User:
    """The rows of one user.

    x: [n, W] uint8 tokens of a text; or [n, 28, 28] or [n, D] float32; or [n, W] int32 tokens
    y: [n] int64 class numbers, or float64
    """

    name: str
    upper: str | None
    x: np.ndarray
    y: np.ndarray
    text: bool
    """Whether x came as text."""
    y_text: bool
    """Whether y came as characters."""

    def take(self, index: torch.Tensor) -> torch.Tensor:
        """Return rows of x."""
        return torch.from_numpy(self.x[index.numpy()])


def read_users(path: Path, vocabulary: str) -> Iterator[User]:
    """Yield the users of one file that have rows.

    Raises `DataError` naming the file, the user, what was expected and what to do.
    """
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: not a JSON file ({error}); fetch or write it again") from error
    expected = ("users", "num_samples", "user_data")
    missing = [key for key in expected if not isinstance(content, dict) or key not in content]
    if missing:
        raise DataError(
            f"{path}: no {', '.join(missing)}; expected a LEAF object with {', '.join(expected)}"
        )
    users, counts, data = (content[key] for key in expected)
    uppers = content.get("hierarchies") or [None] * len(users)
    if not len(users) == len(counts) == len(uppers):
        raise DataError(
            f"{path}: {len(users)} users, {len(counts)} num_samples and {len(uppers)} hierarchies; "
            "expected one entry per user in each"
        )
    for name, count, upper in zip(users, counts, uppers, strict=True):
        if name not in data:
            raise DataError(f"{path}: user_data has no {name!r}{errors.nearest(name, data)}")
        where = f"{path}: user {name!r}"
        rows = data.pop(name)  # free the lists once they are arrays
        if not isinstance(rows, dict) or "x" not in rows or "y" not in rows:
            raise DataError(f"{where}: expected an object with x and y")
        if not len(rows["x"]) == len(rows["y"]) == count:
            raise DataError(
                f"{where}: {len(rows['x'])} x, {len(rows['y'])} y and num_samples {count}; "
                "expected the same number of each"
            )
        if count:
            text = isinstance(rows["x"][0], str)
            x = _text(rows["x"], vocabulary, where) if text else _numbers(rows["x"], where)
            y = _targets(rows["y"], vocabulary, where)
            y_text = isinstance(rows["y"][0], str)
            yield User(str(name), None if upper is None else str(upper), x, y, text, y_text)


def _text(rows: list[Any], vocabulary: str, where: str) -> np.ndarray:
    width = len(rows[0])
    if FILE_NAME.fullmatch(rows[0]):
        raise DataError(
            f"{where}: x holds names of files, such as {rows[0]!r}, expected the text or the "
            "numbers themselves; write each file's content into x"
        )
    for row, text in enumerate(rows):
        if not isinstance(text, str) or len(text) != width:
            raise DataError(f"{where}: x, row {row} is not a text of {width} characters like row 0")
    return _encode("".join(rows), vocabulary, where, width).reshape(len(rows), width)


def _encode(text: str, vocabulary: str, where: str, width: int) -> np.ndarray:
    """Return tokens [len(text)] uint8; `width` characters make a row."""
    code_of = {character: code for code, character in enumerate(vocabulary)}
    unknown = set(text) - set(vocabulary)
    if unknown:
        at = min(text.index(character) for character in unknown)
        raise DataError(
            f"{where}: row {at // width} (rows count from 0) has the character {text[at]!r}, which "
            "is not in the vocabulary; give all characters with --vocabulary"
        )
    return np.fromiter((code_of[character] for character in text), np.uint8, len(text))


def _numbers(rows: list[Any], where: str) -> np.ndarray:
    try:
        array = np.asarray(rows)
    except ValueError as error:
        raise DataError(f"{where}: the rows of x differ in length ({error})") from error
    if array.ndim < 2 or array.dtype.kind not in "iuf":
        raise DataError(
            f"{where}: x has shape {list(array.shape)} of {array.dtype}; expected a list of "
            "numbers, or a text, per row"
        )
    if array.shape[1:] == (SIDE * SIDE,):
        array = array.reshape(-1, SIDE, SIDE).astype(np.float32)
    return array.astype(np.float32 if array.dtype.kind == "f" or array.ndim > 2 else np.int32)


def _targets(values: list[Any], vocabulary: str, where: str) -> np.ndarray:
    if isinstance(values[0], str):
        for row, value in enumerate(values):
            if not isinstance(value, str) or len(value) != 1:
                raise DataError(f"{where}: y, row {row} is {value!r}, expected one character")
        return _encode("".join(values), vocabulary, f"{where}: y", 1).astype(np.int64)
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise DataError(f"{where}: y is ragged ({error}); expected a number per row") from error
    if array.ndim != 1 or array.dtype.kind not in "iuf":
        raise DataError(
            f"{where}: y has shape {list(array.shape)} of {array.dtype}; expected a class number, "
            "a float or a character per row"
        )
    if array.dtype.kind == "f":
        return array.astype(np.float64)
    if array.min() < 0:
        row = int((array < 0).argmax())
        raise DataError(f"{where}: y, row {row} is {array[row]}, expected class numbers from 0")
    return array.astype(np.int64)
