"""Groups too small for a validation row of their own: together they give their share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import hlvnn
from hlvnn.config import DataConfig
from hlvnn.data import load_data, splits, why_changed
from hlvnn.data.assemble import assemble
from hlvnn.data.sources import table as source
from hlvnn.errors import DataError
from tests.conftest import Ended


def mixed_groups() -> np.ndarray:
    """20 groups of 30 rows, 100 of 4, 30 of 1, in a shuffled order."""
    sizes = [30] * 20 + [4] * 100 + [1] * 30
    groups = np.repeat(np.arange(150), sizes)
    return np.random.default_rng(0).permutation(groups)[:, None]


def pupils(path: Path, schools: int = 100, rows: int = 4) -> Path:
    rng = np.random.default_rng(0)
    x = rng.normal(size=schools * rows)
    frame = pd.DataFrame({"y": 2 * x + rng.normal(size=len(x)), "x": x})
    frame["school"] = np.repeat([f"s{i}" for i in range(schools)], rows)
    frame.to_csv(path, index=False)
    return path


def config(path: Path, test: float | None = 0.0) -> DataConfig:
    return DataConfig(
        dataset="table", table=path, target="y", groups=("school",), test_fraction=test
    )


@pytest.mark.parametrize("seed", range(5))
def test_large_groups_keep_their_rows_and_small_ones_give_their_share(seed: int) -> None:
    groups = mixed_groups()
    keep, tested = splits.within_groups(groups, 0.05, (seed, splits.TEST))
    validated = keep[splits.within_groups(groups[keep], 0.1, (seed, splits.VAL))[1]]
    now = splits.parts(groups, test=0.05, val=0.1, seed=seed)
    before = splits.parts(groups, test=0.05, val=0.1, seed=seed, across=False)
    assert np.array_equal(before.test, tested)
    assert np.array_equal(before.val, validated)
    large = groups[:, 0] < 20
    assert np.array_equal(now.test[large[now.test]], tested)
    assert np.array_equal(now.val[large[now.val]], validated)
    assert (~large[now.test]).sum() in (20, 21)  # 5 % of 400 rows, and of singles none
    assert (~large[now.val]).sum() == pytest.approx(40, abs=2)
    everything = np.concatenate([now.train, now.val, now.test])
    assert np.array_equal(np.sort(everything), np.arange(len(groups)))
    assert set(groups[now.train, 0]) == set(range(150))
    assert np.bincount(groups[now.val, 0])[20:].max() == 1


def test_each_row_of_a_small_group_is_drawn_equally_often() -> None:
    groups = np.repeat(np.arange(5), 4)[:, None]
    drawn = [splits.parts(groups, test=0, val=0.1, seed=seed).val for seed in range(1000)]
    times = np.bincount(np.concatenate(drawn), minlength=20)
    assert (abs(times - 100) < 45).all()  # 4.7 standard deviations


def test_a_group_of_another_level_keeps_a_row() -> None:
    lowest = np.repeat(np.arange(200), 2)
    upper = np.random.default_rng(0).permutation(400) // 2  # each of two rows
    groups = np.stack([lowest, upper], axis=1)
    parts = splits.parts(groups, test=0, val=0.24, seed=0)
    assert set(upper[parts.train]) == set(range(200))
    assert len(parts.val) > 60


def test_a_run_on_small_groups_selects_on_validation_rows_and_says_so(
    tmp_path: Path, train_one: Callable[..., Ended]
) -> None:
    path = pupils(tmp_path / "pupils.csv")
    flags = ("--dataset", "table", "--table", path, "--target", "y", "--groups", "school")
    run = ("--num-epochs", 2, "--results-dir", tmp_path, "--test-fraction", 0, "--name", "r")
    ended = train_one(*flags, *run)
    assert ended.code == 0, ended.err
    assert "360 train, 40 val rows" in ended.out
    assert "val: 60 of 100 school have no row in it" in ended.out
    metrics = pd.read_csv(tmp_path / "pupils" / "r" / "metrics.csv")
    assert metrics["val_loss"].notna().all()
    ended = train_one(*flags, *run[:-1], "s", "--val-fraction", 0)
    assert "no validation rows: the best epoch and --patience go by the training loss" in ended.out


def test_the_rule_is_named_where_it_changed_an_older_run(
    tmp_path: Path, train_one: Callable[..., Ended]
) -> None:
    path = pupils(tmp_path / "pupils.csv")
    flags = ("--dataset", "table", "--table", path, "--target", "y", "--groups", "school")
    run = tmp_path / "pupils" / "r"
    assert train_one(*flags, "--num-epochs", 1, "--results-dir", tmp_path, "--name", "r").code == 0
    settings = config(path, None)
    older = assemble(settings, source.load(settings), across=False).digest()
    record = json.loads((run / "hyperparams.json").read_text())
    assert record["data_hash"] == load_data(settings).digest() != older
    record["data_hash"] = older
    (run / "hyperparams.json").write_text(json.dumps(record))
    assert "the rule of the split is new" in why_changed(settings, older)
    with pytest.raises(DataError, match=r"has changed since .*the rule of the split is new"):
        _ = hlvnn.load_run(run).data
    ended = train_one("--resume", run)
    assert ended.code == 2
    assert "the rule of the split is new" in ended.err
    assert why_changed(settings, "another") == ""


def test_users_of_two_rows_in_leafs_files_get_test_rows() -> None:
    one = np.zeros((2, 1), np.int64)
    rows = np.arange(2)
    cuts = [splits.across_groups(one, rows, rows, 0.2, (0, i))[1] for i in range(1000)]
    assert sum(map(len, cuts)) == pytest.approx(400, abs=65)  # a fifth of 2,000 rows
