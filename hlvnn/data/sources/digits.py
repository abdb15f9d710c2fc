"""Handwritten digits by writer: scikit-learn's copy of the UCI optical digits.

x: [N, 8, 8] uint8, ink 0..255 (the original's 0..16, times 255/16)
groups: writer, 14 of them
y: the digit, 0..9

A row is one digit; 1,797 in all. The rows come writer by writer, in 14 stretches.

Source: E. Alpaydin, C. Kaynak (1998), Optical Recognition of Handwritten Digits, UCI Machine
Learning Repository (CC BY 4.0); the part written by 14 people.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch

from hlvnn.config import DataConfig
from hlvnn.data.grouped import Level, Loaded, Schema, Split, Target
from hlvnn.data.rows import TensorRows
from hlvnn.errors import DataError

BOUNDARIES = (0, 130, 256, 386, 516, 646, 776, 915, 1029, 1157, 1287, 1415, 1545, 1667, 1797)
"""The row at which each writer's stretch begins, and the end of the last."""


def load(config: DataConfig) -> Loaded:
    """Load the digits."""
    table = read_table()
    images = np.round(table[:, :64].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    writer = np.repeat(np.arange(14, dtype=np.int32), np.diff(BOUNDARIES))
    rows = Split(
        TensorRows(torch.from_numpy(images), "digits"),
        torch.from_numpy(writer[:, None]),
        torch.from_numpy(table[:, 64].astype(np.int64)),
    )
    schema = Schema(
        levels=(Level("writer", 14),),
        x_kind="image",
        x_shape=(8, 8),
        target=Target("digit", "class", num_classes=10),
    )
    return Loaded(schema, rows)


def read_table() -> np.ndarray:
    """Read scikit-learn's file of digits: [1797, 65], 64 pixels and the digit.

    Read as a file, without the second and a half that importing scikit-learn takes in each of a
    sweep's processes. Raises `DataError` where the file is not there.
    """
    found = importlib.util.find_spec("sklearn")
    folder = Path(found.origin).parent if found is not None and found.origin else Path()
    path = folder / "datasets" / "data" / "digits.csv.gz"
    if not path.is_file():
        raise DataError(f"{path}: no such file; pip install 'scikit-learn>=1.5,<2'")
    return np.loadtxt(path, delimiter=",")
