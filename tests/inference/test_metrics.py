"""Metrics by counting, against scikit-learn group by group."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, f1_score, log_loss, mean_squared_error

from hlvnn.inference.metrics import RowScores, across_groups, group_table, overall, weighted_f1

ROWS, CLASSES, GROUPS = 400, 7, 12
PROBABILITIES = np.random.default_rng(0).dirichlet(np.ones(CLASSES), ROWS)


def class_scores(rows: int = ROWS, **changes: object) -> RowScores:
    """Return scores with uneven groups on two levels; groups 3 and 11 of the lowest are absent."""
    random = np.random.default_rng(1)
    weights = np.arange(1.0, GROUPS + 1)
    weights[[3, 11]] = 0
    lowest = random.choice(GROUPS, ROWS, p=weights / weights.sum())
    y = np.where(
        random.random(ROWS) < 0.5, PROBABILITIES.argmax(1), random.integers(CLASSES, size=ROWS)
    )
    values = {
        "loss": -np.log(PROBABILITIES[np.arange(ROWS), y]),
        "y": y,
        "prediction": PROBABILITIES.argmax(1),
        "groups": np.stack([lowest, lowest % 4], axis=1).astype(np.int32),
    }
    values = {name: array[:rows] for name, array in values.items()}
    return RowScores(**{**values, "num_classes": CLASSES, **changes})  # type: ignore[arg-type]


def real_scores() -> RowScores:
    random = np.random.default_rng(2)
    y = random.normal(100, 20, ROWS)
    prediction = y + random.normal(0, 5, ROWS)
    groups = random.integers(GROUPS - 1, size=(ROWS, 1)).astype(np.int32)
    return RowScores(random.random(ROWS), y, prediction, groups, None)


@pytest.mark.parametrize("level", [0, 1])
def test_every_groups_accuracy_f1_and_loss_are_scikit_learns(level: int) -> None:
    scores = class_scores()
    table = group_table(scores, level, GROUPS).set_index("gid")
    column = scores.groups[:, level]
    assert table.index.tolist() == sorted(set(column.tolist()))
    for gid, got in table.iterrows():
        mine = column == gid
        y, prediction = scores.y[mine], scores.prediction[mine]
        assert got["n"] == mine.sum()
        assert got["acc"] == pytest.approx(accuracy_score(y, prediction))
        expected = f1_score(y, prediction, average="weighted", zero_division=0)
        assert got["f1"] == pytest.approx(expected)
        expected = log_loss(y, PROBABILITIES[mine], labels=range(CLASSES))
        assert got["loss"] == pytest.approx(expected)


def test_the_metrics_over_all_rows_are_scikit_learns() -> None:
    scores = class_scores()
    got = overall(scores)
    assert set(got) == {"loss", "acc", "f1"}
    assert got["acc"] == pytest.approx(accuracy_score(scores.y, scores.prediction))
    expected = f1_score(scores.y, scores.prediction, average="weighted", zero_division=0)
    assert got["f1"] == pytest.approx(expected)
    assert got["loss"] == pytest.approx(log_loss(scores.y, PROBABILITIES, labels=range(CLASSES)))


def test_every_groups_squared_error_is_scikit_learns() -> None:
    scores = real_scores()
    table = group_table(scores, 0, GROUPS).set_index("gid")
    assert list(table.columns) == ["n", "mse", "loss"]
    for gid, got in table.iterrows():
        mine = scores.groups[:, 0] == gid
        expected = mean_squared_error(scores.y[mine], scores.prediction[mine])
        assert got["mse"] == pytest.approx(expected)
        assert got["loss"] == pytest.approx(scores.loss[mine].mean())
    assert overall(scores)["mse"] == pytest.approx(mean_squared_error(scores.y, scores.prediction))


def test_a_group_without_rows_in_the_split_has_no_line() -> None:
    table = group_table(class_scores(), 0, GROUPS)
    assert 3 not in set(table["gid"])
    assert 11 not in set(table["gid"])
    assert table["n"].sum() == ROWS


def test_rows_of_unknown_groups_count_overall_and_in_no_group() -> None:
    known = class_scores()
    groups = known.groups.copy()
    groups[::4, 0] = -1
    scores = class_scores(groups=groups)
    table = group_table(scores, 0, GROUPS)
    assert table["n"].sum() == ROWS - len(groups[::4])
    assert table["gid"].min() == 0
    kept = groups[:, 0] >= 0
    subset = RowScores(
        *(array[kept] for array in (known.loss, known.y, known.prediction, groups)), CLASSES
    )
    pd.testing.assert_frame_equal(table, group_table(subset, 0, GROUPS))
    assert overall(scores) == overall(known)


def test_all_rows_unknown_gives_an_empty_table_and_no_summary() -> None:
    scores = class_scores(groups=np.full((ROWS, 1), -1, dtype=np.int32))
    table = group_table(scores, 0, GROUPS)
    assert len(table) == 0
    assert across_groups(table) == {}


def test_a_column_keeps_its_type_in_every_table() -> None:
    table = group_table(class_scores(), 0, GROUPS)
    types = {name: str(kind) for name, kind in table.dtypes.items()}
    floats = {"acc": "float64", "f1": "float64", "loss": "float64"}
    assert types == {"gid": "int32", "n": "int64", **floats}


def test_a_single_class_is_right_everywhere_or_nowhere() -> None:
    zeros, ones = np.zeros(5, dtype=np.int64), np.ones(5, dtype=np.int64)
    group = np.array([0, 0, 1, 1, 1])
    assert weighted_f1(zeros, zeros, 1, group, 2).tolist() == [1, 1]
    assert weighted_f1(zeros, ones, 2, group, 2).tolist() == [0, 0]


def test_f1_of_a_group_without_rows_is_nan() -> None:
    zeros = np.zeros(2, dtype=np.int64)
    got = weighted_f1(zeros, zeros, 1, np.array([0, 2]), 3)
    assert np.isnan(got).tolist() == [False, True, False]


def test_a_single_row_has_metrics() -> None:
    scores = class_scores(rows=1)
    assert overall(scores)["acc"] in (0, 1)
    assert len(group_table(scores, 0, GROUPS)) == 1


def test_many_classes_and_groups_do_not_collide() -> None:
    """Keys are group × classes + class: beyond 32 bits here."""
    random = np.random.default_rng(3)
    classes, groups = 100_000, 50_000
    y = random.integers(classes - 4, classes, 200)
    prediction = random.integers(classes - 4, classes, 200)
    group = random.integers(groups - 3, groups, 200).astype(np.int32)
    got = weighted_f1(y, prediction, classes, group, groups)
    for gid in range(groups - 3, groups):
        mine = group == gid
        expected = f1_score(y[mine], prediction[mine], average="weighted", zero_division=0)
        assert got[gid] == pytest.approx(expected)


def test_the_summary_over_groups_is_numpys() -> None:
    table = group_table(class_scores(), 0, GROUPS)
    got = across_groups(table)
    acc = table["acc"].to_numpy()
    assert got == {
        "group_mean": pytest.approx(acc.mean()),
        "group_p10": pytest.approx(np.percentile(acc, 10)),
        "group_p90": pytest.approx(np.percentile(acc, 90)),
        "group_worst": acc.min(),
    }


def test_the_weak_end_of_squared_errors_is_the_large_one() -> None:
    table = group_table(real_scores(), 0, GROUPS)
    got = across_groups(table)
    mse = table["mse"].to_numpy()
    assert got["group_p10"] == pytest.approx(np.percentile(mse, 90))
    assert got["group_p90"] == pytest.approx(np.percentile(mse, 10))
    assert got["group_worst"] == mse.max()


def test_the_mean_over_groups_weighs_groups_alike() -> None:
    scores = class_scores()
    table = group_table(scores, 0, GROUPS)
    by_rows = np.average(table["acc"], weights=table["n"])
    assert by_rows == pytest.approx(overall(scores)["acc"])
    assert across_groups(table)["group_mean"] != pytest.approx(by_rows, abs=1e-6)
