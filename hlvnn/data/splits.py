"""Which rows train, which are kept aside: inside groups, in time, and whole groups.

All functions take and return row numbers as numpy arrays, are vectorised over rows, and are decided
by their seed alone. `parts` puts them together; nothing else decides a split.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from hlvnn.data import by_class

HOLD_OUT, TEST, VAL, LIMIT = 0, 1, 2, 3
"""What tells the random splits of one seed apart."""
ACROSS = 1
"""What tells the draw across small groups from the one inside large groups."""

How = Literal["groups", "rows", "order"]
"""How rows are chosen: at random inside each group, among all rows, or as each group's last."""


@dataclass(frozen=True)
class Parts:
    """Row numbers of each part, ascending; held: rows of the groups that are held out whole."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    held: np.ndarray


def parts(
    groups: np.ndarray,
    *,
    test: float,
    val: float,
    seed: int,
    hold_out: float = 0.0,
    how: How = "groups",
    gap: int = 0,
    across: bool = True,
    y: np.ndarray | None = None,
) -> Parts:
    """Split rows with the groups [N, L], lowest level first.

    The order is: test rows, whole groups, validation rows. Groups too small for a row of their own
    by `within_groups` come last (`across_groups`), so that the rows of the others do not depend on
    them. gap: rows between the parts where `how` is order (see `in_order`). across=False leaves
    small groups without, as runs did before there was that rule. y: [N], by which classes the
    validation rows are stratified (`hlvnn.data.by_class`), if by any.
    """
    rest, tested = _cut(groups, np.arange(len(groups)), test, (seed, TEST), how, gap)
    held = rest[:0]
    if hold_out:
        sizes = np.bincount(groups[rest, 0], minlength=int(groups[:, 0].max()) + 1)
        is_held = hold_out_groups(sizes, hold_out, (seed, HOLD_OUT))[groups[rest, 0]]
        rest, held = rest[~is_held], rest[is_held]
    first = rest
    rest, validated = _cut(groups, rest, val, (seed, VAL), how, gap, y)
    if how == "groups" and across:
        everything = np.arange(len(groups))
        rest, more = across_groups(groups, everything, rest, test, (seed, TEST, ACROSS))
        tested = np.sort(np.concatenate([tested, more]))
        rest, more = across_groups(groups, first, rest, val, (seed, VAL, ACROSS), y)
        validated = np.sort(np.concatenate([validated, more]))
    return Parts(rest, validated, tested, held)


def _cut(
    groups: np.ndarray,
    rows: np.ndarray,
    fraction: float,
    seed: Sequence[int],
    how: How,
    gap: int,
    y: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Cut a share of some rows: (kept rows, cut rows), both ascending."""
    of_rows = None if y is None else y[rows]
    if fraction == 0 or len(rows) == 0:
        return rows, rows[:0]
    if how == "order":
        keep, cut = in_order(groups[rows, 0], fraction, gap)
    elif how == "rows":
        keep, cut = among_rows(len(rows), fraction, seed, of_rows)
    else:
        keep, cut = within_groups(groups[rows], fraction, seed, of_rows)
    return rows[keep], rows[cut]


def generator(seed: Sequence[int]) -> np.random.Generator:
    """Return the generator of one random split; the parts of `seed` tell splits of a run apart."""
    return np.random.default_rng([part % 2**63 for part in seed])


def within_groups(
    groups: np.ndarray, fraction: float, seed: Sequence[int], y: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Set a share of each group's rows aside: (kept rows, cut rows), both ascending.

    groups: [N] or [N, L] group numbers from 0, lowest level first. Of a lowest group's n rows,
    n · fraction are cut, rounded half up but never all n; groups too small for that give none. A
    row goes back where the cut would leave a group of another level without any. y: [N], classes
    that have their share of the cut.
    """
    groups = groups.reshape(len(groups), -1)
    lowest = groups[:, 0]
    sizes = np.bincount(lowest)
    quota = np.minimum(np.floor(sizes * fraction + 0.5).astype(np.int64), sizes - 1)
    if y is not None:
        cut = by_class.within_groups(lowest, y, np.maximum(quota, 0), generator(seed))
    else:
        shuffled = generator(seed).permutation(len(lowest))
        by_group = shuffled[np.argsort(lowest[shuffled], kind="stable")]
        begins = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        rank = np.arange(len(lowest)) - begins[lowest[by_group]]
        cut = np.zeros(len(lowest), bool)
        cut[by_group[rank < quota[lowest[by_group]]]] = True
    for upper in groups.T[1:]:
        kept = np.bincount(upper[~cut], minlength=int(upper.max()) + 1)
        lost = np.flatnonzero(cut & (kept[upper] == 0))
        cut[lost[np.unique(upper[lost], return_index=True)[1]]] = False
    return np.flatnonzero(~cut), np.flatnonzero(cut)


def across_groups(
    groups: np.ndarray,
    counted: np.ndarray,
    rest: np.ndarray,
    fraction: float,
    seed: Sequence[int],
    y: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Set a share of the small groups' rows aside, at most one of each: (kept rows, cut rows).

    groups: [N, L]; counted: the rows that make a group's size n; rest: those that may be cut, both
    ascending. Small are the groups from which `within_groups` takes nothing, because n · fraction
    is below a half; one with two rows or more in `rest` gives a row with the probability
    n · fraction, so that the share holds among them. No group of another level loses all its rows.
    y: [N], classes that have their share of the cut.
    """
    lowest = groups[:, 0]
    size = int(lowest.max()) + 1 if len(lowest) else 0
    share = np.bincount(lowest[counted], minlength=size) * fraction
    share[np.bincount(lowest[rest], minlength=size) < 2] = 0
    small = np.flatnonzero((share > 0) & (share < 0.5))
    if len(small) == 0:
        return rest, rest[:0]
    random = generator(seed)
    if y is not None:
        some = rest[np.isin(lowest[rest], small)]
        cut = some[by_class.across_groups(lowest[some], y[some], fraction, random)]
    else:
        cut = _one_of_each(lowest, rest, small, share, random)
    for upper in groups.T[1:]:
        kept = np.bincount(upper[np.setdiff1d(rest, cut)], minlength=int(upper.max()) + 1)
        lost = np.flatnonzero(kept[upper[cut]] == 0)
        cut = np.delete(cut, lost[np.unique(upper[cut[lost]], return_index=True)[1]])
    return np.setdiff1d(rest, cut), np.sort(cut)


def _one_of_each(
    lowest: np.ndarray,
    rest: np.ndarray,
    small: np.ndarray,
    share: np.ndarray,
    random: np.random.Generator,
) -> np.ndarray:
    """Draw some small groups with their probability, and a row of each."""
    order = random.permutation(small)
    # points one apart on the line of shares laid end to end: each is hit with its probability
    laid = np.floor(np.concatenate([[0.0], np.cumsum(share[order])]) + random.random())
    drawn = np.zeros(len(share), bool)
    drawn[order[np.diff(laid) > 0]] = True
    shuffled = random.permutation(rest)
    shuffled = shuffled[drawn[lowest[shuffled]]]
    return shuffled[np.unique(lowest[shuffled], return_index=True)[1]]


def among_rows(
    rows: int, fraction: float, seed: Sequence[int], y: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Set a share of all rows aside, whatever their groups: (kept rows, cut rows), both ascending.

    rows · fraction are cut, rounded half up but never all; a group may lose all its rows. y: [N],
    classes that have their share of the cut.
    """
    count = min(int(rows * fraction + 0.5), rows - 1)
    if y is not None:
        one = np.zeros(rows, np.int64)
        cut = by_class.within_groups(one, y, np.array([count]), generator(seed))
        return np.flatnonzero(~cut), np.flatnonzero(cut)
    shuffled = generator(seed).permutation(rows)
    return np.sort(shuffled[count:]), np.sort(shuffled[:count])


def in_order(lowest: np.ndarray, fraction: float, gap: int) -> tuple[np.ndarray, np.ndarray]:
    """Set the last rows of each group aside: (kept rows, cut rows), both ascending.

    lowest: [N] group numbers from 0. Of a group's n rows the last n · fraction (rounded half up)
    are cut and the `gap` rows before them are in neither part. A group in which that would leave no
    row to train on keeps all its rows.
    """
    sizes = np.bincount(lowest)
    quota = np.floor(sizes * fraction + 0.5).astype(np.int64)
    quota[sizes - quota - gap < 1] = 0
    by_group = np.argsort(lowest, kind="stable")
    begins = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    group = lowest[by_group]
    left = sizes[group] - (
        np.arange(len(lowest)) - begins[group]
    )  # rows to the group's end, own too
    cut = left <= quota[group]
    kept = (left > quota[group] + gap) | (quota[group] == 0)
    return np.sort(by_group[kept]), np.sort(by_group[cut])


def overlap(
    take: Callable[[torch.Tensor], torch.Tensor], lowest: np.ndarray, pairs: int = 512
) -> int:
    """Return how many rows after a window of running text share characters with it (0 = none).

    take: returns rows of tokens by index, [B] -> [B, W]; lowest: [N] group numbers. Looks at up to
    `pairs` successive rows of one group. If most are the same text shifted by s, a row and its
    target cover W + 1 characters, which the next W // s rows reach into: 80 where s is 1.
    """
    first = np.flatnonzero(lowest[1:] == lowest[:-1])
    if len(first) == 0:
        return 0
    first = first[np.linspace(0, len(first) - 1, min(pairs, len(first))).astype(np.int64)]
    one, two = take(torch.from_numpy(first)), take(torch.from_numpy(first + 1))
    width = one.shape[1]
    for shift in range(1, width):
        same = (one[:, shift:] == two[:, : width - shift]).all(1)
        if same.double().mean() > 0.5:
            return width // shift
    return 0


def hold_out_groups(sizes: np.ndarray, fraction: float, seed: Sequence[int]) -> np.ndarray:
    """Choose whole groups to hold out: [G] bool, about `fraction` of those with rows.

    sizes: [G] training rows per group. At least one group is chosen and at least one is left.
    """
    present = np.flatnonzero(sizes > 0)
    count = min(max(1, int(len(present) * fraction + 0.5)), len(present) - 1)
    chosen = np.zeros(len(sizes), bool)
    chosen[generator(seed).permutation(present)[:count]] = True
    return chosen


def in_time(
    length: int, window: int, stride: int, val_fraction: float, test_fraction: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split one text of `length` characters in time: window starts of (train, val, test).

    A row is `window` characters and the next one as its target, so it covers window + 1 characters.
    The text is cut at two points, train first, test last. A row belongs to the part in which all
    its characters lie; those that straddle a cut, `window` starts each, are dropped, so that no
    character of text is in two parts. Starts are `stride` apart, counted from the beginning of each
    part. A part shorter than window + 1 has no rows.
    """
    first = round(length * (1 - val_fraction - test_fraction))
    second = round(length * (1 - test_fraction)) if val_fraction else first
    bounds = [(0, first), (first, second), (second, length)]
    train, val, test = (np.arange(begin, max(begin, end - window), stride) for begin, end in bounds)
    return train, val, test


def spread(groups: np.ndarray, number: int, seed: Sequence[int]) -> np.ndarray:
    """Draw some rows at random, spread over their groups [N, L] as all rows are.

    Every row is equally likely. A group of any level (where each lies in one of the next) has its
    share of the rows drawn, rounded up or down. Returns `number` row numbers, ascending.
    """
    generator = np.random.default_rng(seed)
    total = len(groups)
    order = np.lexsort((generator.random(total), *groups.T))  # by the highest level first
    places = (np.arange(number) + generator.random()) * (total / number)
    return np.sort(order[np.minimum(places.astype(np.int64), total - 1)])
