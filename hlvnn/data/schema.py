"""What the columns of a data set mean: the part of the data that a run folder keeps.

`schema.json` is the dump of `Schema`. With it a saved model turns a new dataframe into the arrays
it was trained on: the same feature columns, the same group numbers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import Tensor

from hlvnn import errors
from hlvnn.data import frames
from hlvnn.errors import DataError

STRICT = ConfigDict(extra="forbid", strict=True)

SCHEMA = "schema.json"
"""File of a run's folder: levels, labels, columns and vocabulary of the data."""


@dataclass(frozen=True)
class Level:
    """A group level: its name, how many groups have training rows, what they are called."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: str
    size: int
    """Groups that have a latent, because they have training rows: 0..size-1."""
    labels: tuple[str | int, ...] | None = None
    """Original labels in the order of the group numbers; None = the numbers themselves."""
    new: tuple[str | int, ...] = ()
    """Labels of groups without training rows; `Split.gids` numbers them size, size+1, …"""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise DataError(f"level {self.name!r}: expected at least one group, got {self.size}")
        if self.labels is not None and len(self.labels) != self.size:
            raise DataError(
                f"level {self.name!r}: expected one label per group, got {len(self.labels)} labels "
                f"for {self.size} groups"
            )
        if self.labels is not None and len(set(self.labels)) != self.size:
            raise DataError(f"level {self.name!r}: the same label names two groups")

    def label(self, gid: int) -> str | int:
        """Return what group `gid` was called in the user's data, new groups included."""
        if gid >= self.size:
            return self.new[gid - self.size]
        return gid if self.labels is None else self.labels[gid]


@dataclass(frozen=True)
class Target:
    """What is predicted: a class index with its labels, or a real number."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: str
    kind: Literal["class", "real"]
    labels: tuple[str | int | bool, ...] | None = None
    """Original labels in the order of the class indices; None = the indices themselves."""
    num_classes: int | None = None
    """Number of classes; None for a real target."""
    trials: str | None = None
    """Column with the number of trials, where the target counts successes: y is [N, 2]."""
    counts: bool = False
    """Whether a real target is a count: whole numbers from 0, without an upper end."""

    def __post_init__(self) -> None:
        if (self.kind == "class") != (self.num_classes is not None):
            raise DataError(
                f"target {self.name!r}: a class target has num_classes and a real one has not, "
                f"got kind {self.kind!r} with num_classes {self.num_classes}"
            )
        if self.trials is not None and self.kind != "real":
            raise DataError(
                f"target {self.name!r}: it has trials ({self.trials!r}) and must count successes "
                f"(kind 'real'), got kind {self.kind!r}"
            )
        if self.labels is not None and len(self.labels) != self.num_classes:
            raise DataError(
                f"target {self.name!r}: expected one label per class, got {len(self.labels)} "
                f"for {self.num_classes} classes"
            )


@dataclass(frozen=True)
class Schema:
    """What a row of the data is: its levels (lowest first), its input and its target."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    levels: tuple[Level, ...]
    x_kind: Literal["image", "tokens", "features"]
    x_shape: tuple[int, ...]
    """One row as the model sees it: (28, 28), (80,), (D,)."""
    target: Target
    num_tokens: int | None = None
    """Size of the vocabulary of a token input."""
    vocabulary: str | None = None
    """The characters, in the order of their token numbers, where the tokens are characters."""
    columns: tuple[str, ...] | None = None
    """Names of the D feature columns after coding, for example `period[2]`."""
    coding: frames.Coding | None = None
    """Per original feature column: "number", or its categories (the first is the reference)."""
    unseen: Literal["error", "prior"] = "error"
    """What prediction does with a group without training rows."""

    def __post_init__(self) -> None:
        names = [level.name for level in self.levels]
        if not names:
            raise DataError("a data set needs at least one group level")
        if len(set(names)) != len(names):
            raise DataError(f"level names must differ, got {names}")
        if (self.x_kind == "tokens") != (self.num_tokens is not None):
            raise DataError(f"num_tokens belongs to x of kind 'tokens', got kind {self.x_kind!r}")
        if self.columns is not None and self.x_shape != (len(self.columns),):
            raise DataError(f"{len(self.columns)} feature columns but rows of shape {self.x_shape}")

    def to_json(self) -> dict[str, Any]:
        """Return the schema as plain JSON values."""
        dump: dict[str, Any] = ADAPTER.dump_python(self, mode="json")
        if not self.target.counts:
            del dump["target"]["counts"]  # the hash of older runs' data has no such entry
        return dump

    @staticmethod
    def from_json(value: Any, where: str = SCHEMA) -> Schema:
        """Read what `to_json` wrote; raise `DataError`, naming `where`, for anything else."""
        try:
            return ADAPTER.validate_json(json.dumps(value))
        except ValidationError as error:
            problems = errors.from_validation(error, where)
            raise DataError(f"{problems}. The file is damaged or of another version.") from error
        except DataError as error:
            raise DataError(f"{where}: {error}") from error

    def kept_from(self) -> Tensor | None:
        """Return what was taken from each column when it was coded, [D] float64; None for nothing.

        x is a column's value less this: far from zero 32-bit floats would lose its digits.
        """
        offsets = [] if self.coding is None else frames.offsets(self.coding)
        return torch.tensor(offsets, dtype=torch.float64) if any(offsets) else None

    def level_index(self, name: str) -> int:
        """Return the column of `groups` that holds the level; `DataError` if there is none."""
        names = [level.name for level in self.levels]
        if name not in names:
            raise DataError(errors.unknown("group level", name, names))
        return names.index(name)

    def features_of(self, frame: pd.DataFrame) -> Tensor:
        """Code the frame's feature columns as they were in training: x: [N, D] float32.

        Raises `DataError` for a missing column or value, and for a category never seen.
        """
        if self.coding is None:
            raise DataError(
                f"the model was trained on arrays ({self.x_kind}, {list(self.x_shape)} a row), not "
                "on the columns of a table; predict from a GroupedDataset instead"
            )
        return torch.from_numpy(frames.design(frame, self.coding, "frame"))

    def groups_of(self, frame: pd.DataFrame) -> Tensor:
        """Number the frame's group columns: [N, L] int32, -1 for a label without training rows.

        Raises `DataError` for a missing column or value, and for labels of another type than in
        training (text against numbers), which would all look new.
        """
        groups = np.empty((len(frame), len(self.levels)), np.int32)
        for i, known in enumerate(self._known):
            groups[:, i] = known.get_indexer(self._labels(frame, i))
        return torch.from_numpy(groups)

    def naming_groups_of(self, frame: pd.DataFrame) -> tuple[Schema, Tensor]:
        """Number all groups of the frame, new ones too: the schema that names them, [N, L] int32.

        New labels join `Level.new`. Raises `DataError` as `groups_of` does.
        """
        groups = np.empty((len(frame), len(self.levels)), np.int32)
        levels = []
        for i, level in enumerate(self.levels):
            labels = self._labels(frame, i)
            known = self._known[i].append(pd.Index(list(level.new), dtype=labels.dtype))
            new = labels[known.get_indexer(labels) < 0].unique()
            groups[:, i] = known.append(new).get_indexer(labels)
            levels.append(replace(level, new=(*level.new, *new.tolist())))
        return replace(self, levels=tuple(levels)), torch.from_numpy(groups)

    def with_new_groups(self) -> Schema:
        """Return the schema in which the groups of `Level.new` are among those with a latent."""
        levels = []
        for level in self.levels:
            if level.new:
                size = level.size + len(level.new)
                labels = tuple(level.label(gid) for gid in range(size))
                level = Level(level.name, size, labels)
            levels.append(level)
        return replace(self, levels=tuple(levels))

    def target_of(self, frame: pd.DataFrame) -> Tensor:
        """Read the frame's target as in training: y, [N] or [N, 2] (see `Split`).

        Raises `DataError` for a missing column or value, and for a class never seen.
        """
        target = self.target
        if target.trials is not None:
            return torch.from_numpy(frames.counts_of(frame, target.name, target.trials, "frame"))
        values = frames.column(frame, target.name, "frame")
        if target.kind == "real":
            if not frames.is_number(values):
                raise DataError(
                    f"frame: column {target.name!r} held numbers in training and holds "
                    f"{values.dtype} now; convert it with pandas.to_numeric"
                )
            return torch.from_numpy(frames.numbers(values, "frame"))
        labels = target.labels or tuple(range(target.num_classes or 0))
        return torch.from_numpy(frames.codes_of(values, labels, "frame"))

    def _labels(self, frame: pd.DataFrame, i: int) -> pd.Index[Any]:
        """Return the labels of the frame's groups of a level, of the type they had in training."""
        known = self._known[i]
        values = frames.column(frame, self.levels[i].name, "frame")
        labels = frames.group_labels(values, "frame")
        numeric = not isinstance(known[0], str)
        if not len(labels) or numeric != isinstance(labels[0], str):
            return labels
        if not numeric and frame[values.name].dtype.kind == "O":
            # whole numbers in a column of objects, or a categorical one, were text in older runs
            return labels.map(str)
        kinds = ("whole numbers", "text") if numeric else ("text", "whole numbers")
        raise DataError(
            f"frame: column {values.name!r} held {kinds[0]} in training and holds {kinds[1]} now, "
            "so that every group would look new; convert it with .astype first"
        )

    @cached_property
    def _known(self) -> list[pd.Index[Any]]:
        return [
            pd.RangeIndex(level.size) if level.labels is None else pd.Index(list(level.labels))
            for level in self.levels
        ]


ADAPTER = TypeAdapter(Schema)
