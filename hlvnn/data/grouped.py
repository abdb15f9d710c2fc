"""Rows in groups: the data set that every loader returns and every model reads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hlvnn.columns import SPLITS, TRAIN
from hlvnn.data import by_class, splits, validation
from hlvnn.data.loaded import Loaded, Split
from hlvnn.data.rows import JoinedRows, Rows, SubsetRows, TensorRows, WindowRows
from hlvnn.data.schema import Level, Schema, Target
from hlvnn.data.subsets import Labels, RowNumbers, subset_of
from hlvnn.data.targets import TargetKind
from hlvnn.errors import DataError

__all__ = [
    "GroupedDataset",
    "JoinedRows",
    "Level",
    "Loaded",
    "Rows",
    "Schema",
    "Split",
    "SubsetRows",
    "Target",
    "TensorRows",
    "WindowRows",
]


@dataclass(frozen=True)
class GroupedDataset:
    """Rows in groups, split for training, validation and test.

    Building one checks it: lengths, types and ranges of every array, a training row for every group
    0..size-1, no NaN or infinity. Raises `DataError`, naming array, row, what was expected and what
    to do.
    """

    schema: Schema
    train: Split
    val: Split | None = None
    test: Split | None = None
    notes: tuple[str, ...] = ()
    """What loading took for granted: sentences for whoever trains on it. No part of the data."""
    in_order: bool = False
    """Whether a fit takes the training rows in their order in each epoch, not in a random one."""

    def __post_init__(self) -> None:
        validate(self)

    def splits(self) -> dict[str, Split]:
        """Return the splits that exist, by name: train, val, test."""
        named = dict(zip(SPLITS, (self.train, self.val, self.test), strict=True))
        return {name: split for name, split in named.items() if split is not None}

    def subset(
        self, *, rows: RowNumbers | None = None, groups: Labels | None = None
    ) -> GroupedDataset:
        """Return part of the data set: some training rows, or all rows of named groups.

        rows: numbers of training rows, [M], or a truth value for each, [N]. groups: labels of any
        level (a row stays if one of its groups is named), or {level: [labels]} where a label is
        found in two. Levels are rebuilt: groups numbered 0..size-1 anew under their old labels.
        Validation and test rows are cut alike: those of groups that lose their last training row
        are left out, which `notes` tells; inputs are not copied.

        Raises `DataError` for both or neither of the two, for a row or a label that is not there,
        and where no training row is left.

        >>> frame = pd.DataFrame({"y": [1.0, 2.0, 4.0], "x": [0, 1, 0], "who": ["b", "a", "c"]})
        >>> data = GroupedDataset.from_frame(frame, target="y", features=["x"], groups=["who"])
        >>> data.subset(groups=["a", "c"]).schema.levels[0].labels
        ('a', 'c')
        """
        return subset_of(self, rows, groups)

    def counts(self, level_index: int) -> Tensor:
        """Return the training rows of each group of a level: [G] int64, all at least 1."""
        return self._counts[level_index]

    @cached_property
    def _counts(self) -> list[Tensor]:
        return [
            torch.bincount(self.train.groups[:, i], minlength=level.size)
            for i, level in enumerate(self.schema.levels)
        ]

    def digest(self) -> str:
        """Return 16 hex digits that change when a byte of any array or the schema changes."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        total = hashlib.sha256(json.dumps(self.schema.to_json(), sort_keys=True).encode())
        seen: dict[tuple[int, int], bytes] = {}  # training and validation rows share arrays
        for name, split in self.splits().items():
            arrays = [tensor for _, tensor in split.x.sources()]
            for tensor in [*arrays, split.groups, split.y, split.gids]:
                key = (tensor.data_ptr(), tensor.nbytes)
                if key not in seen:
                    array = np.ascontiguousarray(tensor.numpy()).reshape(-1)
                    seen[key] = hashlib.sha256(array.view(np.uint8).data).digest()
                total.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode() + seen[key])
        return total.hexdigest()[:16]

    @staticmethod
    def from_frame(  # noqa: PLR0913 (the roles that columns and rows can have)
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
        val_fraction: float = 0.0,
        test_fraction: float = 0.0,
        stratify: bool = False,
        seed: int = 0,
        unseen: Literal["error", "prior"] = "prior",
    ) -> GroupedDataset:
        """Build a data set from a dataframe; trains on all rows unless a split is asked for.

        The target's kind is `target_kind`, or told from its values: text, truth values,
        categoricals and two different whole numbers are classes, other numbers real, and a few
        whole numbers from 0 or 1 are refused until their kind is said. Feature columns that are not
        numeric are treatment-coded; `dates` become days since 1970, `categories` are treatment-
        coded whatever they hold. Group columns (lowest level first) hold text or whole numbers;
        their labels are kept. With `trials`, a column of whole numbers from 1, the target counts
        the successes among them. Splits are cut inside groups; with `stratify` each class has its
        share of the validation rows.

        Raises `DataError` for an unknown column, a missing or infinite value (`name` stands for the
        frame in the message), text that cannot be categories, a target among the features, one
        class alone, or a frame without rows.

        >>> frame = pd.DataFrame({"y": [1.0, 2.0, 4.0], "x": [0, 1, 0], "who": ["b", "a", "a"]})
        >>> data = GroupedDataset.from_frame(frame, target="y", features=["x"], groups=["who"])
        >>> data.schema.levels[0].labels, data.train.groups[:, 0].tolist()
        (('a', 'b'), [1, 0, 0])
        """
        loaded = Loaded.from_frame(
            frame,
            target,
            features,
            groups,
            trials=trials,
            target_kind=target_kind,
            categories=categories,
            dates=dates,
            name=name,
        )
        rows, schema = loaded.rows, replace(loaded.schema, unseen=unseen)
        groups_of, y = rows.groups.numpy(), rows.y.numpy()
        if stratify:
            by_class.check(schema, val_fraction)
        by = y if stratify else None
        parts = splits.parts(groups_of, test=test_fraction, val=val_fraction, seed=seed, y=by)
        if len(parts.train) == len(rows):
            return GroupedDataset(schema, rows, notes=loaded.notes)
        notes = list(loaded.notes)
        if stratify:
            notes.append(by_class.told(schema, groups_of[:, 0], y, parts.train, parts.val))
        train, val, test = (
            rows.subset(torch.from_numpy(part)) if len(part) else None
            for part in (parts.train, parts.val, parts.test)
        )
        assert train is not None
        return GroupedDataset(schema, train, val, test, tuple(notes))


def validate(data: GroupedDataset) -> None:
    """Raise `DataError` unless the arrays of the data set are what its schema says."""
    levels, target = data.schema.levels, data.schema.target
    validation.check_not_empty(len(data.train), TRAIN)
    checked: set[int] = set()
    for name, split in data.splits().items():
        groups = split.groups.numpy()
        if groups.ndim != 2 or groups.shape[1] != len(levels):
            raise DataError(
                f"{name}.groups: expected shape [N, {len(levels)}], a column for each of the "
                f"levels {', '.join(level.name for level in levels)}, got {list(groups.shape)}"
            )
        if target.trials is None:
            validation.check_vector(split.y.numpy(), f"{name}.y", "y")
        else:
            validation.check_trials(split.y.numpy(), f"{name}.y", target.name, target.trials)
        validation.check_length(len(split.x), f"{name}.x", len(split), f"{name}.y")
        validation.check_length(len(groups), f"{name}.groups", len(split), f"{name}.y")
        for i, level in enumerate(levels):
            where = f"{name}.groups[:, {i}] (level {level.name!r})"
            column = groups[:, i]
            validation.check_groups(column, where, lowest=0 if name == TRAIN else -1)
            if name == TRAIN:
                validation.check_dense(column, where, level.size)
            outside = (column < 0) | (column >= level.size)
            if outside.any() and data.schema.unseen == "error":
                raise DataError(unseen_message(where, level, split.gids.numpy()[:, i], outside))
        expected = torch.int64 if target.kind == "class" else torch.float64
        if split.y.dtype != expected:
            raise DataError(
                f"{name}.y: expected {expected} for a {target.kind} target, got {split.y.dtype}"
            )
        if target.num_classes is not None:
            source = f"the target {target.name!r} has {target.num_classes} classes"
            validation.check_labels(split.y.numpy(), f"{name}.y", target.num_classes, source)
        for origin, tensor in [*split.x.sources(), (f"{name}.y", split.y)]:
            if tensor.data_ptr() not in checked:
                validation.check_finite(tensor, origin)
                checked.add(tensor.data_ptr())


def unseen_message(where: str, level: Level, gids: np.ndarray, outside: np.ndarray) -> str:
    """Return the message for rows whose group has no training rows."""
    row = int(outside.argmax())
    gid = int(gids[row])
    label = level.label(gid) if 0 <= gid < level.size + len(level.new) else gid
    return (
        f"{where}: row {row} (rows count from 0) belongs to group {label!r}, which has no training "
        "rows; set unseen='prior' (--unseen prior) to integrate over the prior, or drop such rows"
    )
