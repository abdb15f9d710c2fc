"""Checks that name the file, the row, what was expected and what to do.

Everything that becomes a `GroupedDataset` passes through these functions. They work on whole arrays
and read memory-mapped inputs in pieces.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hlvnn.errors import DataError

PIECE = 1 << 22
"""Numbers checked at a time: 16 MiB of float32, little beside the rows in flight."""


def check_vector(array: np.ndarray, where: str, what: str) -> None:
    """Raise `DataError` unless the array is one-dimensional."""
    if array.ndim == 2 and what == "y":
        raise DataError(
            f"{where}: expected y of shape [N] (class numbers or floats), got {list(array.shape)}; "
            "if it is one-hot, save y.argmax(axis=1) instead"
        )
    if array.ndim != 1:
        hint = "" if what == "y" else "; a second level goes into an array of its own, gid2"
        raise DataError(f"{where}: expected {what} of shape [N], got {list(array.shape)}{hint}")


def check_trials(array: np.ndarray, where: str, successes: str, trials: str) -> None:
    """Raise `DataError` unless y is [N, 2]: whole numbers, trials from 1, successes up to trials.

    successes, trials: the names of the two columns.
    """
    if array.ndim != 2 or array.shape[1] != 2:
        raise DataError(
            f"{where}: expected y of shape [N, 2], successes ({successes!r}) and trials "
            f"({trials!r}), got {list(array.shape)}"
        )
    counted, tried = array.T
    for name, values, bad, expected in (
        (trials, tried, (tried < 1) | (tried != np.floor(tried)), "a whole number from 1"),
        (
            successes,
            counted,
            (counted < 0) | (counted > tried) | (counted != np.floor(counted)),
            f"a whole number from 0 to the row's trials ({trials!r})",
        ),
    ):
        if bad.any():
            row = int(bad.argmax())
            limit = f" of {tried[row]}" if name == successes else ""
            raise DataError(
                f"{where}: column {name!r}, row {row} (rows count from 0) is "
                f"{values[row]}{limit}, expected {expected}; mend the value or drop the row"
            )


def check_counts(array: np.ndarray, where: str, name: str) -> None:
    """Raise `DataError` unless y is [N] whole numbers from 0."""
    bad = (array < 0) | (array != np.floor(array))
    if bad.any():
        row = int(bad.argmax())
        raise DataError(
            f"{where}: target {name!r} is to be a count and is {array[row]} in row {row} (rows "
            "count from 0), expected whole numbers from 0; mend the value or drop the row"
        )


def check_length(length: int, where: str, expected: int, other: str) -> None:
    """Raise `DataError` unless two arrays have the same number of rows."""
    if length != expected:
        raise DataError(
            f"{where}: {length} rows, but {other} has {expected}; the arrays of a split need one "
            "entry per row, in the same order"
        )


def check_not_empty(length: int, where: str) -> None:
    """Raise `DataError` for a training set without rows."""
    if length == 0:
        raise DataError(f"{where}: the training set is empty; expected at least one row")


def check_groups(array: np.ndarray, where: str, lowest: int = 0) -> None:
    """Raise `DataError` unless group numbers are [N] integers of at least `lowest`."""
    check_vector(array, where, "group numbers")
    if array.dtype.kind not in "iu":
        raise DataError(
            f"{where}: expected integer group numbers (int32), got {array.dtype}; "
            "save it with .astype('int32')"
        )
    if len(array) and int(array.max()) > np.iinfo(np.int32).max:
        raise DataError(f"{where}: row {int(array.argmax())} is {array.max()}, beyond int32")
    if len(array) and int(array.min()) < lowest:
        row = int((array < lowest).argmax())
        raise DataError(
            f"{where}: row {row} (rows count from 0) is {array[row]}, expected group numbers from "
            "0; number the groups 0..G-1, for example with numpy.unique(…, return_inverse=True)[1]"
        )


def check_dense(array: np.ndarray, where: str, size: int) -> None:
    """Raise `DataError` unless every group 0..size-1 has a row."""
    present = np.unique(array)
    if len(present) != size or (size and int(present[-1]) != size - 1):
        gaps = np.flatnonzero(present != np.arange(len(present)))
        hole = int(gaps[0]) if len(gaps) else len(present)
        raise DataError(
            f"{where}: group numbers go up to {max(size, int(present[-1]) + 1) - 1} but {hole} "
            "never occurs; expected 0..G-1 without holes; renumber the groups, for example with "
            "numpy.unique(…, return_inverse=True)[1] over training and test rows together"
        )


def check_labels(array: np.ndarray, where: str, num_classes: int, source: str) -> None:
    """Raise `DataError` unless class numbers are 0..num_classes-1 (`source` says why)."""
    bad = (array < 0) | (array >= num_classes)
    if bad.any():
        row = int(bad.argmax())
        raise DataError(
            f"{where}: row {row} (rows count from 0) is {array[row]}, expected a class number from "
            f"0 to {num_classes - 1} ({source}); renumber the classes or drop the row"
        )


def check_finite(tensor: Tensor, where: str) -> None:
    """Raise `DataError` for NaN or infinity, naming the first such row; integers always pass."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return
    step = max(1, PIECE // max(1, tensor[0].numel()))
    for begin in range(0, len(tensor), step):
        piece = tensor[begin : begin + step]
        # a sum is finite only if all its terms are; one pass, no temporary array
        if torch.isfinite(piece.sum(dtype=torch.float64)):
            continue
        bad = ~torch.isfinite(piece.reshape(len(piece), -1))
        if bad.any():
            row, place = (int(i) for i in bad.nonzero()[0])
            value = piece.reshape(len(piece), -1)[row, place].item()
            at = f", column {place}" if tensor.dim() > 1 else ""
            raise DataError(
                f"{where}: row {begin + row}{at} (counted from 0) is {value}, expected finite "
                "numbers; mend the value or drop the row"
            )
