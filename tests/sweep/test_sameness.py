"""A sweep that goes on: the same space whatever its file says, the same data wherever they lie."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from hlvnn.commands import tune_search
from hlvnn.config import DataConfig
from hlvnn.data import data_of
from hlvnn.errors import ConfigError, DataError
from hlvnn.records import outcomes
from hlvnn.records.sweep_folder import read_record
from hlvnn.sweep import building, plan
from hlvnn.sweep.context import Context
from hlvnn.sweep.proposer import Proposer
from tests.rayless import run_sweep
from tests.spaces import write_space

SPACE = '''"""A study."""
from helping import RATES

BASE = {"dataset": "table", "table": "wards.csv", "target": "y", "groups": ["ward"]}
BASE |= {"num_epochs": 1, "hidden": [4]}
METRIC, MODE = "val_loss", "min"

def space(trial):
    drawn = {"lr": trial.suggest_float("lr", *RATES)}
    if trial.number == 1:
        drawn["batch_size"] = trial.suggest_categorical("batch_size", [8, 16])
    return drawn
'''


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a sweep of two trials on a table, `work/results/wards/s`; `work` is where one is."""
    work = tmp_path / "work"
    work.mkdir()
    frame = pd.DataFrame({"x": range(60), "ward": [n % 5 for n in range(60)]})
    frame.assign(y=frame["x"] * 0.1 + frame["ward"] + 0.5).to_csv(work / "wards.csv", index=False)
    helping(tmp_path, monkeypatch, "0.001, 0.01")
    found = run_sweep(work, SPACE, 2)
    monkeypatch.chdir(work)
    return found


def helping(folder: Path, monkeypatch: pytest.MonkeyPatch, rates: str) -> None:
    """Write the helper module that the space imports, and have it imported anew."""
    (folder / "helping.py").write_text(f"RATES = ({rates})\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(__import__("sys").modules, "helping", raising=False)
    shutil.rmtree(folder / "__pycache__", ignore_errors=True)


def resumed(sweep: Path, *flags: object) -> plan.Plan:
    return plan.of(tune_search.parse(["--resume", str(sweep), *map(str, flags)]))


def test_a_word_in_a_docstring_changes_nothing_and_the_digest_is_kept(sweep: Path) -> None:
    before = read_record(sweep).sha256
    write_space(SPACE.replace("A study.", "A study, of wards."))
    planned = resumed(sweep)
    plan.begin(planned)
    assert read_record(sweep).sha256 == planned.space.sha256 != before


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('"hidden": [4]', '"hidden": [5]', "trial 0 would not be drawn again: hidden = 5, it was"),
        ("[8, 16]", "[8, 32]", "trial 1 .*: batch_size is drawn from 8 or 32, it was from 8 or 16"),
        ("trial.number == 1", "False", "trial 1 .*: batch_size is drawn from nothing, it was from"),
        (
            '"val_loss", "min"',
            '"val_mse", "min"',
            r"selects on val_mse \(min\), it was on",
        ),
        ('"lr": trial', '"momentum": 1, "lr": trial', "unknown setting|momentum"),
    ],
)
def test_another_space_is_refused_and_a_warm_start_offered(
    sweep: Path, old: str, new: str, told: str
) -> None:
    assert old in SPACE
    write_space(SPACE.replace(old, new))
    with pytest.raises(ConfigError, match=told) as caught:
        resumed(sweep)
    if "momentum" not in new:
        assert "tune_search.py study --warm-start results/wards/s" in str(caught.value)


def test_changed_ranges_in_a_helper_module_are_seen(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helping(tmp_path, monkeypatch, "0.001, 0.5")
    with pytest.raises(ConfigError, match=r"lr is drawn from 0.001 … 0.5, it was from 0.001 … 0"):
        resumed(sweep)


def test_a_moved_sweep_goes_on_on_data_that_moved(sweep: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / "wards"
    shutil.copytree(sweep, moved)
    shutil.rmtree(sweep)
    table = Path("wards.csv").rename(tmp_path / "moved.csv")
    for seed in (1, 2):  # a process keeps the last data that it loaded
        data_of(DataConfig(dataset="digits", split_seed=seed))
    (outcomes.trial_folder(moved, 1) / outcomes.OUTCOME).unlink()  # as if it were cut short
    with pytest.raises(DataError, match="give the table's path with --table"):
        building.check(resumed(moved))
    planned = resumed(moved, "--table", table)
    building.check(planned)
    plan.begin(planned)
    assert read_record(moved).fixed["table"] == str(table)

    context = Context.of(planned, 1, Console(quiet=True))
    proposer = Proposer(context)
    told: dict[str, Any] = proposer(context.journal.study.ask())
    assert Path(told["folder"]).parent == moved
    draw = context.journal.draws()[1]
    trial = context.journal.latest()[1]
    again = proposer.__class__(context)
    assert draw.settings["table"] != str(table)
    settings = json.loads(again(_reopened(context, trial))["settings"])
    assert settings["table"] == str(table)

    other = tmp_path / "other.csv"
    pd.read_csv(table).assign(y=lambda rows: rows["y"] * 1000).to_csv(other, index=False)
    with pytest.raises(DataError, match=r"other.csv are not those that trial 0 began with \(hash"):
        building.check(resumed(moved, "--table", other))


def _reopened(context: Context, frozen: Any) -> Any:
    import optuna

    return optuna.Trial(context.journal.study, frozen._trial_id)


def test_what_may_not_change_is_named_by_flags_that_there_are(sweep: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        resumed(sweep, "--seed", 3, "--dropout", 0.5)
    message = str(caught.value)
    assert message.startswith("--seed (was 0, got 3), --dropout (was None, got 0.5) cannot change")
    assert len(message) < 200
