"""Rows kept aside so that classes have their share of them: of all rows, and in each group."""

from __future__ import annotations

import numpy as np

from hlvnn.data.schema import Schema
from hlvnn.errors import ConfigError

Ints = np.ndarray
FEW = 4
"""Classes up to which each one's share is told."""
TINY = 1e-9
NAMED = 12
"""Classes that are named of those without a row."""


def within_groups(groups: Ints, y: Ints, quota: Ints, generator: np.random.Generator) -> Ints:
    """Choose the rows that each group gives, its classes in proportion: [N] bool.

    groups: [N] numbers from 0; y: [N] class numbers; quota: [G], rows that each group gives, fewer
    than it has. Of a group's n rows of a class q · n / (rows of the group) are chosen, rounded up
    or down so that the group gives what it has to; which way is drawn, class by class from the
    rarest on, such that all groups together give a class its share, to the row.
    """
    num_classes = int(y.max()) + 1
    keys = groups.astype(np.int64) * num_classes + y
    cells, cell_of, count = np.unique(keys, return_inverse=True, return_counts=True)
    group, label = cells // num_classes, cells % num_classes
    sizes = np.bincount(groups, minlength=len(quota))
    expected = quota[group] * count / sizes[group]
    given = np.floor(expected + 1e-9).astype(np.int64)
    rest = np.where(expected - given > TINY, expected - given, 0.0)
    # the rows that rounding down has left to each group: at most one more for each of its classes
    seats = quota - np.bincount(group, weights=given, minlength=len(quota)).astype(np.int64)
    ahead, left = (np.bincount(group, weights=w, minlength=len(quota)) for w in (rest, rest > 0))
    for one in np.argsort(np.bincount(y, minlength=num_classes), kind="stable"):
        cell = generator.permutation(np.flatnonzero((label == one) & (rest > 0)))
        of = group[cell]
        chance = np.minimum(1.0, seats[of] * rest[cell] / np.maximum(ahead[of], TINY))
        chance[seats[of] == left[of]] = 1.0
        laid = np.floor(np.concatenate([[0.0], np.cumsum(chance)]) + generator.random())
        drawn = (np.diff(laid) > 0) | (seats[of] == left[of])
        given[cell[drawn]] += 1
        seats[of[drawn]] -= 1
        ahead[of] -= rest[cell]
        left[of] -= 1
    chosen = _first(cell_of, given, generator)
    for one in np.flatnonzero(np.bincount(y) > 0):  # a class keeps a row to train on
        rows = np.flatnonzero(y == one)
        if chosen[rows].all():
            chosen[rows[0]] = False
    return chosen


def _first(cell: Ints, given: Ints, generator: np.random.Generator) -> Ints:
    """Choose so many rows of each cell at random: [N] bool."""
    shuffled = generator.permutation(len(cell))
    ordered = shuffled[np.argsort(cell[shuffled], kind="stable")]
    begins = np.concatenate([[0], np.cumsum(np.bincount(cell))[:-1]])
    rank = np.arange(len(cell)) - begins[cell[ordered]]
    chosen = np.zeros(len(cell), bool)
    chosen[ordered[rank < given[cell[ordered]]]] = True
    return chosen


def across_groups(groups: Ints, y: Ints, fraction: float, generator: np.random.Generator) -> Ints:
    """Choose rows of groups too small to give one each, at most one of a group: row numbers.

    groups, y: [N]. Each class gives its share of its rows, as far as groups last, the rarest first.
    """
    order = np.argsort(np.bincount(y), kind="stable")
    share = np.bincount(y)[order] * fraction
    ends = np.floor(np.concatenate([[0.0], np.cumsum(share)]) + generator.random())
    taken = np.zeros(int(groups.max()) + 1 if len(groups) else 0, bool)
    chosen: list[Ints] = []
    for one, wanted in zip(order, np.diff(ends).astype(int), strict=True):
        rows = generator.permutation(np.flatnonzero(y == one))
        rows = rows[~taken[groups[rows]]]
        first = np.sort(np.unique(groups[rows], return_index=True)[1])[:wanted]
        taken[groups[rows[first]]] = True
        chosen.append(rows[first])
    return np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, np.int64)


def check(schema: Schema, val_fraction: float, why_not: str = "") -> None:
    """Raise `ConfigError` where there are no classes, or no validation rows to stratify by them.

    why_not: another reason against it, known before.
    """
    if schema.target.kind != "class":
        why_not = f"the target {schema.target.name} is no class"
    elif not val_fraction and not why_not:
        why_not = "no validation rows are cut (--val-fraction 0.1 cuts some)"
    if why_not:
        raise ConfigError(f"--stratify would change nothing: {why_not}; leave it out")


def told(schema: Schema, groups: Ints, y: Ints, train: Ints, val: Ints) -> str:
    """Return what came of it, and what could not be had.

    groups, y: [N], of all rows; train, val: the numbers of those.
    """
    target, level, both = schema.target, schema.levels[0], np.concatenate([train, val])
    num_classes = target.num_classes or 0
    names = [repr(name) for name in (target.labels or range(num_classes))]
    rows, kept = (np.bincount(y[some], minlength=num_classes) for some in (both, val))
    if num_classes <= FEW:
        of = zip(names, kept, rows, strict=True)
        parts = [
            f"{name} {part:,} of {all_:,} ({part / max(all_, 1):.1%})" for name, part, all_ in of
        ]
    else:
        shares = kept[rows > 0] / rows[rows > 0]
        parts = [f"of {num_classes} classes {shares.min():.1%} to {shares.max():.1%} each"]
    sentences = [f"validation rows are stratified by class: {', '.join(parts)}"]
    if len(without := np.flatnonzero((rows > 0) & (kept == 0))):
        few = [f"{names[k]} ({rows[k]} rows)" for k in without]
        more = f" and {len(few) - NAMED} more" * (len(few) > NAMED)
        sentences.append(f"too few rows for any in validation: {', '.join(few[:NAMED])}{more}")
    keys, size = groups.astype(np.int64) * num_classes + y, int(groups.max()) + 1
    has, shown = (
        np.bincount(np.unique(keys[some]) // num_classes, minlength=size) for some in (both, val)
    )
    if number := int((has > shown).sum()):
        there = f"{number:,} of {int((has > 0).sum()):,} {level.name}"
        sentences.append(f"{there} have too few rows for one of each class of theirs")
    return "; ".join(sentences)
