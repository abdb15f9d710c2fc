"""Splits: inside groups, in order, in time, and whole groups held out."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from hlvnn.config import DataConfig
from hlvnn.data import splits
from hlvnn.data.assemble import assemble
from hlvnn.data.grouped import GroupedDataset, Level, Loaded, Schema, Split, Target, TensorRows
from hlvnn.errors import ConfigError, DataError


def random_groups(rows: int, size: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, size, rows)


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("seed", [0, 1, -1])
def test_within_groups_cuts_the_share_and_leaves_a_row(fraction: float, seed: int) -> None:
    groups = random_groups(1000, 90, seed=abs(seed))
    keep, cut = splits.within_groups(groups, fraction, (seed, splits.VAL))
    assert np.array_equal(np.sort(np.concatenate([keep, cut])), np.arange(1000))
    assert (np.diff(keep) > 0).all()
    assert (np.diff(cut) > 0).all()
    sizes, taken = (np.bincount(part, minlength=90) for part in (groups, groups[cut]))
    present = sizes > 0
    assert (taken[present] < sizes[present]).all()
    expected = np.minimum(np.floor(sizes * fraction + 0.5), np.maximum(sizes - 1, 0))
    assert np.array_equal(taken, expected)


def test_within_groups_is_decided_by_its_seed() -> None:
    groups = random_groups(500, 10, seed=0)
    one, same, other = (
        splits.within_groups(groups, 0.2, seed)[1] for seed in ((5, 1), (5, 1), (5, 2))
    )
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_within_groups_cuts_every_row_of_a_group_equally_often() -> None:
    groups = np.zeros(10, np.int64)
    cuts = [splits.within_groups(groups, 0.3, (seed, 0))[1] for seed in range(500)]
    times = np.bincount(np.concatenate(cuts), minlength=10)
    assert times.sum() == 1500
    assert (abs(times - 150) < 45).all()  # 4.4 standard deviations of a binomial


def test_within_groups_leaves_a_row_to_crossed_groups_too() -> None:
    lowest, upper = random_groups(600, 20, seed=0), random_groups(600, 300, seed=1)
    groups = np.stack([lowest, upper], axis=1)
    keep, cut = splits.within_groups(groups, 0.5, (0, 0))
    assert set(upper[keep]) == set(upper)
    assert set(lowest[keep]) == set(lowest)
    assert len(cut) > 150
    assert len(keep) + len(cut) == 600


@pytest.mark.parametrize("length", [0, 80, 81, 500, 810, 1000, 12345])
@pytest.mark.parametrize("stride", [1, 5, 22])
@pytest.mark.parametrize("val_fraction", [0.0, 0.09])
def test_in_time_shares_no_character_of_text(length: int, stride: int, val_fraction: float) -> None:
    parts = splits.in_time(length, 80, stride, val_fraction, 0.1)
    covered = [
        set(itertools.chain.from_iterable(range(start, start + 81) for start in starts))
        for starts in parts
    ]
    for one, two in itertools.combinations(covered, 2):
        assert not one & two
    spoken = [part for part in covered if part]
    assert all(max(one) < min(two) for one, two in itertools.pairwise(spoken))
    assert not spoken or (min(spoken[0]) >= 0 and max(spoken[-1]) < length)
    assert len(parts[1]) == 0 or val_fraction
    for starts in parts:
        assert (np.diff(starts) == stride).all()


def test_in_time_drops_80_starts_at_each_boundary() -> None:
    train, val, test = splits.in_time(10_000, 80, 1, 0.1, 0.1)
    assert (val[0] - train[-1] - 1, test[0] - val[-1] - 1) == (80, 80)
    assert (train[0], test[-1]) == (0, 10_000 - 81)


def test_among_rows_cuts_a_share_of_all_rows_and_leaves_one() -> None:
    for rows, fraction, count in ((10, 0.25, 3), (10, 0.24, 2), (1, 0.9, 0), (1000, 0.999, 999)):
        keep, cut = splits.among_rows(rows, fraction, (3,))
        assert len(cut) == count
        assert np.array_equal(np.sort(np.concatenate([keep, cut])), np.arange(rows))
        assert (np.diff(keep) > 0).all()
        assert (np.diff(cut) > 0).all()
        assert np.array_equal(cut, splits.among_rows(rows, fraction, (3,))[1])
    assert not np.array_equal(*(splits.among_rows(99, 0.5, (seed,))[1] for seed in (0, 1)))


def test_in_order_takes_the_last_rows_after_a_gap() -> None:
    groups = np.array([0] * 10 + [1] * 4 + [0] * 10)
    keep, cut = splits.in_order(groups, 0.2, gap=3)
    assert cut.tolist() == [20, 21, 22, 23]
    assert keep.tolist() == [*range(17)]


@pytest.mark.parametrize("stride", [1, 3, 80, 81])
def test_overlap_finds_how_far_windows_reach(stride: int) -> None:
    text = np.random.default_rng(0).integers(0, 60, 30_000)
    starts = np.arange(0, 30_000 - 81, stride)
    windows = torch.from_numpy(np.stack([text[start : start + 80] for start in starts]))
    groups = np.arange(len(starts)) * 5 // len(starts)
    gap = splits.overlap(lambda index: windows[index], groups)
    assert gap == (80 // stride if stride < 80 else 0)
    keep, cut = splits.in_order(groups, 0.1, gap)
    if stride < 80:
        for g in range(5):
            last, first = starts[keep][groups[keep] == g].max(), starts[cut][groups[cut] == g].min()
            assert last + 81 <= first


def test_overlap_of_unrelated_rows_is_none() -> None:
    rows = torch.from_numpy(np.random.default_rng(0).integers(0, 60, (300, 80)))
    assert splits.overlap(lambda index: rows[index], np.zeros(300, np.int64)) == 0
    assert splits.overlap(lambda index: rows[index], np.arange(300)) == 0


@pytest.mark.parametrize(("fraction", "count"), [(0.01, 1), (0.3, 3), (0.99, 8)])
def test_hold_out_chooses_whole_groups_and_leaves_one(fraction: float, count: int) -> None:
    sizes = np.array([3, 0, 1, 1, 4, 1, 5, 9, 2, 6])
    chosen = splits.hold_out_groups(sizes, fraction, (0, splits.HOLD_OUT))
    assert chosen.sum() == count
    assert not chosen[sizes == 0].any()


# Assembly: what the configuration does to a loader's rows

LABELS = tuple("abcdefghij")


def raw(rows: int = 400, kind: Any = "features") -> tuple[Schema, Split, Split]:
    """10 writers in 4 sites; x holds the row's own number, so that rows can be told apart."""
    schema = Schema(
        levels=(Level("writer", 10, LABELS), Level("site", 4)),
        x_kind=kind,
        x_shape=(1,),
        num_tokens=10_000 if kind == "tokens" else None,
        target=Target("y", "class", num_classes=10),
    )
    writer = torch.arange(rows, dtype=torch.int32) % 10
    groups = torch.stack([writer, writer // 3], dim=1)
    x = torch.arange(rows).reshape(-1, 1)
    x = x.int() if kind == "tokens" else x.float()
    everything = Split(TensorRows(x), groups, writer.long())
    parts = torch.arange(rows) >= rows * 3 // 4
    train, test = (everything.subset(mask.nonzero().squeeze(1)) for mask in (~parts, parts))
    return schema, train, test


def label_rows(data: GroupedDataset) -> dict[str, list[tuple[int, int, str | int, str | int]]]:
    writer, site = data.schema.levels
    return {
        name: [
            (int(x), int(y), writer.label(int(a)), site.label(int(b)))
            for x, y, (a, b) in zip(split.x.all(), split.y, split.gids, strict=True)
        ]
        for name, split in data.splits().items()
    }


@pytest.mark.parametrize("hold_out", [0.0, 0.5])
def test_assembly_keeps_every_row_its_label(hold_out: float) -> None:
    schema, train, test = raw()
    config = DataConfig(hold_out=hold_out, unseen="prior", val_fraction=0.1)
    data = assemble(config, Loaded(schema, train, test))
    parts = label_rows(data)
    assert sorted(row for part in parts.values() for row in part) == [
        (i, i % 10, LABELS[i % 10], i % 10 // 3) for i in range(400)
    ]
    assert data.schema.unseen == "prior"
    assert min(data.counts(0).min(), data.counts(1).min()) >= 1


def test_held_out_groups_are_new_and_told_apart() -> None:
    schema, train, test = raw()
    config = DataConfig(hold_out=0.5, unseen="prior", val_fraction=0.1)
    data = assemble(config, Loaded(schema, train, test))
    writer = data.schema.levels[0]
    assert (writer.size, len(writer.new)) == (5, 5)
    assert set(writer.labels or ()) | set(writer.new) == set(LABELS)
    for name in ("train", "val"):
        split = data.splits()[name]
        assert (split.groups >= 0).all()
        assert torch.equal(split.groups, split.gids)
    groups, gids = data.test.groups[:, 0], data.test.gids[:, 0]
    assert torch.equal(groups, torch.where(gids < 5, gids, -1))
    assert torch.bincount(gids).tolist() == [10] * 5 + [40] * 5
    # a site is new exactly where all its writers are
    site = data.schema.levels[1]
    trained = {LABELS.index(str(label)) // 3 for label in writer.labels or ()}
    assert set(site.labels or range(4)) == trained


def test_hold_out_needs_the_prior() -> None:
    schema, train, test = raw()
    with pytest.raises(ConfigError, match=r"hold_out is 0.2 while unseen is 'error'.*prior"):
        assemble(DataConfig(hold_out=0.2), Loaded(schema, train, test))


def test_hold_out_needs_two_groups() -> None:
    schema, train, _ = raw()
    schema = replace(schema, levels=(Level("writer", 1), Level("site", 1)))
    train = Split(train.x, torch.zeros_like(train.groups), train.y)
    with pytest.raises(DataError, match="one group with training rows"):
        assemble(DataConfig(hold_out=0.2, unseen="prior"), Loaded(schema, train, test_fraction=0.0))


def test_validation_rows_come_from_training_rows_of_their_group() -> None:
    schema, train, test = raw()
    data = assemble(DataConfig(val_fraction=0.2), Loaded(schema, train, test))
    before = set(train.x.all().flatten().tolist())
    parts = {name: set(split.x.all().flatten().tolist()) for name, split in data.splits().items()}
    assert parts["train"] | parts["val"] == before
    assert not parts["train"] & parts["val"]
    assert torch.bincount(data.val.groups[:, 0]).tolist() == [6] * 10
    assert assemble(DataConfig(val_fraction=0), Loaded(schema, train, test)).val is None


def test_validation_of_tokens_is_the_end_of_each_group() -> None:
    schema, train, test = raw(kind="tokens")
    data = assemble(DataConfig(val_fraction=0.2), Loaded(schema, train, test))
    assert data.val.x.all().min() == 240
    assert data.train.x.all().max() == 239
