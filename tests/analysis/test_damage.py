"""Damage that would change an answer is told: in `problems`, and on the report's first screen."""

from __future__ import annotations

import html
import shutil
from pathlib import Path

import pandas as pd
import pytest

from hlvnn.analysis import Results, load_sweep
from hlvnn.analysis.gains import gains
from hlvnn.analysis.report import write_report
from hlvnn.errors import RunError
from hlvnn.records import outcomes, run_folder, trials_table
from hlvnn.records.journal import JOURNAL
from tests.sweeps import COMPLETED


def first_screen(results: Results, path: Path | None = None) -> str:
    page = write_report(results, path, num_samples=2).read_text(encoding="utf-8")
    return html.unescape(page.split('<section id="repeat"')[0].split('<section id="figures"')[0])


def cut(path: Path, share: float = 0.5) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def assert_told(copy: Path, sentence: str, *, count: int = 1) -> Results:
    results = load_sweep(copy)
    assert [sentence in problem for problem in results.problems].count(True) == count
    assert sentence in first_screen(results)
    return results


def test_a_whole_sweep_has_nothing_to_tell(swept: Results, tmp_path: Path) -> None:
    assert swept.problems == []
    assert "Beware" not in first_screen(swept, tmp_path / "report.html")


@pytest.mark.parametrize("table", [True, False])
def test_the_best_trial_keeps_its_row_and_rank_when_its_folder_is_gone(
    swept: Results, copy: Path, table: bool
) -> None:
    best = swept.best_trial
    shutil.rmtree(outcomes.trial_folder(copy, int(best)))
    if not table:
        (copy / trials_table.TRIALS).unlink()
    source = trials_table.TRIALS if table else JOURNAL
    told = f"trial_{best:04d} is gone: its row is taken from {source}"
    results = assert_told(copy, told)
    assert results.best_trial == best
    now, before = results.row(best), swept.row(best)
    assert pd.isna(now["folder"])
    assert now["structure"] == before["structure"]
    assert now["param_lr"] == before["param_lr"]
    if table:
        assert now["best_val_loss"] == before["best_val_loss"]
        assert now["best_epoch"] == before["best_epoch"]
        assert now["status"] == "completed"
        assert results.best(3)["trial"].tolist() == swept.best(3)["trial"].tolist()
    else:  # what the searcher was told
        known = swept.drawn.optuna[best]
        assert now["best_val_loss"] == known.value
        assert f"from {JOURNAL}" in now["reason"]
    with pytest.raises(RunError, match="folder is gone"):
        results.latents()
    with pytest.raises(RunError, match="no metrics that can be read"):
        gains(results, trial=best)


def test_a_cut_table_of_the_chosen_epoch_is_told_and_no_other_epoch_is_taken(
    swept: Results, copy: Path
) -> None:
    trial = swept.latent_trial
    epoch = int(swept.row(trial)["best_epoch"])
    name = run_folder.stats_name(epoch)
    cut(outcomes.trial_folder(copy, trial) / run_folder.STATS / name)
    told = f"trial_{trial:04d}/{run_folder.STATS}: the table of epoch {epoch} is cut short"
    results = assert_told(copy, told)
    with pytest.raises(RunError, match=f"table of trial {trial}, epoch {epoch}, cannot be read"):
        gains(results)
    assert any(f"{name} cannot be read" in problem for problem in results.problems)
    (outcomes.trial_folder(copy, trial) / run_folder.STATS / name).unlink()
    assert_told(copy, f"the table of epoch {epoch} is missing")


@pytest.mark.parametrize("at_line", [True, False])
def test_a_cut_journal_is_seen_by_counting_it_against_the_folders(
    swept: Results, copy: Path, at_line: bool
) -> None:
    lines = (copy / JOURNAL).read_bytes().splitlines(keepends=True)
    asked = [place for place, line in enumerate(lines) if b'"trial":2' in line]
    kept = b"".join(lines[: asked[0]])
    (copy / JOURNAL).write_bytes(kept if at_line else kept + b'{"op_code":4,"wor')
    results = assert_told(copy, f"{JOURNAL} was cut short")
    (problem,) = [one for one in results.problems if "cut short" in one]
    assert "it does not know what trials 2, 3, 4, 5, 7 drew" in problem
    lr = results.trials.set_index("trial")["param_lr"]
    assert lr[list(COMPLETED)].tolist() == [swept.row(n)["param_lr"] for n in COMPLETED]


def test_files_that_are_gone_are_told_each(copy: Path) -> None:
    """And an outcome that is gone does not make a trial unfinished."""
    (outcomes.trial_folder(copy, 0) / run_folder.METRICS).unlink()
    (outcomes.trial_folder(copy, 2) / run_folder.SCHEMA).unlink()
    (outcomes.trial_folder(copy, 3) / outcomes.OUTCOME).unlink()
    results = load_sweep(copy)
    page = first_screen(results)
    for sentence in (
        "trial_0000/metrics.csv is missing: its curve is not known",
        "trial_0002/schema.json is missing: its groups are known by their numbers",
        "trial_0003/outcome.json is missing: how it ended is taken from",
    ):
        assert [sentence in problem for problem in results.problems].count(True) == 1
        assert sentence in page
    assert results.row(3)["status"] == "completed"
