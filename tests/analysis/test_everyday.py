"""What a reader of results does without thinking: prints, exports, asks for one, asks too early."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from pydantic import ValidationError

import hlvnn
from hlvnn.analysis import Results, compare, load_sweep
from hlvnn.errors import ConfigError
from hlvnn.records import trials_table
from hlvnn.records.journal import JOURNAL
from tests.helpers import ROOT

LONGEST = 3000
"""Characters that a notebook shows of a sweep; it was 95,000 and more."""


def test_the_table_of_trials_is_written_as_a_spreadsheet(swept: Results, tmp_path: Path) -> None:
    swept.trials.to_excel(tmp_path / "trials.xlsx", index=False)
    read = pd.read_excel(tmp_path / "trials.xlsx")
    assert read["trial"].tolist() == swept.trials["trial"].tolist()
    assert read["best_val_loss"][1] == pytest.approx(swept.trials["best_val_loss"][1])


def test_a_sweep_is_shown_in_a_few_lines(swept: Results) -> None:
    assert repr(swept) == (
        "Results(small: 10 trials by val_loss (min): 4 completed, 2 stopped, 2 not started, "
        f"1 diverged, 1 failed; best is trial {swept.best_trial})"
    )
    shown = swept._repr_html_()
    assert len(shown) < LONGEST
    assert "<table" in shown


def test_the_metrics_columns_are_there_before_the_first_result(copy: Path) -> None:
    for folder in copy.glob("trial_*"):
        shutil.rmtree(folder)
    for name in (JOURNAL, trials_table.TRIALS):
        (copy / name).unlink()
    results = load_sweep(copy)
    assert results.trials["best_val_loss"].isna().all()
    assert len(results.best(3)["best_val_loss"]) == 0
    assert (results.best_trial, compare([results])["best"].isna().all()) == (None, True)
    assert "<table" in results._repr_html_()


def test_one_trial_and_one_epoch_need_no_list(swept: Results) -> None:
    one = swept.groups.read(trials=0, epochs=2)
    pd.testing.assert_frame_equal(one, swept.groups.read(trials=[0], epochs=[2]))
    pd.testing.assert_frame_equal(swept.groups.spread(trials=0), swept.groups.spread(trials=[0]))


def test_weights_of_another_name_are_refused_with_the_nearest(swept: Results) -> None:
    with pytest.raises(ConfigError, match=r"unknown weights 'bset'; did you mean 'best'\?"):
        hlvnn.load_run(swept.path / "trial_0001", "bset")


def test_a_changed_copy_of_settings_is_checked_as_a_new_one() -> None:
    config = hlvnn.TrainConfig(lr=0.1)
    changed = config.model_copy(update={"num_epochs": 3})
    assert (changed.num_epochs, changed.lr) == (3, 0.1)
    assert changed.model_fields_set == {"lr", "num_epochs"}
    with pytest.raises(ValidationError, match="lr"):
        config.model_copy(update={"lr": "fast"})
    with pytest.raises(ValidationError, match="unknown setting 'lrr'"):
        config.model_copy(update={"lrr": 0.1})
    assert config.model_copy() == config


def test_importing_changes_neither_the_environment_nor_what_optuna_tells(tmp_path: Path) -> None:
    code = """
import os, optuna, torch, sklearn, pandas  # what these set themselves is theirs
optuna.logging.set_verbosity(optuna.logging.INFO)
before = dict(os.environ)
import hlvnn, hlvnn.analysis, hlvnn.records.journal, hlvnn.analysis.report
assert dict(os.environ) == before, {k for k in os.environ if os.environ[k] != before.get(k)}
sweep = hlvnn.records.journal.Journal.create(__import__("pathlib").Path("."), "max")
assert optuna.logging.get_verbosity() == optuna.logging.INFO
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    env.pop("PYDANTIC_ERRORS_INCLUDE_URL", None)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
