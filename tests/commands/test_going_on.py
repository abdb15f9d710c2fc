"""`train_one.py` going on with a run or repeating one: what is refused, moved, asked again."""

from __future__ import annotations

import html
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from hlvnn import load_run
from hlvnn.analysis import load_runs, load_sweep
from hlvnn.analysis.report import REPORT
from hlvnn.config import DataConfig
from hlvnn.data import data_of
from hlvnn.records.run_folder import (
    BEST,
    CHECKPOINT,
    HYPERPARAMS,
    PREVIOUS,
    read_config,
    read_metrics,
)
from tests.helpers import ROOT, same_bits
from tests.rayless import run_sweep
from tests.runs import contents

TrainOne = Callable[..., Any]
WARDS = ROOT / "tests" / "files" / "recorded" / "wards.csv"
TABLE = ("--dataset", "table", "--target", "y", "--groups", "ward", "--num-epochs", 3)
WEIGHTS = (CHECKPOINT, PREVIOUS, BEST)


def commands_in(message: str) -> str:
    """Return what a message tells to type, after its last colon."""
    return message.strip().rpartition(": ")[2]


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    frame = pd.DataFrame({"x": range(60), "ward": [n % 5 for n in range(60)]})
    frame.assign(y=frame["x"] * 0.1 + frame["ward"] + 0.5).to_csv("wards.csv", index=False)
    return tmp_path / "wards.csv"


@pytest.fixture
def run(train_one: TrainOne, table: Path) -> Path:
    ended = train_one(*TABLE, "--table", table, "--debug", "--name", "first", "--results-dir", "a")
    assert ended.code == 0, ended.err
    return table.parent / "a" / "wards" / "first"


def test_a_finished_run_without_its_weights_is_refused_and_stays(
    train_one: TrainOne, run: Path
) -> None:
    for name in WEIGHTS:
        (run / name).unlink(missing_ok=True)
    before = contents(run)
    ended = train_one("--resume", run)
    assert ended.code == 2
    assert "3 epochs of it were measured" in ended.err
    assert ended.err.count("\n") == 1
    assert contents(run) == before
    assert train_one(*commands_in(ended.err).split()[2:], "--name", "anew").code == 0


def test_a_trial_inside_its_sweep_is_refused_and_goes_on_as_a_copy(
    train_one: TrainOne, small_sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = tmp_path / "my results" / "digits" / small_sweep.name
    shutil.copytree(small_sweep, sweep)
    monkeypatch.chdir(tmp_path)
    stopped = sweep / "trial_0004"
    before, table = contents(sweep), load_sweep(sweep).trials
    ended = train_one("--resume", stopped)
    assert ended.code == 2
    assert contents(sweep) == before
    copying, _, going_on = commands_in(ended.err).partition(" && ")
    subprocess.run(copying, shell=True, check=True, cwd=tmp_path)
    copy = sweep.parent / f"{sweep.name}-trial_0004"
    assert going_on == f"python train_one.py --resume '{copy.relative_to(tmp_path)}'"
    assert train_one("--resume", copy).code == 0
    assert len(read_metrics(copy)) == 6
    pd.testing.assert_frame_equal(load_sweep(sweep).trials, table)


def test_a_repeated_run_goes_to_the_callers_results_and_shows_what_it_is_told(
    train_one: TrainOne, run: Path
) -> None:
    ended = train_one("--from-trial", run, "--name", "again")
    assert ended.code == 0, ended.err
    assert "first batch" not in ended.out  # debug is not inherited
    again = run.parent.parent.parent / "results" / "wards" / "again"
    assert not read_config(again).train.debug
    assert same_bits(load_run(again).model, load_run(run).model)
    ended = train_one("--from-trial", run, "--name", "shown", "--debug")
    assert ended.code == 0, ended.err
    assert "first batch" in ended.out
    assert [path.name for path in run.parent.iterdir()] == ["first"]


def test_data_that_moved_are_given_and_known_by_their_hash(
    train_one: TrainOne, analysis: Callable[..., Any], run: Path, table: Path
) -> None:
    moved = table.with_name("moved.csv")
    table.rename(moved)
    for seed in (1, 2):  # a process keeps the last data that it loaded
        data_of(DataConfig(dataset="digits", split_seed=seed))
    for flag in ("--from-trial", "--resume"):
        ended = train_one(flag, run)
        assert ended.code == 2
        assert "give the table's path with --table" in ended.err
    assert analysis("calibration", run).code == 2
    ended = analysis("calibration", run, "--table", moved)
    assert ended.code == 0, ended.err
    ended = analysis(run.parent)
    assert ended.code == 0, ended.err
    assert "give the table&#39;s path with --table" in (run.parent / REPORT).read_text()
    ended = analysis(run.parent, "--table", moved)
    assert ended.code == 0, ended.err
    page = html.unescape((run.parent / REPORT).read_text())
    assert "give the table's path" not in page
    assert f"--from-trial {run.relative_to(Path.cwd())} --table moved.csv" in page
    assert 'load_runs("a/wards", table="moved.csv")' in page
    assert "there is nothing" in analysis(run.parent, "--table", table).err
    rows = load_runs(run.parent, table=moved).group("3").rows
    assert rows["input"].str.startswith("x=").all()
    ended = train_one("--from-trial", run, "--table", moved, "--name", "again")
    assert ended.code == 0, ended.err
    ended = train_one("--resume", run, "--table", moved)
    assert ended.code == 0, ended.err
    assert read_config(run).data.table == moved
    assert len(load_run(run).data.train) > 0

    other = table.with_name("other.csv")
    pd.read_csv(moved).assign(y=lambda rows: rows["y"] * 1000).to_csv(other, index=False)
    before = contents(run)
    for flag in ("--from-trial", "--resume"):
        ended = train_one(flag, run, "--table", other)
        assert ended.code == 2
        assert "hash" in ended.err
    assert contents(run) == before
    flags = ("--from-trial", run, "--table", other, "--other-data", "--name", "others")
    assert train_one(*flags).code == 0


def test_home_folders_are_understood_in_every_path(
    train_one: TrainOne, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = table.parent / "home"
    home.mkdir()
    shutil.copy(table, home)
    monkeypatch.setenv("HOME", str(home))
    flags = (*TABLE, "--table", "~/wards.csv", "--results-dir", "~/out", "--name", "a")
    assert train_one(*flags).code == 0
    folder = home / "out" / "wards" / "a"
    assert (folder / HYPERPARAMS).exists()
    assert train_one("--resume", "~/out/wards/a").code == 0
    assert train_one("--from-trial", "~/out/wards/a", "--name", "b").code == 0
    assert load_run("~/out/wards/a").epoch == 3
    assert not Path("~").exists()
    ended = train_one("--from-trial", "~nobody-of-this-name/x")
    assert ended.code == 2
    assert "no such home folder" in ended.err


def test_a_sweep_understands_home_folders_too(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    space = (
        'BASE = {"dataset": "digits", "hidden": [4], "num_epochs": 1, "data_dir": "~/data"}\n'
        'METRIC, MODE = "val_loss", "min"\n'
        'def space(trial):\n    return {"lr": trial.suggest_float("lr", 1e-3, 1e-2)}\n'
    )
    sweep = run_sweep(tmp_path / "work", space, 1, ["--results-dir", "~/out"])
    assert sweep == tmp_path / "home" / "out" / "digits" / "s"
    assert read_config(sweep / "trial_0000").data.data_dir == tmp_path / "home" / "data"
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["search_spaces"]
