"""What a data set was taken for, in sentences: whoever trains on it reads them first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hlvnn.columns import MEASURES, TEST, TWO_CLASSES, VAL
from hlvnn.data.frames import Measure
from hlvnn.data.grouped import GroupedDataset

SHOWN = 12
"""Names shown of a longer list."""


def told(data: GroupedDataset) -> list[str]:
    """Return sentences: columns and their kinds, target, group ids, what a split lacks, notes."""
    found = [_columns(data), _target(data), _groups(data), *data.notes, _classes_without_rows(data)]
    found += [_without_validation(data), *_new_groups(data), *_of_one_class(data)]
    return [sentence for sentence in found if sentence]


def _columns(data: GroupedDataset) -> str:
    coding = data.schema.coding
    if not coding:
        return ""
    kinds: dict[str, list[str]] = {"numbers": [], "days since 1970": [], "categories": []}
    for name, kind in coding.items():
        if isinstance(kind, str):
            kinds["numbers"].append(name)
        elif isinstance(kind, Measure):
            kinds["days since 1970" if kind.date else "numbers"].append(name)
        else:
            kinds["categories"].append(f"{name} ({listed([str(label) for label in kind], 4)})")
    parts = [f"{kind} {listed(names)}" for kind, names in kinds.items() if names]
    return f"columns: {'; '.join(parts)}"


def _target(data: GroupedDataset) -> str:
    target = data.schema.target
    if target.trials is not None:
        return f"target: {target.name}, successes out of {target.trials}"
    if target.kind == "real":
        return f"target: {target.name}, {'a count' if target.counts else 'a real number'}"
    if target.labels is None:
        return f"target: {target.name}, one of {target.num_classes} classes"
    return f"target: {target.name}, one of {listed([str(label) for label in target.labels])}"


def _groups(data: GroupedDataset) -> str:
    kinds = []
    for level in data.schema.levels:
        is_text = level.labels is not None and isinstance(level.labels[0], str)
        kinds.append(f"{level.name} ({'text' if is_text else 'whole numbers'})")
    return f"group ids: {', '.join(kinds)}"


def _classes_without_rows(data: GroupedDataset) -> str:
    target = data.schema.target
    if target.num_classes is None:
        return ""
    rows = np.bincount(data.train.y.numpy(), minlength=target.num_classes)
    names = target.labels or range(target.num_classes)
    missing = [repr(names[k]) for k in np.flatnonzero(rows == 0)]
    return f"classes without a training row: {listed(missing)}" if missing else ""


def _without_validation(data: GroupedDataset) -> str:
    if data.val is None:
        return (
            "no validation rows: the best epoch and --patience go by the training loss; "
            "--val-fraction sets rows aside"
        )
    level = data.schema.levels[0]
    has = np.zeros(level.size, bool)
    gids = data.val.groups[:, 0].numpy()
    has[gids[gids >= 0]] = True
    lacking = int((~has).sum())
    return f"{VAL}: {lacking:,} of {level.size:,} {level.name} have no row in it" if lacking else ""


def _new_groups(data: GroupedDataset) -> list[str]:
    level, found = data.schema.levels[0], []
    for name, split in ((VAL, data.val), (TEST, data.test)):
        if split is not None and bool(split.is_new.any()):
            rows = int(split.is_new.sum())
            of = len(split.gids[:, 0][split.groups[:, 0] < 0].unique())
            found.append(
                f"{name}: {rows:,} of {len(split):,} rows are of groups without training rows "
                f"({of:,} new {level.name})"
            )
    return found


def _of_one_class(data: GroupedDataset) -> list[str]:
    """Tell of which rows, and of how many groups, there is no AUC and the like."""
    target, level, found = data.schema.target, data.schema.levels[0], []
    if target.num_classes != 2:
        return []
    for name, split in ((VAL, data.val), (TEST, data.test)):
        if split is None:
            continue
        y, gid = split.y.numpy(), split.gids[:, 0].numpy()
        none = f"no {', '.join(MEASURES[measure].title for measure in TWO_CLASSES)}"
        if (y == y[0]).all():
            label = (target.labels or (0, 1))[int(y[0])]
            found.append(f"{name}: all {len(y):,} rows are of class {label!r}, so there is {none}")
            continue
        known = gid >= 0
        rows = np.bincount(gid[known], minlength=level.size)
        ones = np.bincount(gid[known], weights=y[known], minlength=level.size)
        alone, there = (
            int(((rows > 0) & ((ones == 0) | (ones == rows))).sum()),
            int((rows > 0).sum()),
        )
        if alone:
            found.append(
                f"{name}: {alone:,} of {there:,} {level.name} have rows of one class only: {none} "
                "of them, and they are left out of the means over groups"
            )
    return found


def listed(names: Sequence[str], most: int = SHOWN) -> str:
    """Return names as a list, a long one cut: `a, b, c and 17 more`."""
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[: most - 1])} and {len(names) - most + 1} more"
