"""What is typed for a sweep and what it tells to type: names, times, and what --dry-run sees."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from hlvnn import errors, files
from hlvnn.commands import train_one as train_one_command
from hlvnn.commands import tune_search
from hlvnn.config import RunConfig
from hlvnn.errors import RunError
from hlvnn.records.sweep_folder import SWEEP
from hlvnn.sweep import naming, plan
from hlvnn.sweep.options import SweepConfig, seconds
from hlvnn.training import execution
from tests.spaces import SPACE, write_space


def told(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """Run tune_search.py's command; return what it says when it refuses (exit code 2)."""
    with pytest.raises(SystemExit) as end:
        errors.run_command(lambda: tune_search.main(list(args)))
    message = capsys.readouterr().err
    assert end.value.code == 2
    assert "Traceback" not in message
    return message


class _Now(datetime):
    """A clock that stands still."""

    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        return datetime(2026, 1, 2, 3, 4, 5, tzinfo=tz)


def test_two_sweeps_of_one_second_get_two_names(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(naming, "datetime", _Now)
    planned = [plan.new_plan(tune_search.parse(["study"])) for _ in range(2)]  # at the same time
    claimed = [plan.claimed(one) for one in planned]
    later = plan.claimed(plan.new_plan(tune_search.parse(["study"])))
    names = [one.sweep.name for one in (*claimed, later)]
    assert names == [f"study-20260102-030405{more}" for more in ("", "-2", "-3")]
    assert [one.options.name for one in (*claimed, later)] == names
    assert all(one.sweep.is_dir() for one in claimed)
    plan.begin(claimed[1])
    assert (here / "results" / "digits" / names[1] / SWEEP).exists()


def test_a_name_that_was_given_is_taken_once(here: Path) -> None:
    planned = [plan.new_plan(tune_search.parse(["study", "--name", "my sweep"])) for _ in range(2)]
    plan.claimed(planned[0])
    with pytest.raises(RunError, match="exists already") as caught:
        plan.claimed(planned[1])
    command = str(caught.value).rpartition(": ")[2]
    assert shlex.split(command)[-2:] == ["--resume", "results/digits/my sweep"]
    assert shlex.split(planned[0].resume_command)[-1] == "results/digits/my sweep"
    assert shlex.split(planned[0].place("report.html")) == ["results/digits/my sweep/report.html"]


def test_two_runs_of_one_second_get_two_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "datetime", _Now)
    config = RunConfig(results_dir=tmp_path)
    config = config.model_copy(
        update={"data": config.data.model_copy(update={"dataset": "digits"})}
    )
    first = execution.new_folder(config)
    first.mkdir(parents=True)
    assert execution.new_folder(config).name == f"{first.name}-2"


LONG = "n" * 260


def test_a_long_name_is_one_message(
    here: Path, capsys: pytest.CaptureFixture[str], train_one: Callable[..., Any]
) -> None:
    message = told(capsys, "study", "--name", LONG)
    assert message == (
        f"error: --name {'n' * 20}…: 260 bytes are too many for the name of a folder; give at most "
        f"{files.NAME_BYTES}\n"
    )
    for flags in (
        ("--dataset", "digits", "--name", LONG),
        ("--dataset", LONG),
        ("--dataset", "table", "--table", f"{LONG}.csv", "--target", "y", "--groups", "g"),
        ("--resume", LONG),
        ("--from-trial", LONG),
        ("--space", LONG, "--draw", 0),
    ):
        ended = train_one(*flags)
        assert ended.code == 2
        assert "Traceback" not in ended.err
        assert "nnnn" in ended.err
    assert not (here / "results").exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90", 90), ("90s", 90), ("1h30m", 5400), ("1.5h", 5400), ("2d", 172800), ("1h 30m 5s", 5405)],
)
def test_times(text: str, expected: float) -> None:
    assert seconds(text) == expected
    assert tune_search.parse(["digits", "--time-budget", text]).time_budget == expected


@pytest.mark.parametrize("text", ["", "h", "1h30", "30 minutes", "1x", "1..5h", "-3m"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a time such as 90s, 30m, 8h, 2d or 1h30m"):
        seconds(text)


def test_a_file_of_the_folder_is_its_study(here: Path) -> None:
    planned = plan.new_plan(tune_search.parse(["search_spaces/study.py"]))
    assert planned.sweep.name.startswith("study-")
    assert planned.options.space == "study"
    assert planned.options.num_trials == 5  # SWEEP's own


def test_a_flag_of_the_space_can_be_given_again_and_taken_back(here: Path) -> None:
    write_space(SPACE.replace('"num_trials": 5', '"num_trials": 5, "report": False'))
    assert not tune_search.parse(["study"]).report
    assert tune_search.parse(["study", "--report"]).report
    assert not SweepConfig(report=False).report
    command = train_one_command.parse(["--dataset", "digits", "--debug", "--no-debug"])
    assert not command.train.debug


def test_a_dry_run_sees_a_metric_that_is_not_measured(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_space(SPACE.replace("val_acc", "val_accuracy"))
    message = told(capsys, "study", "--dry-run")
    assert "METRIC = 'val_accuracy' is not measured on these data; there are: val_" in message
    write_space(SPACE.replace("val_acc", "val_auc"))
    message = told(capsys, "study", "--dry-run")
    assert "METRIC = 'val_auc' is not measured on these data: AUC needs rows of both of" in message
    assert "the target has 10 classes" in message


def test_a_dry_run_shows_a_drawn_seed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_space(SPACE.replace('{"lr"', '{"seed": trial.suggest_int("seed", 70, 79), "lr"'))
    assert tune_search.main(["study", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"seed.*lr", shown)
    assert len(re.findall(r"│ 7\d ", shown)) == 5


def test_a_dry_run_shows_what_was_drawn_also_where_it_is_bases_own_value(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_space(
        """
BASE = {"dataset": "digits", "backbone": "mlp", "batch_size": 64, "z_dim": 10, "num_epochs": 2}
METRIC, MODE = "val_acc", "max"
SWEEP = {"num_trials": 4, "searcher": "grid"}

def space(trial):
    structure = trial.suggest_categorical("latent_config", ["none", "factor"])
    batch_size = trial.suggest_categorical("batch_size", [64, 128])
    if structure == "none":
        return {"latent_config": structure, "batch_size": batch_size}
    z_dim = trial.suggest_categorical("z_dim", [10])
    return {"latent_config": structure, "batch_size": batch_size, "z_dim": z_dim}
"""
    )
    assert tune_search.main(["study", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    rows = [
        [cell.strip() for cell in line.strip("│").split("│")]
        for line in shown.splitlines()
        if line.startswith("│")
    ]
    drawn = {tuple(row[1:]) for row in rows}
    assert drawn == {
        ("none", "64", ""),
        ("none", "128", ""),
        ("factor", "64", "10"),
        ("factor", "128", "10"),
    }
    fixed = next(line for line in shown.splitlines() if line.startswith("fixed: "))
    assert "backbone=mlp" in fixed
    assert "batch_size" not in fixed
    assert "z_dim" not in fixed
