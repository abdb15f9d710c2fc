"""What an array of inputs is: images, tokens or features; said, or told from shape and type.

images: [N, H, W] or [N, C, H, W] (channels-last: [N, H, W, C]), uint8 0..255 or float; or flat,
    with the shape of a row said, or [N, 784], which is 28×28
tokens: [N, W] integers from 0
features: [N, D] float; or anything, flattened, where it is said
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch

from hlvnn.errors import DataError

XKind: TypeAlias = Literal["image", "channels-last", "tokens", "features"]
"""What x may be said to be."""
SIDE = 28
"""Height and width of images that come as 784 numbers a row."""
SMALLEST_SIDE = 4
"""Of an image, in pixels; with fewer it is likely something else."""
CHANNELS = (1, 2, 3, 4)
"""Channels that a picture usually has."""
LAST_BYTE = 127
"""The last byte of plain text; tokens of characters are fewer."""
ENOUGH = 100
"""Rows from which on the columns of tokens can be compared."""
UNEVEN = 4
"""Columns of a text reach about equally high; one that falls short by this factor is odd."""
FILE_NAME = re.compile(r".*\.(png|jpe?g|gif|bmp|tiff?|webp|npy|wav|mp3|txt|json)", re.IGNORECASE)


@dataclass(frozen=True)
class Input:
    """What x is: the kind and shape of a row as the model sees it, and the number of tokens.

    stored: shape of a row of the array, where it differs from `shape` by the order of its axes;
    note: a sentence on what was inferred, "" where it was said.
    """

    kind: Literal["image", "tokens", "features"]
    shape: tuple[int, ...]
    num_tokens: int | None = None
    stored: tuple[int, ...] | None = None
    note: str = ""

    def tensor(self, array: np.ndarray) -> torch.Tensor:
        """Wrap x without copying, but for types that torch cannot gather."""
        if array.dtype in (np.uint16, np.uint32, np.uint64):
            array = array.astype(np.int32 if array.dtype == np.uint16 else np.int64)
        tensor = torch.from_numpy(array)
        if self.kind == "features" and array.dtype.kind != "f":
            tensor = tensor.float()
        if self.stored is not None:
            return tensor.reshape(len(array), *self.stored).permute(0, 3, 1, 2)
        return tensor.reshape(len(array), *self.shape)


def of(
    paths: Sequence[Path],
    arrays: Sequence[np.ndarray],
    kind: XKind | None,
    shape: Sequence[int] | None,
    vocabulary: str | None,
    described_in: str,
) -> Input:
    """Say what the arrays of a data set's splits are, training rows first.

    kind: what the user said, or None; shape: of a row, where the rows are flat; described_in: the
    file that may say so. Raises `DataError` for arrays that differ, that are not of the kind said,
    or that may well be something else than they look like.
    """
    train = arrays[0]
    for path, array in zip(paths[1:], arrays[1:], strict=True):
        if train.shape[1:] != array.shape[1:] or train.dtype != array.dtype:
            raise DataError(
                f"{path}: rows of shape {list(array.shape[1:])} and type {array.dtype}, but "
                f"{paths[0].name} has {list(train.shape[1:])} and {train.dtype}; save both the "
                "same way"
            )
    row = tuple(train.shape[1:])
    if shape is not None:
        if int(np.prod(shape)) != int(np.prod(row)):
            raise DataError(
                f"{paths[0]}: rows of shape {list(row)}, but x_shape in {described_in} is "
                f"{list(shape)}; expected as many numbers"
            )
        row = tuple(shape)
    has_pixels = train.dtype == np.uint8 or train.dtype.kind == "f"
    stored = f"{list(train.shape)} of {train.dtype}"
    if kind is not None:
        return _as_said(kind, row, paths, arrays, vocabulary, described_in)
    doubt = f"say which with --x-kind, or in {described_in}"
    if len(row) in (2, 3) and has_pixels:
        _check_image(row, str(paths[0]), stored, doubt)
        return Input("image", row, note=f"x: {stored}, taken as images {_size(row)}")
    if row == (SIDE**2,) and has_pixels:
        note = f"x: {stored}, taken as images {_size((SIDE, SIDE))}"
        return Input("image", (SIDE, SIDE), note=note)
    if len(row) == 1 and train.dtype.kind == "f":
        return Input("features", row, note=f"x: {stored}, taken as {row[0]} features")
    if len(row) == 1 and train.dtype.kind in "iu":
        if vocabulary is None:
            _check_text(arrays[0], str(paths[0]), stored, doubt)
        tokens = _tokens(paths, arrays, vocabulary, described_in)
        note = f"x: {stored}, taken as text of {tokens} different tokens"
        return Input("tokens", row, tokens, note=note)
    raise DataError(
        f"{paths[0]}: shape {list(train.shape)} of {train.dtype} is no known input; expected "
        "images [N, H, W] or [N, C, H, W] (uint8 or float), tokens [N, W] (integer) or "
        "features [N, D] (float)"
    )


def _as_said(
    kind: XKind,
    row: tuple[int, ...],
    paths: Sequence[Path],
    arrays: Sequence[np.ndarray],
    vocabulary: str | None,
    described_in: str,
) -> Input:
    dtype = arrays[0].dtype
    where = f"{paths[0]}: x is to be {kind} and has shape {list(arrays[0].shape)} of {dtype}"
    if kind == "features":
        return Input("features", (int(np.prod(row)),))
    if kind == "tokens":
        if len(row) != 1 or dtype.kind not in "iu":
            raise DataError(f"{where}; expected [N, W] integers")
        return Input("tokens", row, _tokens(paths, arrays, vocabulary, described_in))
    if dtype != np.uint8 and dtype.kind != "f":
        raise DataError(f"{where}; expected bytes 0..255 or floats; save it with .astype('uint8')")
    if len(row) == 1 and int(np.sqrt(row[0])) ** 2 == row[0]:
        row = (int(np.sqrt(row[0])),) * 2
    if kind == "channels-last":
        if len(row) != 3:
            raise DataError(
                f"{where}; expected [N, H, W, C], or the shape of a row as x_shape in "
                f"{described_in}"
            )
        return Input("image", (row[2], row[0], row[1]), stored=row)
    if len(row) not in (2, 3):
        raise DataError(
            f"{where}; expected [N, H, W] or [N, C, H, W], or the shape of a row as x_shape in "
            f"{described_in}"
        )
    return Input("image", row)


def _size(row: tuple[int, ...]) -> str:
    channels = f", {row[0]} channels" if len(row) == 3 else ""
    return f"{row[-2]}×{row[-1]}{channels}"


def _check_image(row: tuple[int, ...], where: str, stored: str, doubt: str) -> None:
    """Raise `DataError` for rows that are hardly images [H, W] or [C, H, W]."""
    if len(row) == 3 and row[2] in CHANNELS and row[0] not in CHANNELS:
        raise DataError(
            f"{where}: {stored} looks like images with their channels last, [N, H, W, C], and "
            f"would be read as {row[0]} channels of {row[1]}×{row[2]}; {doubt}: channels-last, "
            "or image where it is as it stands"
        )
    if min(row[-2:]) < SMALLEST_SIDE:
        raise DataError(
            f"{where}: {stored} would be images of {row[-2]}×{row[-1]} pixels; sequences of "
            f"measurements are no known input; {doubt}: features (each row is then flattened), or "
            "image"
        )


def _check_text(array: np.ndarray, where: str, stored: str, doubt: str) -> None:
    """Raise `DataError` for rows that are hardly text: few tokens, everywhere alike."""
    some = array[np.linspace(0, len(array) - 1, min(len(array), 10 * ENOUGH)).astype(np.int64)]
    largest = some.max(axis=0, initial=0).astype(np.float64)
    is_bytes = array.dtype == np.uint8 and largest.max(initial=0) > LAST_BYTE
    uneven = len(some) >= ENOUGH and UNEVEN * (largest.min(initial=np.inf) + 1) < largest.max()
    if is_bytes or uneven:
        why = (
            f"holds bytes up to {largest.max():.0f}"
            if is_bytes
            else f"has columns that end at {largest.min():.0f} and at {largest.max():.0f}"
        )
        raise DataError(
            f"{where}: {stored} would be read as text, but {why}; {doubt}: image (with x_shape for "
            "the shape of a row), features, or tokens"
        )


def _tokens(
    paths: Sequence[Path], arrays: Sequence[np.ndarray], vocabulary: str | None, described_in: str
) -> int:
    """Return the number of tokens; raise `DataError` for one that is below 0 or not among them."""
    known = len(vocabulary) if vocabulary else None
    most = np.inf if known is None else known - 1
    for path, array in zip(paths, arrays, strict=True):
        if array.size and (int(array.min()) < 0 or int(array.max()) > most):
            row, place = (int(i) for i in np.argwhere((array < 0) | (array > most))[0])
            upto = "" if known is None else f" to {known - 1} (the vocabulary of {described_in})"
            raise DataError(
                f"{path}: row {row}, column {place} (counted from 0) is {array[row, place]}, "
                f"expected tokens from 0{upto}; renumber the tokens"
            )
    return known or max(int(array.max(initial=0)) for array in arrays) + 1
