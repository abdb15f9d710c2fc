"""Part of a data set: which rows stay, what their groups are called, and what is refused."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from hlvnn.config import DataConfig
from hlvnn.data import data_of, splits
from hlvnn.data.describe import told
from hlvnn.data.grouped import GroupedDataset, Split
from hlvnn.errors import ConfigError, DataError
from tests.helpers import grouped_data

PLAYS = {"HAMLET": "Hamlet", "OPHELIA": "Hamlet", "ROMEO": "Verona", "JULIET": "Verona"}


def speakers(unseen: str = "prior") -> GroupedDataset:
    """Return lines of four speakers in two plays, each row's x its number in the table."""
    rng = np.random.default_rng(0)
    who = rng.choice(list(PLAYS), 200, p=[0.5, 0.3, 0.15, 0.05])
    frame = pd.DataFrame(
        {
            "x": np.arange(200.0),
            "y": rng.normal(size=200),
            "who": who,
            "play": [*map(PLAYS.get, who)],
        }
    )
    return GroupedDataset.from_frame(
        frame,
        target="y",
        features=["x"],
        groups=["who", "play"],
        val_fraction=0.2,
        test_fraction=0.2,
        unseen=unseen,  # type: ignore[arg-type]
    )


def labelled(data: GroupedDataset, split: Split) -> list[tuple[float, float, object, object]]:
    """Return a split's rows as whoever made the table knows them: x, y and both labels, sorted."""
    low, high = data.schema.levels
    rows = zip(split.x.all()[:, 0].tolist(), split.y.tolist(), split.gids.tolist(), strict=True)
    return sorted((x, y, low.label(g), high.label(h)) for x, y, (g, h) in rows)


@pytest.mark.parametrize(
    ("groups", "stays"),
    [
        (["HAMLET"], {"HAMLET"}),
        (["ROMEO", "OPHELIA"], {"ROMEO", "OPHELIA"}),
        ({"who": ["JULIET"]}, {"JULIET"}),
        (["Verona"], {"ROMEO", "JULIET"}),
        ({"play": ["Verona"], "who": ["HAMLET"]}, {"ROMEO", "JULIET", "HAMLET"}),
        (["play=Hamlet"], {"HAMLET", "OPHELIA"}),
    ],
)
def test_only_rows_of_named_groups_stay_in_every_split(groups: Any, stays: set[str]) -> None:
    data = speakers()
    part = data.subset(groups=groups)
    assert set(part.schema.levels[0].labels) == stays
    assert set(part.schema.levels[1].labels) == {PLAYS[who] for who in stays}
    assert list(part.splits()) == list(data.splits())
    for name, split in part.splits().items():
        whole = labelled(data, data.splits()[name])
        assert labelled(part, split) == [row for row in whole if row[2] in stays]
        assert not split.is_new.any()


def test_some_rows_stay_under_their_labels_and_groups_are_numbered_anew() -> None:
    data = speakers()
    who = [data.schema.levels[0].label(gid) for gid in data.train.groups[:, 0].tolist()]
    rows = [row for row, name in enumerate(who) if name != "HAMLET"][::2]
    part = data.subset(rows=rows)
    assert "HAMLET" not in part.schema.levels[0].labels
    assert part.schema.levels[0].new == ()
    assert torch.equal(part.train.y, data.train.y[rows])
    assert {row[2] for row in labelled(part, part.val)} <= {"OPHELIA", "ROMEO", "JULIET"}
    assert part.train.groups.min() == 0
    assert (part.counts(0) > 0).all()
    gone = sum(row[2] == "HAMLET" for row in labelled(data, data.val))
    left = f"val: {gone} of {len(data.val)} rows left out, whose groups have no training rows left"
    assert left in told(part)


@pytest.mark.parametrize("form", [list, np.array, torch.tensor, pd.Series])
def test_rows_are_numbers_or_truth_values(form: Any) -> None:
    data = speakers()
    by_number = data.subset(rows=form([5, 2, 90]))
    assert torch.equal(by_number.train.y, data.train.y[[5, 2, 90]])
    mask = [row in (5, 2, 90) for row in range(len(data.train))]
    assert torch.equal(data.subset(rows=form(mask)).train.y, data.train.y[[2, 5, 90]])


def test_a_subset_of_everything_is_the_same_data() -> None:
    data = speakers()
    part = data.subset(groups=list(PLAYS))
    assert part.schema == data.schema
    assert torch.equal(part.train.groups, data.train.groups)


def test_numbers_are_labels_where_there_are_no_others() -> None:
    data = grouped_data(levels=("low", "high"))
    part = data.subset(groups={"low": [4]})
    assert [level.labels for level in part.schema.levels] == [(4,), (1,)]
    assert data.subset(groups=["low=4"]).digest() == part.digest()


def test_rows_of_new_groups_stay_new() -> None:
    config = DataConfig(dataset="digits", hold_out=0.2, unseen="prior")
    data = data_of(config)
    part = data.subset(rows=range(0, len(data.train), 7))
    new = data.schema.levels[0].new
    assert len(new) == 3
    assert part.schema.levels[0].new == new
    assert int(part.test.is_new.sum()) == int(data.test.is_new.sum())
    named = data.subset(groups=[data.schema.levels[0].label(0), new[0]])
    assert named.schema.levels[0].new == new[:1]
    assert int(named.test.is_new.sum()) == int((data.test.gids[:, 0] == 11).sum())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "expected either rows (of training) or groups (their labels), got neither"),
        ({"rows": [1], "groups": ["HAMLET"]}, "got both; cut twice, .subset(…).subset(…)"),
        ({"groups": ["HAMLTE"]}, "unknown group 'HAMLTE'; did you mean 'HAMLET'? Known: HAMLET, "),
        ({"groups": {"who": ["Verona"]}}, "unknown who 'Verona'. Known: HAMLET, JULIET, OPHELIA"),
        ({"groups": {"whom": ["HAMLET"]}}, "unknown group level 'whom'; did you mean 'who'?"),
        ({"groups": ["who=ROMEA"]}, "unknown who 'ROMEA'; did you mean 'ROMEO'?"),
        ({"groups": "HAMLET"}, "a list of labels, got a string; write ['HAMLET']"),
        ({"groups": {"who": "HAMLET"}}, "'who': expected a list of labels, got 'HAMLET'"),
        ({"groups": []}, "no training rows are of the groups (none named)"),
        ({"rows": []}, "expected rows of shape [M], at least one, got [0]"),
        ({"rows": [3, 500]}, "there is no training row 500; expected numbers from 0 to "),
        ({"rows": [-1]}, "there is no training row -1"),
        ({"rows": [3, 4, 3]}, "row 3 is named twice"),
        ({"rows": [1.5]}, "expected row numbers or truth values, got float64"),
        ({"rows": [True, False]}, "2 truth values, but train has "),
    ],
)
def test_what_is_not_there_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        speakers().subset(**arguments)


def test_a_label_of_two_levels_has_to_be_told_apart() -> None:
    data = grouped_data(levels=("low", "high"))
    with pytest.raises(DataError, match=r"'1' is a group of low and high; say of which: "):
        data.subset(groups=["1"])


def test_rows_are_drawn_as_groups_are_large() -> None:
    low = np.repeat(np.arange(40), np.arange(1, 41))
    groups = np.stack([low, low // 10], axis=1)
    drawn = splits.spread(groups, 205, (0, splits.LIMIT))  # a quarter of 820
    assert len(set(drawn)) == 205
    assert (np.diff(drawn) > 0).all()
    for level in groups.T:
        sizes, taken = np.bincount(level), np.bincount(level[drawn], minlength=level.max() + 1)
        assert (taken >= np.floor(sizes / 4) - (sizes % 4 > 0)).all()
        assert (abs(taken - sizes / 4) < 1).all()
    assert np.array_equal(drawn, splits.spread(groups, 205, (0, splits.LIMIT)))
    assert not np.array_equal(drawn, splits.spread(groups, 205, (1, splits.LIMIT)))
    often = Counter(row for seed in range(400) for row in splits.spread(groups, 205, (seed,)))
    times = np.array([often[row] for row in range(820)])
    assert abs(times - 100).max() < 45  # 5.2 standard deviations of a binomial


# the settings


def test_limited_rows_are_some_of_the_training_rows() -> None:
    whole, some = (data_of(DataConfig(dataset="digits", limit_rows=n)) for n in (None, 100))
    assert len(some.train) == 100
    assert some.schema.levels[0].size == 14
    share = whole.counts(0) * 100 / len(whole.train)
    assert (some.counts(0) - share).abs().max() < 1
    assert torch.equal(some.val.y, whole.val.y)
    assert torch.equal(some.test.y, whole.test.y)
    assert some.digest() != whole.digest()


def test_a_few_rows_are_training_validation_and_test() -> None:
    data = data_of(DataConfig(dataset="digits", overfit=32))
    assert data.in_order
    assert data.train is data.val is data.test
    assert len(data.train) == 32


def test_groups_come_before_rows_and_rows_before_the_few() -> None:
    config = DataConfig(dataset="digits", only_groups=("3", "7"), limit_rows=50, overfit=50)
    data = data_of(config)
    assert data.schema.levels[0].labels == (3, 7)
    assert len(data.test) == 50


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            {"only_groups": ("99",)},
            DataError,
            "--only-groups: unknown writer '99'",
        ),
        ({"limit_rows": 5000}, ConfigError, "--limit-rows 5000: there are 1,297 training rows"),
        ({"overfit": 5000}, ConfigError, "--overfit 5000: there are 1,297 training rows"),
    ],
)
def test_settings_that_cannot_be_obeyed_are_refused(
    settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        data_of(DataConfig(dataset="digits", **settings))


@pytest.mark.data
def test_hamlet_alone(shared: Path) -> None:
    data = data_of(DataConfig(dataset="shakespeare", only_groups=("play=Hamlet",)))
    assert data.schema.levels[1].size == 1
