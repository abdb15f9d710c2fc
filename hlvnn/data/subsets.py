"""Part of a data set: some training rows, or the rows of named groups; and the settings for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch import Tensor

from hlvnn import errors
from hlvnn.columns import TEST, TRAIN, VAL
from hlvnn.config import DataConfig
from hlvnn.data import splits
from hlvnn.data.loaded import Split
from hlvnn.data.numbering import numbering, renamed, renumbered
from hlvnn.data.schema import Level, Schema
from hlvnn.errors import ConfigError, DataError

if TYPE_CHECKING:
    from hlvnn.data.grouped import GroupedDataset

LISTED = 20
"""Labels up to which a message lists them all; of more it names the nearest."""

Label: TypeAlias = str | int
RowNumbers: TypeAlias = Sequence[int] | Sequence[bool] | np.ndarray | Tensor
Labels: TypeAlias = Iterable[Label] | Mapping[str, Iterable[Label]]


def subset_of(
    data: GroupedDataset, rows: RowNumbers | None, groups: Labels | None
) -> GroupedDataset:
    """Return what `GroupedDataset.subset` says."""
    if (rows is None) == (groups is None):
        raise DataError(
            "subset: expected either rows (of training) or groups (their labels), got "
            f"{'neither' if rows is None else 'both; cut twice, .subset(…).subset(…)'}"
        )
    parts = data.splits()
    if rows is not None:
        parts[TRAIN] = data.train.subset(_numbers(rows, len(data.train)))
    elif groups is not None:
        wanted = _wanted(data.schema, groups)
        parts = {name: _some(part, _is_of(part, wanted)) for name, part in parts.items()}
        if not len(parts[TRAIN]):
            raise DataError(f"subset: no training rows are of the groups {_told(groups)}")
    return _rebuilt(data, parts)


def some_of(data: GroupedDataset, config: DataConfig, *, recorded: bool = False) -> GroupedDataset:
    """Return the part of a data set that the settings ask for: only_groups, limit_rows, overfit.

    recorded: as in `assemble`. Raises `DataError` for a group that is not there, `ConfigError` for
    more rows than there are.
    """
    if config.only_groups:
        try:
            data = data.subset(groups=config.only_groups)
        except DataError as error:
            reason = str(error).removeprefix("subset: ")
            raise DataError(f"--only-groups: {reason}") from error
    limit, few, there = config.limit_rows, config.overfit, len(data.train)
    if limit is not None and not (recorded and limit >= there):
        _check_fewer("--limit-rows", limit, there)
        data = data.subset(rows=_drawn(data, limit, config.split_seed))
    if few is not None and not (recorded and few > len(data.train)):
        if few != len(data.train):
            _check_fewer("--overfit", few, len(data.train))
        data = replace(data, val=None, test=None)
        data = data.subset(rows=_drawn(data, few, config.split_seed))
        data = replace(data, val=data.train, test=data.train, in_order=True)
    return data


def _check_fewer(flag: str, number: int, there: int) -> None:
    if number >= there:
        raise ConfigError(
            f"{flag} {number}: there are {there:,} training rows, so that nothing would be left "
            "out; give a smaller number, or leave it out"
        )


def _drawn(data: GroupedDataset, number: int, seed: int) -> np.ndarray:
    return splits.spread(data.train.groups.numpy(), number, (seed, splits.LIMIT))


def _numbers(rows: RowNumbers, size: int) -> Tensor:
    """Return row numbers, [M] int64, of numbers or of a truth value for each of `size` rows."""
    array = np.asarray(rows)
    if array.ndim != 1 or not len(array):
        raise DataError(
            f"subset: expected rows of shape [M], at least one, got {list(array.shape)}"
        )
    if array.dtype == bool:
        if len(array) != size:
            raise DataError(
                f"subset: {len(array)} truth values, but train has {size} rows; expected one for "
                "each, or row numbers"
            )
        if not array.any():
            raise DataError("subset: no row is true; expected at least one training row")
        return torch.from_numpy(np.flatnonzero(array))
    if array.dtype.kind not in "iu":
        raise DataError(f"subset: expected row numbers or truth values, got {array.dtype}")
    outside = (array < 0) | (array >= size)
    if outside.any():
        raise DataError(
            f"subset: there is no training row {array[int(outside.argmax())]}; expected numbers "
            f"from 0 to {size - 1}"
        )
    if len(np.unique(array)) < len(array):
        values, times = np.unique(array, return_counts=True)
        raise DataError(f"subset: row {values[times > 1][0]} is named twice; name each row once")
    return torch.from_numpy(array.astype(np.int64))


def _wanted(schema: Schema, groups: Labels) -> list[np.ndarray]:
    """Return, for each level, which of its groups are named: [G] bool, new groups too."""
    if isinstance(groups, str):
        raise DataError(f"subset: groups is a list of labels, got a string; write [{groups!r}]")
    numbers = [_number_of(level) for level in schema.levels]
    wanted = [np.zeros(len(known), bool) for known in numbers]
    if isinstance(groups, Mapping):
        for name, labels in groups.items():
            if isinstance(labels, str):
                raise DataError(f"subset: {name!r}: expected a list of labels, got {labels!r}")
            index = schema.level_index(name)
            for label in labels:
                wanted[index][_found(schema.levels, numbers, label, [index])[1]] = True
        return wanted
    for label in groups:
        index, number = _found(schema.levels, numbers, label, range(len(numbers)))
        wanted[index][number] = True
    return wanted


def _number_of(level: Level) -> dict[str, int]:
    return {str(level.label(gid)): gid for gid in range(level.size + len(level.new))}


def _found(
    levels: Sequence[Level], numbers: Sequence[dict[str, int]], label: Label, among: Iterable[int]
) -> tuple[int, int]:
    """Return a label's level and number; LEVEL=LABEL is one, too."""
    among, text = list(among), str(label)
    has = [index for index in among if text in numbers[index]]
    if len(has) > 1:
        both = " and ".join(levels[index].name for index in has)
        raise DataError(
            f"subset: {label!r} is a group of {both}; say of which: "
            f"{{{levels[has[0]].name!r}: [{label!r}]}}, or as a flag {levels[has[0]].name}={label}"
        )
    if has:
        return has[0], numbers[has[0]][text]
    level, equals, rest = text.partition("=")
    named = [index for index in among if equals and levels[index].name == level]
    if named and rest in numbers[named[0]]:
        return named[0], numbers[named[0]][rest]
    if named:
        among, label = named, rest
    what = levels[among[0]].name if len(among) == 1 else "group"
    known = [one for index in among for one in numbers[index]]
    if len(known) <= LISTED:
        raise DataError(errors.unknown(what, str(label), known))
    raise DataError(errors.unknown_label(what, str(label), known))


def _told(groups: Labels) -> str:
    if isinstance(groups, Mapping):
        return ", ".join(f"{name}={label}" for name, some in groups.items() for label in some)
    return ", ".join(map(str, groups)) or "(none named)"


def _is_of(part: Split, wanted: Sequence[np.ndarray]) -> np.ndarray:
    """Return which rows are of a wanted group of any level: [N] bool."""
    gids = part.gids.numpy()
    return np.any([one[gids[:, index]] for index, one in enumerate(wanted)], axis=0)


def _some(part: Split, which: np.ndarray) -> Split:
    return part.subset(torch.from_numpy(np.flatnonzero(which)))


def _rebuilt(data: GroupedDataset, parts: dict[str, Split]) -> GroupedDataset:
    """Return a data set of parts of its splits, its groups numbered anew.

    Validation and test rows of groups that have lost their last training row are left out.
    """
    levels, notes = data.schema.levels, list(data.notes)
    train = parts.pop(TRAIN)
    lost = []
    for index, level in enumerate(levels):
        total = level.size + len(level.new)
        trained = np.bincount(train.gids[:, index].numpy(), minlength=total) > 0
        lost.append(~trained & (np.arange(total) < level.size))
    kept: dict[str, Split] = {}
    for name, part in parts.items():
        gone = _is_of(part, lost)
        if gone.any():
            notes.append(
                f"{name}: {int(gone.sum()):,} of {len(part):,} rows left out, whose groups have no "
                "training rows left"
            )
        if not gone.all():
            kept[name] = _some(part, ~gone)
    numbers = [
        numbering(level, train.gids[:, i], [part.gids[:, i] for part in kept.values()])
        for i, level in enumerate(levels)
    ]
    schema = replace(data.schema, levels=tuple(map(renamed, levels, numbers)))
    named = {name: renumbered(part, numbers) for name, part in kept.items()}
    return replace(
        data,
        schema=schema,
        train=renumbered(train, numbers),
        val=named.get(VAL),
        test=named.get(TEST),
        notes=tuple(notes),
    )
