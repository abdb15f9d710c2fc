"""From a loader's rows to the data set: groups held out, validation cut, groups numbered.

Every loader but `from_frame` ends here, so that `hold_out`, `val_fraction` and `unseen` mean the
same for all data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from hlvnn.config import DataConfig
from hlvnn.data import splits
from hlvnn.data.grouped import GroupedDataset, Level, Schema, Split
from hlvnn.data.rows import JoinedRows
from hlvnn.errors import ConfigError, DataError


def assemble(
    config: DataConfig, schema: Schema, train: Split, test: Split | None, val: Split | None = None
) -> GroupedDataset:
    """Build the data set that the configuration asks for from a loader's rows.

    The groups of `train`, `val` and `test` are numbered 0..size-1 of `schema.levels`, whether they
    have training rows or not. A validation split is cut from `train` unless the loader made one: at
    random inside each group or among all rows (`split`), or for tokens in time
    (`splits.in_order`).

    Raises `ConfigError` for `hold_out` without `unseen="prior"`, `DataError` for rows that do not
    make a data set.
    """
    check_hold_out(config)
    if config.hold_out:
        train, val, test = _hold_out(config, schema, train, val, test)
    if val is None and config.val_fraction:
        train, val = _cut_validation(config, schema, train)
    numbers = [_new_numbers(level, train.groups[:, i]) for i, level in enumerate(schema.levels)]
    levels = tuple(
        _renamed(level, *number) for level, number in zip(schema.levels, numbers, strict=True)
    )
    rest = (None if part is None else _renumbered(part, numbers) for part in (val, test))
    schema = replace(schema, levels=levels, unseen=config.unseen)
    return GroupedDataset(schema, _renumbered(train, numbers), *rest)


def check_hold_out(config: DataConfig) -> None:
    """Raise `ConfigError` where groups are held out that prediction would refuse."""
    if config.hold_out and config.unseen != "prior":
        raise ConfigError(
            f"hold_out is {config.hold_out} while unseen is {config.unseen!r}: held-out groups "
            "have no training rows; set unseen to 'prior' (--unseen prior) or hold_out to 0"
        )


def _new_numbers(level: Level, train: Tensor) -> tuple[np.ndarray, int]:
    """Number the groups with training rows first: ([G] int32 old number -> new, how many)."""
    trained = np.bincount(train.numpy(), minlength=level.size) > 0
    new = np.empty(level.size, np.int32)
    new[np.concatenate([np.flatnonzero(trained), np.flatnonzero(~trained)])] = range(level.size)
    return new, int(trained.sum())


def _renamed(level: Level, new: np.ndarray, size: int) -> Level:
    """Return the level with its labels in the new order, those without training rows apart."""
    if size == level.size:
        return level
    names = [level.label(int(gid)) for gid in np.argsort(new)]
    return Level(level.name, size, tuple(names[:size]), tuple(names[size:]))


def _renumbered(part: Split, numbers: Sequence[tuple[np.ndarray, int]]) -> Split:
    """Give the rows the new numbers; groups without training rows are -1 in `groups`."""
    old = part.groups.numpy()
    named = np.stack([new[old[:, i]] for i, (new, _) in enumerate(numbers)], axis=1)
    groups = np.where(named < [size for _, size in numbers], named, -1).astype(np.int32)
    kept = torch.from_numpy(named) if (groups < 0).any() else None
    return Split(part.x, torch.from_numpy(groups), part.y, kept)


def _hold_out(
    config: DataConfig, schema: Schema, train: Split, val: Split | None, test: Split | None
) -> tuple[Split, Split | None, Split | None]:
    lowest = train.groups[:, 0].numpy()
    sizes = np.bincount(lowest, minlength=schema.levels[0].size)
    if (sizes > 0).sum() < 2:
        raise DataError(
            f"hold_out is {config.hold_out}, but level {schema.levels[0].name!r} has one group "
            "with training rows; expected two or more; set hold_out to 0"
        )
    chosen = torch.from_numpy(
        splits.hold_out_groups(sizes, config.hold_out, (config.split_seed, splits.HOLD_OUT))
    )
    held = chosen[train.groups[:, 0].long()]
    moved = [*([] if test is None else [test]), _where(train, held)]
    train = _where(train, ~held)
    if val is not None:
        held = chosen[val.groups[:, 0].long()]
        moved.append(_where(val, held))
        val = _where(val, ~held)
    joined = Split(
        JoinedRows([part.x for part in moved]),
        torch.cat([part.groups for part in moved]),
        torch.cat([part.y for part in moved]),
    )
    return train, val, joined


def _where(part: Split, mask: Tensor) -> Split:
    return part.subset(mask.nonzero().squeeze(1))


def _cut_validation(config: DataConfig, schema: Schema, train: Split) -> tuple[Split, Split | None]:
    groups, fraction = train.groups.numpy(), config.val_fraction
    if schema.x_kind == "tokens":
        gap = splits.overlap(train.x.take, groups[:, 0])
        keep, cut = splits.in_order(groups[:, 0], fraction, gap)
    else:
        keep, cut = random_cut(config, groups, fraction, splits.VAL)
    if len(cut) == 0:
        return train, None
    return train.subset(torch.from_numpy(keep)), train.subset(torch.from_numpy(cut))


def random_cut(
    config: DataConfig, groups: np.ndarray, fraction: float, part: int
) -> tuple[np.ndarray, np.ndarray]:
    """Set rows with the groups [N, L] aside as `config.split` says: (kept, cut), ascending.

    part: `splits.VAL` or `splits.TEST`.
    """
    seed = (config.split_seed, part)
    if config.split == "rows":
        return splits.among_rows(len(groups), fraction, seed)
    return splits.within_groups(groups, fraction, seed)
