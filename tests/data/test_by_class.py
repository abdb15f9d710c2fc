"""Validation rows stratified by class: of all rows, and group by group."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import hlvnn
from hlvnn.config import DataConfig
from hlvnn.data import load_data, splits
from hlvnn.errors import ConfigError


def planted(rates: list[float], sizes: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return groups [N, 2] of some sizes (the upper one of ten) and rare classes, shuffled."""
    random = np.random.default_rng(seed)
    groups = random.permutation(np.repeat(np.arange(len(sizes)), sizes))
    y = random.choice(len(rates) + 1, len(groups), p=[1 - sum(rates), *rates])
    return np.stack([groups, groups // 10], axis=1), y


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rates", [[0.02], [0.01, 0.05, 0.3]])
def test_each_class_has_its_share_of_all_rows_and_of_each_groups(
    seed: int, rates: list[float]
) -> None:
    groups, y = planted(rates, np.random.default_rng(seed).integers(20, 90, 100), seed)
    plain = splits.parts(groups, test=0.1, val=0.1, seed=seed)
    parts = splits.parts(groups, test=0.1, val=0.1, seed=seed, y=y)
    assert np.array_equal(parts.test, plain.test), "test rows stay as they are"
    everything = np.sort(np.concatenate([parts.train, parts.val, parts.test]))
    assert np.array_equal(everything, np.arange(len(y)))
    lowest, both = groups[:, 0], np.concatenate([parts.train, parts.val])
    taken, sizes = (np.bincount(lowest[rows], minlength=100) for rows in (parts.val, both))
    assert np.array_equal(taken, np.bincount(lowest[plain.val], minlength=100))
    for one in range(len(rates) + 1):
        own, of_class = (
            np.bincount(lowest[rows][y[rows] == one], minlength=100) for rows in (parts.val, both)
        )
        expected = taken * of_class / sizes
        assert (abs(own - expected) < 1).all(), "rounded up or down in each group"
        assert abs(own.sum() - expected.sum()) <= (1 if one == 1 else 4), "the rarest to the row"
    rare = 1
    share = (y[parts.val] == rare).sum() / (y[both] == rare).sum()
    assert share == pytest.approx(len(parts.val) / len(both), abs=0.03)


def test_small_groups_give_their_share_of_each_class_together() -> None:
    groups, y = planted([0.03], np.full(1000, 4), 0)
    parts = splits.parts(groups, test=0, val=0.1, seed=0, y=y)
    assert len(parts.val) == pytest.approx(400, abs=2)
    assert (y[parts.val] == 1).sum() == pytest.approx(0.1 * (y == 1).sum(), abs=1)
    assert np.bincount(groups[parts.val, 0]).max() == 1
    assert set(groups[parts.train, 0]) == set(range(1000))


@pytest.mark.parametrize("how", ["groups", "rows"])
def test_every_row_is_as_likely_and_a_class_keeps_one_to_train_on(how: splits.How) -> None:
    groups = np.zeros((20, 1), np.int64)
    y = np.array([1] * 6 + [0] * 13 + [2])
    times = np.zeros(20)
    for seed in range(400):
        val = splits.parts(groups, test=0, val=0.3, seed=seed, how=how, y=y).val
        assert len(val) in (5, 6)
        times[val] += 1
    assert (abs(times[:19] - 120) < 45).all()
    assert times[19] == 0, "the only row of its class"


def wards(path: Path) -> DataConfig:
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"age": random.normal(size=400), "ward": np.arange(400) % 20})
    frame["dead"] = np.where(np.arange(400) % 25 == 3, "yes", "no")
    frame.loc[7, "dead"] = "lost"
    frame.to_csv(path, index=False)
    how = {"target": "dead", "groups": ("ward",), "val_fraction": 0.25}
    return DataConfig(dataset="table", table=path, stratify=True, **how)  # type: ignore[arg-type]


def test_what_came_of_it_and_what_could_not_be_had_is_said(tmp_path: Path) -> None:
    data = load_data(wards(tmp_path / "wards.csv"))
    (note,) = [note for note in data.notes if "stratified" in note]
    assert data.val is not None
    trained, validated = (part.y.bincount(minlength=3) for part in (data.train, data.val))
    both = trained + validated
    assert f"'yes' {validated[2]} of {both[2]}" in note
    assert abs(validated[2] / both[2] - 0.25) < 0.1
    assert "too few rows for any in validation: 'lost' (1 rows)" in note
    assert "of 20 ward have too few rows for one of each class of theirs" in note
    assert data.digest() == load_data(wards(tmp_path / "wards.csv")).digest()


def test_where_there_is_nothing_to_stratify_it_is_refused(tmp_path: Path) -> None:
    config = wards(tmp_path / "wards.csv")
    plays = {"dataset": "shakespeare", "table": None, "target": None, "groups": ()}
    for changes, reason in (
        ({"target": "age"}, "the target age is no class"),
        ({"val_fraction": 0.0}, "no validation rows are cut"),
        (plays, "validation rows of its own"),
    ):
        with pytest.raises(ConfigError, match=f"--stratify would change nothing: .*{reason}"):
            load_data(config.model_copy(update=changes))


def test_a_frame_is_split_so_too() -> None:
    frame = pd.DataFrame({"x": np.arange(200.0), "g": np.arange(200) % 4})
    frame["y"] = np.where(np.arange(200) % 20 < 2, "yes", "no")
    how = {"target": "y", "features": ["x"], "groups": ["g"], "val_fraction": 0.2}
    data = hlvnn.GroupedDataset.from_frame(frame, stratify=True, **how)  # type: ignore[arg-type]
    assert data.val is not None
    assert int((data.val.y == 1).sum()) == 4
    assert any("'yes' 4 of 20 (20.0%)" in note for note in data.notes)
