"""Trials that failed: tried again when asked, and a sweep that ends when too many do."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from hlvnn.commands import tune_search
from hlvnn.errors import ConfigError
from hlvnn.records import outcomes
from hlvnn.records.journal import Journal
from hlvnn.records.outcomes import Outcome, Status
from hlvnn.sweep import driver, plan
from hlvnn.sweep.context import Context
from hlvnn.sweep.ending import Ending
from hlvnn.sweep.schedulers import scheduler_of
from hlvnn.sweep.taking_up import take_up
from hlvnn.training.going_on import SUPERSEDED
from tests.rayless import run_sweep
from tests.spaces import write_space

SPACE = """
BASE = {"dataset": "digits", "backbone": "mlp", "hidden": [8], "num_epochs": 2}
METRIC, MODE = "val_acc", "max"
SWEEP = {"scheduler": "none", "searcher": "random"}

def space(trial):
    return {"lr": trial.suggest_float("lr", 1e-3, 1e-1, log=True)}
"""


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a sweep of three trials of which 1 and 2 failed, the latter as it never can do."""
    found = run_sweep(tmp_path, SPACE, 3, ["--num-trials", "3"])
    monkeypatch.chdir(tmp_path)
    journal = Journal.open(found)
    for number, trial in enumerate(journal.study.trials):
        journal.study.tell(trial.number, *([0.5] if number == 0 else []), state=_state(number))
        if number:
            (outcomes.trial_folder(found, number) / outcomes.ERROR).write_text("why")
            outcomes.write(found, Outcome(trial=number, status=Status.FAILED))
    return found


def _state(number: int) -> Any:
    from optuna.trial import TrialState

    return TrialState.COMPLETE if number == 0 else TrialState.FAIL


def resumed(sweep: Path, *flags: str) -> tuple[Context, str, Any]:
    """Take a sweep up as its driver does; return what is left to do."""
    planned = plan.of(tune_search.parse(["--resume", str(sweep), *flags]))
    plan.begin(planned)
    file = io.StringIO()
    context = Context.of(planned, 1, Console(file=file, width=200))
    remaining = take_up(context, scheduler_of(context))
    return context, file.getvalue(), remaining


def test_failed_trials_stay_as_they_are_until_they_are_asked_for(sweep: Path) -> None:
    _, _, remaining = resumed(sweep)
    assert remaining.to_run == 0
    drawn = Journal.open(sweep).latest()[1].params
    context, told, remaining = resumed(sweep, "--retry", "failed")
    assert "--retry failed: tried again: trial 1, trial 2" in told
    assert remaining.to_run == 2
    latest = context.journal.latest()
    assert [latest[number].state.name for number in range(3)] == ["COMPLETE", "RUNNING", "RUNNING"]
    assert latest[1].params == drawn
    assert remaining.open_trials == [latest[1]._trial_id, latest[2]._trial_id]
    assert outcomes.read(sweep, 1) is None
    assert (outcomes.trial_folder(sweep, 1) / SUPERSEDED / outcomes.ERROR).read_text() == "why"
    # the next start is no retry, and goes on with both
    _, _, remaining = resumed(sweep)
    assert remaining.to_run == 2


def test_a_draw_that_cannot_be_valid_is_not_tried_again(sweep: Path) -> None:
    for number in (1, 2):
        trial = Journal.open(sweep).latest()[number]  # the file is written anew below
        draw = {**trial.user_attrs["draw"], "problem": "it cannot be"}
        lines = (sweep / "optuna.journal").read_text().splitlines()
        for position, line in enumerate(lines):
            record = json.loads(line)
            if record.get("trial_id") == trial._trial_id and "draw" in record.get("user_attr", {}):
                record["user_attr"]["draw"] = draw
                lines[position] = json.dumps(record)
        (sweep / "optuna.journal").write_text("\n".join(lines) + "\n")
    _, told, remaining = resumed(sweep, "--retry", "failed")
    assert "there is no such trial that could end otherwise" in told
    assert remaining.to_run == 0


def test_a_retry_is_of_a_sweep_that_goes_on(sweep: Path) -> None:
    with pytest.raises(ConfigError, match="--retry failed is for a sweep that goes on"):
        tune_search.parse(["study", "--retry", "failed"])


def test_the_time_begins_with_the_first_trial_and_failures_end_a_sweep() -> None:
    ending = Ending(60.0, failures=1)
    assert not ending.is_out_of_time
    assert ending.deadline is None
    first = ending.begin()
    assert first is not None
    assert ending.begin() == first
    ending.failed = 1
    assert not ending.is_winding_down
    ending.failed = 2
    assert ending.is_winding_down
    assert ending.stop_all()
    assert ending.reason == "2 trials failed (--max-failed-trials); --resume goes on"


@pytest.mark.ray
@pytest.mark.timeout(200)
def test_a_sweep_ends_after_too_many_failures_none_tried_twice(here: Path, local_ray: None) -> None:
    bad = "    bad = {'likelihood': 'gaussian'} if trial.number > 16 else {}\n    return {**bad, "
    write_space(SPACE.replace('"num_epochs": 2', '"num_epochs": 1').replace("    return {", bad))
    flags = ["study", "--name", "s", "--num-trials", "24", "--max-failed-trials", "1"]
    planned = plan.new_plan(tune_search.parse([*flags, "--max-concurrent", "1"]))
    output = io.StringIO()
    assert driver.run(planned, Console(file=output, width=160)) == 1
    frame = pd.read_parquet(planned.sweep / "trials.parquet")
    failed = frame[frame["status"] == "failed"]
    assert failed["trial"].tolist() == [17, 18]
    assert failed["starts"].tolist() == [1, 1]
    assert "2 trials failed (--max-failed-trials)" in output.getvalue()
    assert f"--resume {Path('results/digits/s')}" in output.getvalue()


@pytest.mark.ray
@pytest.mark.timeout(280)
def test_a_trial_ends_well_once_the_cause_is_gone(here: Path, local_ray: None) -> None:
    """Its folder holds a checkpoint that is none, until somebody takes it away."""
    sweep = here / "results" / "digits" / "s"
    broken = outcomes.trial_folder(sweep, 1) / "checkpoint.pt"

    def started(*flags: str) -> tuple[int, str]:
        output = io.StringIO()
        options = tune_search.parse(list(flags))
        return driver.run(plan.of(options), Console(file=output, width=160)), output.getvalue()

    assert started("study", "--name", "s", "--num-trials", "1", "--no-report")[0] == 0
    broken.parent.mkdir()
    broken.write_bytes(b"no checkpoint")
    _, told = started("--extend", str(sweep), "--num-trials", "1", "--max-failures", "0")
    assert "trial 1 failed" in told
    drawn = Journal.open(sweep).draws()[1]
    broken.unlink()
    assert "0 trials to run" in started("--resume", str(sweep))[1]
    code, told = started("--resume", str(sweep), "--retry", "failed")
    assert code == 0
    assert "--retry failed: tried again: trial 1" in told
    frame = pd.read_parquet(sweep / "trials.parquet")
    assert frame["status"].tolist() == ["completed", "completed"]
    assert Journal.open(sweep).draws()[1].settings == drawn.settings
    states = [trial.state.name for trial in Journal.open(sweep).study.trials]
    assert states == ["COMPLETE", "FAIL", "COMPLETE"]
