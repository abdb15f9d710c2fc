"""The table of trials has a row for each, whatever became of it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from hlvnn import search_space
from hlvnn.errors import ConfigError
from hlvnn.records import outcomes, trials_table
from hlvnn.records.journal import Draw
from hlvnn.records.outcomes import Outcome, Status
from hlvnn.terminal import leaderboard


def leave(here: Path, number: int, accuracies: list[float], outcome: Outcome | None) -> None:
    """Leave the folder of a trial behind."""
    folder = outcomes.trial_folder(here, number)
    folder.mkdir(exist_ok=True)
    rows = [
        {"epoch": epoch, "val_acc": value, "test_acc": 1 - value, "seconds": 1.0, "diverged": 0.0}
        for epoch, value in enumerate(accuracies, start=1)
    ]
    if rows:
        pd.DataFrame(rows).to_csv(folder / "metrics.csv", index=False)
    if outcome is not None:
        outcomes.write(here, outcome)


def test_the_table_has_a_row_for_every_trial_whatever_became_of_it(here: Path) -> None:
    leave(here, 0, [0.5, 0.9, 0.7], Outcome(trial=0, status=Status.COMPLETED))
    leave(here, 1, [0.6], Outcome(trial=1, status=Status.STOPPED, reason="ASHA"))
    leave(here, 2, [], Outcome(trial=2, status=Status.FAILED, error="ValueError: no"))
    leave(here, 3, [0.4], None)
    settings = {"lr": 0.1, "z_dim": [8, 4], "hidden": None, "seed": 3}
    draws = {number: Draw(number, settings, {"lr": 0.1}) for number in range(5)}
    space = search_space.load("study")
    frame = trials_table.TrialsTable(here, space).write(draws, 6, alive=False)
    read = pd.read_parquet(here / trials_table.TRIALS)
    assert list(read.columns) == list(frame.columns)
    assert read["status"].tolist() == [
        *("completed", "stopped", "failed", "stopped", "not started", "not started")
    ]
    assert read["epochs"].tolist() == [3, 1, 0, 1, 0, 0]
    assert read["seconds"].iloc[0] == 3
    assert (read["best_epoch"].iloc[0], read["final_val_acc"].iloc[0]) == (2, 0.7)
    # the test accuracy of the epoch that validation chose, not the best one
    assert read["best_test_acc"].iloc[0] == pytest.approx(0.1)
    assert read["z_dim"].iloc[0] == "8 4"
    assert read["error"].iloc[2] == "ValueError: no"
    assert "--resume" in read["reason"].iloc[3]
    assert read["unfinished"].tolist() == [False, False, False, True, True, False]
    assert (
        trials_table.TrialsTable(here, space).collect(draws, 6, alive=True)["status"][3]
        == "running"
    )
    ranked = trials_table.ranked(frame, space)
    assert ranked["trial"].tolist()[:3] == [0, 1, 3]
    console = Console(width=120, record=True, file=None, quiet=True)
    console.print(leaderboard(ranked, space, {0: {"lr": 0.1}}))


def test_the_table_follows_a_trial_that_goes_on_after_an_interrupt(here: Path) -> None:
    leave(here, 0, [0.5], Outcome(trial=0, status=Status.STOPPED, reason="Ctrl-C", unfinished=True))
    trials = trials_table.TrialsTable(here, search_space.load("study"))
    draws = {0: Draw(0, {"lr": 0.1}, {"lr": 0.1})}
    assert trials.collect(draws, 1, alive=True)["unfinished"].tolist() == [True]
    leave(here, 0, [0.5, 0.6], Outcome(trial=0, status=Status.COMPLETED))
    frame = trials.collect(draws, 1, alive=True)
    assert (frame["status"].tolist(), frame["unfinished"].tolist()) == (["completed"], [False])


def test_an_outcome_is_read_back_strictly(here: Path) -> None:
    outcomes.write(here, Outcome(trial=7, status=Status.DIVERGED, reason="NaN"))
    assert outcomes.read(here, 7) == Outcome(trial=7, status=Status.DIVERGED, reason="NaN")
    assert outcomes.read(here, 8) is None
    path = outcomes.trial_folder(here, 7) / outcomes.OUTCOME
    path.write_text('{"trial": 7, "status": "fine"}', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"outcome\.json: status"):
        outcomes.read(here, 7)
