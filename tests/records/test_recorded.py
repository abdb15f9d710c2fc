"""Runs and sweeps that an earlier state of the program left load, go on and repeat as they did.

`tests/files/recorded` is of a first version, before settings went (`hlvnn.gone`): it is read as it
was left, and what of it does not go on any more is asked for in tests/commands/test_gone.py.
`tests/files/resumable` is of today's: it goes on and repeats to the same numbers; where a change of
bits is meant, `python -m tests.records.recording` records it anew. Each holds a finished sweep (the
old one pruned to the best two), one that Ctrl-C cut short, a run of a table that was cut short
after three epochs, and in `expected` what the uninterrupted ones measured. Paths in them are made
up. Numbers are compared closely, not bit for bit: they come from another processor.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from hlvnn import load_run
from hlvnn.analysis import load_sweep
from hlvnn.analysis.report import write_report
from hlvnn.commands import tune_search
from hlvnn.gone import GONE
from hlvnn.records import outcomes, run_folder
from hlvnn.sweep import driver, plan
from tests.conftest import Ended
from tests.records.recording import EPOCHS, NEW, OLD
from tests.runs import TIMED

FINISHED, INTERRUPTED = Path("results/digits/finished"), Path("results/digits/interrupted")
CUT = Path("results/wards/cut")
CLOSE = {"rtol": 2e-3, "atol": 2e-3}
"""What four to eight epochs of a tiny network make of another processor's rounding."""


def copied(source: Path, to: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a copy of what was recorded."""
    shutil.copytree(source, to, dirs_exist_ok=True)
    monkeypatch.chdir(to)
    return to


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return copied(OLD, tmp_path, monkeypatch)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return copied(NEW, tmp_path, monkeypatch)


def assert_measured(folder: Path, expected: Path) -> None:
    """Check a run's metrics against recorded ones: the same columns and, closely, the numbers."""
    now, before = run_folder.read_metrics(folder), pd.read_csv(expected)
    assert list(now) == list(before)
    for name in now.columns.difference(TIMED):
        np.testing.assert_allclose(now[name], before[name], err_msg=name, **CLOSE)


def test_a_finished_sweep_is_read_as_it_was_left(old: Path) -> None:
    results = load_sweep(FINISHED)
    assert results.problems == []
    assert results.trials["status"].tolist() == ["completed"] * 3 + ["stopped"] * 3
    assert results.trials["structure"].tolist() == ["factor", "film", "none", *["factor"] * 3]
    assert (results.best_trial, results.pooled_trial, results.latent_trial) == (2, 2, 1)
    assert results.best(2)["best_val_acc"].round(4).tolist() == [0.4306, 0.3021]
    assert set(results.latent_columns) == {
        "kl_writer_concat@output",
        "kl_writer_film@conv1+film@conv2+film@hidden",
    }
    tables = results.groups.read(trials=[2], epochs=[4], split="val", labels=True)
    assert len(tables) == 14
    recorded = pd.read_parquet(FINISHED / "trials.parquet")
    # of two epochs with the best accuracy the one with the lower loss counts by now, not the first
    assert results.trials["best_epoch"].tolist() == [4, 4, 4, 1, 1, 1]
    assert recorded["best_epoch"].tolist() == [3, 4, 4, 1, 1, 1]
    moved = [name for name in recorded if name.startswith("best_") and name != "best_val_acc"]
    # test_fraction, of which digits took no notice, and what is gone are no settings of theirs
    left_out = {"folder", "node", "test_fraction", *GONE, *moved}
    columns = [name for name in recorded if name not in left_out]
    pd.testing.assert_frame_equal(
        results.table[columns], recorded[columns], check_dtype=False, check_exact=True
    )


def test_its_report_its_weights_and_its_latents_can_be_had(old: Path) -> None:
    results = load_sweep(FINISHED)
    page = write_report(results).read_text(encoding="utf-8")
    assert "Best is trial 2 without latents at epoch 4 of 4" in page
    run = load_run(FINISHED / "trial_0001", "best")
    assert run.model.name == "FilmCNN"
    assert len(results.latents(1)) == 14 * 3


def test_a_trial_is_repeated_to_its_numbers(here: Path, train_one: Callable[..., Ended]) -> None:
    trial = FINISHED / "trial_0001"
    ended = train_one("--from-trial", trial, "--name", "again", "--results-dir", here / "results")
    assert ended.code == 0, ended.err
    assert "was trained before" not in ended.out
    assert_measured(here / "results" / "digits" / "again", trial / run_folder.METRICS)


def test_a_run_that_was_cut_short_ends_as_if_it_had_not_been(
    here: Path, train_one: Callable[..., Ended]
) -> None:
    assert len(run_folder.read_metrics(CUT)) == 3
    ended = train_one("--resume", CUT)
    assert ended.code == 0, ended.err
    assert_measured(CUT, here / "expected" / "wards.csv")
    now, before = (
        json.loads(path.read_text(encoding="utf-8"))
        for path in (CUT / run_folder.RESULT, here / "expected" / "wards.json")
    )
    assert now.keys() == before.keys()
    np.testing.assert_allclose(now["elbo"], before["elbo"], **CLOSE)


@pytest.mark.ray
@pytest.mark.timeout(280)
def test_a_sweep_goes_on_and_one_gets_more_trials(here: Path, local_ray: None) -> None:
    def sweep(*args: str) -> str:
        output = io.StringIO()
        planned = plan.of(tune_search.parse(list(args)))
        assert driver.run(planned, Console(file=output, width=160)) == 0
        return output.getvalue()

    assert 2 <= len(run_folder.read_metrics(outcomes.trial_folder(INTERRUPTED, 1))) < EPOCHS
    printed = sweep("--resume", str(INTERRUPTED))
    assert "2 trials to run, 1 over already" in printed
    for number in range(2):  # the third is drawn now, by the sampler of a sweep that goes on
        folder = outcomes.trial_folder(INTERRUPTED, number)
        assert_measured(folder, here / "expected" / f"{folder.name}.csv")
    before = {path: path.read_bytes() for path in FINISHED.glob("trial_*/*.csv")}
    printed = sweep("--extend", str(FINISHED), "--num-trials", "1", "--no-report")
    assert "1 trials to run, 2 over already" in printed
    assert {path: path.read_bytes() for path in before} == before
    assert len(load_sweep(FINISHED).trials) == 3
