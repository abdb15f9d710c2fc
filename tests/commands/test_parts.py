"""`train_one.py` on part of the data, and fast: what is trained on, kept, repeated and refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hlvnn import load_run
from hlvnn.config import DATA_PARTS
from hlvnn.records.checkpoint import load_checkpoint
from hlvnn.records.predictions import PREDICTIONS
from hlvnn.records.run_folder import CHECKPOINT, HYPERPARAMS, LOG, read_config, read_metrics
from tests.helpers import same_bits
from tests.runs import contents

TrainOne = Callable[..., Any]
TABLE = ("--dataset", "table", "--target", "y", "--groups", "who", "--features", "x")
FIT = ("--num-epochs", 3, "--batch-size", 16, "--backbone", "mlp", "--hidden", 8)
WHO = ("HAMLET", "OPHELIA", "ROMEO")


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    who = np.repeat(WHO, (100, 60, 40))
    x = np.random.default_rng(0).normal(size=200)
    frame = pd.DataFrame({"x": x, "who": who, "y": np.where(x > 0, "a", "b")})
    frame.to_csv("lines.csv", index=False)
    return tmp_path / "lines.csv"


@pytest.fixture
def run(train_one: TrainOne, table: Path) -> Callable[..., Path]:
    """Return `train_one.py` on the table as a function of further flags and the run's name."""

    def run(name: str, *flags: object, parent: str = "lines") -> Path:
        ended = train_one(*TABLE, "--table", table, *FIT, "--name", name, *flags)
        assert ended.code == 0, ended.err
        return table.parent / "results" / parent / name

    return run


def rows_of(folder: Path) -> dict[str, int]:
    return {name: len(split) for name, split in load_run(folder).data.splits().items()}


@pytest.mark.parametrize(
    "flags",
    [
        ("--limit-rows", 50),
        ("--only-groups", "HAMLET", "who=ROMEO"),
        ("--only-groups", "OPHELIA", "--limit-rows", 20),
        ("--overfit", 32),
    ],
)
def test_a_part_of_the_data_is_kept_repeated_and_gone_on_with(
    train_one: TrainOne, run: Callable[..., Path], flags: tuple[object, ...]
) -> None:
    first = run("first", *flags)
    settings = json.loads((first / HYPERPARAMS).read_text())["config"]
    assert any(settings[name] for name in DATA_PARTS)
    assert train_one("--from-trial", first, "--name", "again").code == 0
    again = first.with_name("again")
    assert same_bits(load_run(first).model, load_run(again).model)
    assert read_config(again).data == read_config(first).data
    before = contents(first)
    assert train_one("--resume", first).code == 0  # it has ended: nothing is left to do
    assert contents(first).keys() >= before.keys()
    refused = train_one("--resume", first, "--limit-rows", 10)
    assert refused.code == 2
    assert "changed: --limit-rows 10 (was " in refused.err


def test_only_these_groups_are_trained_and_told_of(run: Callable[..., Path]) -> None:
    folder = run("some", "--only-groups", "HAMLET", "ROMEO")
    assert load_run(folder).schema.levels[0].labels == ("HAMLET", "ROMEO")
    whole = rows_of(run("all"))
    assert sum(rows_of(folder).values()) == 140
    assert sum(whole.values()) == 200
    assert "groups: 2 who" in (folder / LOG).read_text()


def test_a_group_that_is_not_there_is_refused_and_nothing_written(
    train_one: TrainOne, table: Path
) -> None:
    ended = train_one(*TABLE, "--table", table, "--only-groups", "HAMLTE", "--name", "first")
    assert ended.code == 2
    assert ended.err.strip().endswith(
        "--only-groups: unknown who 'HAMLTE'; did you mean 'HAMLET'? Known: HAMLET, OPHELIA, ROMEO."
    )
    assert not (table.parent / "results").exists()


def test_limited_rows_leave_the_other_splits(run: Callable[..., Path]) -> None:
    whole, some = rows_of(run("all")), rows_of(run("some", "--limit-rows", 50))
    assert some == {**whole, "train": 50}


def test_a_few_rows_are_learned_and_scored_in_one_order(run: Callable[..., Path]) -> None:
    flags = ("--num-epochs", 60, "--lr", 0.05, "--batch-size", 8)
    folder = run("few", "--overfit", 24, *flags)
    assert rows_of(folder) == {"train": 24, "val": 24, "test": 24}
    metrics = read_metrics(folder)
    assert metrics["val_acc"].iloc[-1] == 1
    assert metrics["val_acc"].equals(metrics["test_acc"])
    table = pd.read_parquet(folder / PREDICTIONS).set_index("split")
    assert table.loc["val", "y"].tolist() == table.loc["test", "y"].tolist()


def test_an_old_run_knows_no_parts_and_goes_on(
    train_one: TrainOne, run: Callable[..., Path]
) -> None:
    folder = run("old")
    record = json.loads((folder / HYPERPARAMS).read_text())
    for name in (*DATA_PARTS, "fast"):
        del record["config"][name]
    (folder / HYPERPARAMS).write_text(json.dumps(record))
    assert read_config(folder).data.overfit is None
    assert train_one("--resume", folder).code == 0
    assert train_one("--from-trial", folder, "--name", "again").code == 0


def test_a_trial_on_part_of_its_rows_must_have_the_rows_that_it_had(
    train_one: TrainOne, run: Callable[..., Path], table: Path
) -> None:
    whole, some = run("whole"), run("some", "--limit-rows", 50)
    again = ("--overfit", 16, "--name", "few")
    assert train_one("--from-trial", whole, *again).code == 0
    assert rows_of(whole.with_name("few"))["train"] == 16
    unlimited = train_one("--from-trial", some, "--limit-rows", "None", "--name", "more")
    assert unlimited.code == 0, unlimited.err
    assert same_bits(load_run(whole.with_name("more")).model, load_run(whole).model)
    frame = pd.read_csv(table)
    frame["x"] *= 2
    frame.to_csv(table, index=False)
    for trial in (whole, some):
        for flags in ((), ("--overfit", 16)):
            ended = train_one("--from-trial", trial, *flags, "--name", "changed")
            assert ended.code == 2
            assert "are not those that it was trained on" in ended.err
    other = train_one("--from-trial", whole, "--overfit", 16, "--other-data", "--name", "other")
    assert other.code == 0, other.err


# fast


def test_a_fast_run_does_three_steps_of_everything_and_says_so_once(
    train_one: TrainOne, run: Callable[..., Path]
) -> None:
    flags = ("--batch-size", 4, "--num-epochs", 40, "--latent-config", "factor")
    folder = run("quick", "--fast", *flags, parent="tests")
    log = (folder / LOG).read_text()
    assert log.count("fast") == 1
    assert "fast: at most 3 epochs of 3 steps" in log
    assert "worse than" not in log
    assert load_checkpoint(folder / CHECKPOINT)["step"] == 9
    assert len(read_metrics(folder)) == 3
    assert pd.read_parquet(folder / PREDICTIONS)["split"].value_counts().to_dict() == {
        "val": 12,
        "test": 12,
    }
    config = read_config(folder)
    assert (config.train.fast, config.train.num_epochs, config.testing) == (True, 3, False)
    assert load_run(folder).schema.levels[0].size == 3  # the model is as large as ever
    assert train_one("--from-trial", folder, "--name", "again").code == 0
    again = folder.with_name("again")
    assert same_bits(load_run(again).model, load_run(folder).model)
    assert train_one("--resume", folder).code == 0
    refused = train_one("--resume", folder, "--no-fast")
    assert refused.code == 2
    assert "--fast" in refused.err


@pytest.mark.parametrize(
    "flags",
    [
        ("--batch-size", "None"),
        ("--objective", "iwae", "--latent-config", "factor", "--num-samples", 3),
        ("--backbone", "linear", "--hidden", "None", "--latent-config", "bias"),
        ("--overfit", 16),
    ],
)
def test_whatever_is_fitted_can_be_fast(
    run: Callable[..., Path], flags: tuple[object, ...]
) -> None:
    folder = run("quick", "--fast", "--batch-size", 2, *flags, parent="tests")
    assert "ELBO" in (text := (folder / LOG).read_text()) or "importance-weighted" in text
