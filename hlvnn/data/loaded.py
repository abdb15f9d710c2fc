"""What a source hands over: rows in groups, not yet split."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hlvnn.data import frames, validation
from hlvnn.data.rows import Rows, TensorRows
from hlvnn.data.schema import Level, Schema
from hlvnn.data.targets import TargetKind, target_of
from hlvnn.errors import DataError

TEST_FRACTION = 0.2
"""Share of the rows for testing where neither source nor settings say another."""


@dataclass(frozen=True)
class Split:
    """The rows of training, validation or test.

    x: N rows, see `Rows`
    groups: [N, L] int32, lowest level first, 0..size-1, or -1 where the group has no training rows
    y: [N] int64 class numbers, or float64; [N, 2] float64, successes and trials, where the target
        has trials
    named: [N, L] int32, as `groups`, but groups without training rows are numbered size, size+1, …
        (labels in `Level.new`); None = as `groups`
    """

    x: Rows
    groups: Tensor
    y: Tensor
    named: Tensor | None = None

    def __len__(self) -> int:
        return self.y.shape[0]

    @property
    def gids(self) -> Tensor:
        """Which group a row belongs to, new groups told apart: [N, L] int32. For metrics."""
        return self.groups if self.named is None else self.named

    @property
    def is_new(self) -> Tensor:
        """Which rows are of a group without training rows, at any level: [N] bool."""
        return (self.groups < 0).any(dim=1)

    @property
    def nbytes(self) -> int:
        """Bytes the split needs on a device."""
        return self.x.nbytes + self.groups.nbytes + self.y.nbytes

    def subset(self, index: Tensor) -> Split:
        """Return the rows `index`: [M] int64, inputs not copied."""
        named = None if self.named is None else self.named[index]
        return Split(self.x.subset(index), self.groups[index], self.y[index], named)

    def to(self, device: torch.device | str) -> Split:
        """Return the split on the device."""
        named = None if self.named is None else self.named.to(device)
        return Split(self.x.to(device), self.groups.to(device), self.y.to(device), named)

    def __deepcopy__(self, memo: dict[int, Any]) -> Split:
        """Return the split itself: its arrays are never changed."""
        return self


@dataclass(frozen=True)
class Loaded:
    """A source's rows and what they mean; the settings then decide which train (`assemble`).

    rows: all that may be split, groups numbered 0..size-1 of `schema.levels`
    test, val: the source's own test and validation rows; nothing is cut for a part that is given
    test_fraction: share of `rows` for testing, unless the settings name one
    obeyed: settings of the split that the source has followed itself
    notes: what was taken for granted, a sentence each
    """

    schema: Schema
    rows: Split
    test: Split | None = None
    val: Split | None = None
    test_fraction: float = TEST_FRACTION
    obeyed: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()

    @staticmethod
    def from_frame(
        frame: pd.DataFrame,
        target: str,
        features: Sequence[str],
        groups: Sequence[str],
        *,
        trials: str | None = None,
        target_kind: TargetKind | None = None,
        categories: Collection[str] = (),
        dates: Collection[str] = (),
        name: str = "frame",
    ) -> Loaded:
        """Code a dataframe's columns; `GroupedDataset.from_frame` says how, and what it refuses."""
        validation.check_not_empty(len(frame), name)
        if isinstance(features, str) or isinstance(groups, str):
            raise DataError(f"{name}: features and groups are lists of column names, got a string")
        if target in (*features, *groups):
            raise DataError(
                f"{name}: the target {target!r} is among the features or groups; remove it there"
            )
        read = (target, *([] if trials is None else [trials]), *features, *groups)
        frames.check_columns(frame, read, name)
        coding = frames.coding_of(frame, features, name, categories, dates)
        columns = frames.column_names(coding)
        x = frames.design(frame, coding, name)
        levels = []
        gids = np.empty((len(frame), len(groups)), np.int32)
        for i, group in enumerate(groups):
            labels = frames.group_labels(frames.column(frame, group, name), name)
            gids[:, i], known = pd.factorize(labels, sort=True)
            levels.append(Level(group, len(known), tuple(known.tolist())))
        y, measured, note = target_of(frame, target, trials, target_kind, name)
        schema = Schema(
            levels=tuple(levels),
            x_kind="features",
            x_shape=(len(columns),),
            columns=columns,
            coding=coding,
            target=measured,
            unseen="prior",
        )
        rows = Split(
            TensorRows(torch.from_numpy(x), name), torch.from_numpy(gids), torch.from_numpy(y)
        )
        notes = [note, *frames.doubts(frame, coding)]
        return Loaded(schema, rows, notes=tuple(note for note in notes if note))
