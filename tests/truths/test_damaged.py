"""A sweep that was damaged: the answer stays what was planted, or is said to be in doubt."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from hlvnn.analysis import load_sweep
from hlvnn.errors import HlvnnError
from hlvnn.records import outcomes, run_folder
from hlvnn.records.journal import JOURNAL
from hlvnn.records.predictions import PREDICTIONS
from tests.truths.asking import COUNTED, first_screen, reported, trained
from tests.truths.swept import Swept, winner

pytestmark = [pytest.mark.ray, pytest.mark.timeout(280), pytest.mark.xdist_group("ray")]


@pytest.fixture
def copy(swept: Swept, tmp_path: Path) -> Path:
    return Path(shutil.copytree(swept.folder, tmp_path / "one"))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def test_the_winner_keeps_rank_and_value_when_its_folder_is_lost(swept: Swept, copy: Path) -> None:
    before = winner(swept.results)
    folder = outcomes.trial_folder(copy, int(before["trial"]))
    shutil.rmtree(folder)
    results = load_sweep(copy)
    now = winner(results)
    for name in ("trial", "status", "structure", "param_lr", "best_epoch", "best_val_acc"):
        assert now[name] == before[name]
    assert pd.isna(now["folder"])
    (problem,) = results.problems
    assert problem.startswith(f"{folder.name} is gone: its row is taken from ")
    page = reported(copy)
    assert problem in first_screen(page)
    assert f"Best is trial {before['trial']}, latents weights@output level=ward" in page
    assert COUNTED.search(page) is None
    assert f"--from-trial {folder}" not in page
    with pytest.raises(HlvnnError, match=folder.name):
        trained("--from-trial", folder)


def test_a_winner_without_settings_and_curve_is_told(swept: Swept, copy: Path) -> None:
    folder = outcomes.trial_folder(copy, int(winner(swept.results)["trial"]))
    (folder / run_folder.METRICS).unlink()
    (folder / run_folder.HYPERPARAMS).write_text("{", "utf-8")
    problems = load_sweep(copy).problems
    for name in (run_folder.METRICS, run_folder.HYPERPARAMS):
        assert any(f"{folder.name}/{name}" in problem for problem in problems)


def test_cut_files_are_named_and_no_other_epochs_stand_in_for_them(
    swept: Swept, copy: Path
) -> None:
    before = winner(swept.results)
    folder = outcomes.trial_folder(copy, int(before["trial"]))
    epoch = int(before["best_epoch"])
    cut(folder / run_folder.STATS / run_folder.stats_name(epoch))
    cut(folder / PREDICTIONS)
    cut(folder / run_folder.BEST)
    reference = Path(swept.results.references["folder"].iloc[0]).name
    cut(copy / reference / PREDICTIONS)
    lines = (copy / JOURNAL).read_bytes().splitlines(keepends=True)
    asked = next(place for place, line in enumerate(lines) if b'"trial":2' in line)
    (copy / JOURNAL).write_bytes(b"".join(lines[:asked]))
    results = load_sweep(copy)
    now = winner(results)
    for name in ("trial", "best_epoch", "best_val_acc", "best_test_acc"):
        assert now[name] == before[name]
    page = first_screen(reported(copy))
    for told in (
        f"{folder.name}/{run_folder.STATS}: the table of epoch {epoch} is cut short",
        f"{folder.name}/{PREDICTIONS} is cut short",
        f"{reference}/{PREDICTIONS} is cut short",
        f"{JOURNAL} was cut short: 4 trials have folders with results, and it does not know what",
    ):
        assert [told in problem for problem in results.problems].count(True) == 1
        assert told in page
    assert re.search(rf"{folder.name}/{run_folder.BEST}: \S", page) is not None
    assert f"Best is trial {before['trial']}, latents weights@output level=ward" in page
    assert COUNTED.search(page) is None
    assert "The best trial's probabilities" not in page
