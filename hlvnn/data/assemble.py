"""From a source's rows to the data set: test rows, groups held out, validation, groups numbered.

Every source ends here, so that each setting of the split means the same for all data, or is refused
where the data leave it nothing to do.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from hlvnn.config import DataConfig
from hlvnn.data import by_class, splits
from hlvnn.data.grouped import GroupedDataset, Loaded, Schema, Split
from hlvnn.data.numbering import numbering, renamed, renumbered
from hlvnn.data.rows import JoinedRows
from hlvnn.data.subsets import some_of
from hlvnn.errors import ConfigError, DataError


def assemble(
    config: DataConfig, loaded: Loaded, *, across: bool = True, recorded: bool = False
) -> GroupedDataset:
    """Build the data set that the configuration asks for from a source's rows.

    The groups of `loaded` are numbered 0..size-1 of its levels, whether they have training rows or
    not. Test and validation rows are cut from `loaded.rows` unless the source has its own: at
    random inside each group or among all rows (`split`), or for tokens in time. across=False: see
    `splits.parts`; recorded: settings that change nothing are passed over.

    Raises `ConfigError` for `hold_out` without `unseen="prior"` and for settings of the split that
    would change nothing, `DataError` for rows that do not make a data set.
    """
    check_hold_out(config)
    for_test = 0.0 if loaded.test is not None else _test_fraction(config, loaded)
    for_val = 0.0 if loaded.val is not None else config.val_fraction
    if not recorded:
        _check_obeyed(config, loaded, bool(for_test or for_val))
    rows, schema = loaded.rows, loaded.schema
    groups = rows.groups.numpy()
    if config.hold_out:
        _check_two_groups(config, schema, groups)
    tokens = schema.x_kind == "tokens"
    if config.stratify:
        own = "the data set brings validation rows of its own" * (loaded.val is not None)
        by_class.check(schema, for_val, own or "its rows are split in time" * tokens)
    parts = splits.parts(
        groups,
        test=for_test,
        val=for_val,
        seed=config.split_seed,
        hold_out=config.hold_out,
        how="order" if tokens else config.split,
        gap=splits.overlap(rows.x.take, groups[:, 0]) if tokens and (for_test or for_val) else 0,
        across=across,
        y=rows.y.numpy() if config.stratify else None,
    )
    whole = len(parts.train) == len(rows)
    train = rows if whole else _some(rows, parts.train)
    tested, validated = loaded.test, loaded.val
    if len(parts.test):
        tested = _some(rows, parts.test)
    if len(parts.val):
        validated = _some(rows, parts.val)
    if len(parts.held):
        held = np.unique(groups[parts.held, 0])
        validated, tested = _move(validated, tested, _some(rows, parts.held), held)
    numbers = [numbering(level, train.groups[:, i]) for i, level in enumerate(schema.levels)]
    levels = tuple(map(renamed, schema.levels, numbers))
    val, test = (
        None if part is None else renumbered(part, numbers) for part in (validated, tested)
    )
    schema = replace(schema, levels=levels, unseen=config.unseen)
    notes = list(loaded.notes)
    if config.stratify:
        notes.append(by_class.told(schema, groups[:, 0], rows.y.numpy(), parts.train, parts.val))
    data = GroupedDataset(schema, renumbered(train, numbers), val, test, tuple(notes))
    return some_of(data, config, recorded=recorded)


def _test_fraction(config: DataConfig, loaded: Loaded) -> float:
    return loaded.test_fraction if config.test_fraction is None else config.test_fraction


def check_hold_out(config: DataConfig) -> None:
    """Raise `ConfigError` where groups are held out that prediction would refuse."""
    if config.hold_out and config.unseen != "prior":
        raise ConfigError(
            f"hold_out is {config.hold_out} while unseen is {config.unseen!r}: held-out groups "
            "have no training rows; set unseen to 'prior' (--unseen prior) or hold_out to 0"
        )


def _check_obeyed(config: DataConfig, loaded: Loaded, is_cut: bool) -> None:
    """Raise `ConfigError` for settings of the split that change nothing with these rows.

    is_cut: whether test or validation rows are cut from the source's rows.
    """
    tokens = loaded.schema.x_kind == "tokens"
    at_random = is_cut and not tokens
    own = "the data set brings {} rows of its own"
    why_fixed = "its rows are split in time" if tokens else "no rows of it are drawn at random"
    idle = {
        "test_fraction": (
            own.format("test")
            if loaded.test is not None and config.test_fraction is not None
            else ""
        ),
        "val_fraction": own.format("validation") if loaded.val is not None else "",
        "split": "" if at_random else why_fixed,
        "split_seed": (
            "" if at_random or config.hold_out or config.limit_rows or config.overfit else why_fixed
        ),
    }
    for name, reason in idle.items():
        value, usual = getattr(config, name), DataConfig.model_fields[name].default
        if reason and value != usual and name not in loaded.obeyed:
            flag = f"--{name.replace('_', '-')}"
            raise ConfigError(
                f"{flag} {value} would change nothing for the data set {config.title}: {reason}; "
                "leave it out"
            )


def _check_two_groups(config: DataConfig, schema: Schema, groups: np.ndarray) -> None:
    if len(np.unique(groups[:, 0])) < 2:
        raise DataError(
            f"hold_out is {config.hold_out}, but level {schema.levels[0].name!r} has one group "
            "with training rows; expected two or more; set hold_out to 0"
        )


def _move(
    val: Split | None, test: Split | None, held: Split, groups: np.ndarray
) -> tuple[Split | None, Split]:
    """Join to the test rows those of groups that are held out: (validation, test)."""
    moved = [*([] if test is None else [test]), held]
    if val is not None:
        is_held = np.isin(val.groups[:, 0].numpy(), groups)
        moved.append(_some(val, np.flatnonzero(is_held)))
        val = _some(val, np.flatnonzero(~is_held)) if not is_held.all() else None
    joined = Split(
        JoinedRows([part.x for part in moved]),
        torch.cat([part.groups for part in moved]),
        torch.cat([part.y for part in moved]),
    )
    return val, joined


def _some(part: Split, index: np.ndarray) -> Split:
    return part.subset(torch.from_numpy(index))
