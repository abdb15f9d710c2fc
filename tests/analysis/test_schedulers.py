"""What results and report say of the scheduler that a sweep had."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from hlvnn import files
from hlvnn.analysis import load_runs, load_sweep
from hlvnn.analysis.report import about, words, write_report
from hlvnn.analysis.results import Results
from hlvnn.records.sweep_folder import SWEEP
from tests.truths.asking import words_of


@pytest.fixture
def copy(small_sweep: Path, tmp_path: Path) -> Path:
    """Return a copy of a sweep of 6 epochs with grace period 1 and factor 2, under ASHA."""
    return Path(shutil.copytree(small_sweep, tmp_path / "copy"))


def under(copy: Path, **options: Any) -> Results:
    """Return the sweep as it would be with other options."""
    record = files.read_json(copy / SWEEP)
    record["options"] |= options
    files.write_json(copy / SWEEP, record)
    return load_sweep(copy)


@pytest.mark.parametrize(
    ("scheduler", "rungs", "word", "fact"),
    [
        ("asha", [1, 2, 4], "ASHA, rung", "grace period 1, factor 2; rungs at epochs 1, 2, 4"),
        ("hyperband", [1, 2, 3], "HyperBand, rung", "factor 2; rungs at epochs 1, 2, 3"),
        ("median", [], "the median rule", "grace period 1"),
        ("pbt", [], "population based training", "epochs between rounds 4"),
        ("none", [], "no scheduler", "lets every trial run to its end"),
    ],
)
def test_each_scheduler_has_its_own_rungs_and_name(
    copy: Path, scheduler: str, rungs: list[int], word: str, fact: str
) -> None:
    results = under(copy, scheduler=scheduler)
    title = word.removesuffix(", rung")
    assert results.rungs == rungs
    assert dict(about.of_search(results, 0))[title] == fact
    told = dict(words(results))
    assert word in told
    assert (f"by {title}, the time budget" in told["stopped"]) == (
        scheduler in ("asha", "hyperband", "median")
    )


def test_a_report_of_the_median_rule_speaks_of_no_rungs(copy: Path) -> None:
    text = words_of(write_report(under(copy, scheduler="median"), num_samples=2))
    assert "the median rule" in text
    assert "ASHA" not in text
    assert "rung" not in text


def test_a_scheduler_that_is_not_known_has_no_rungs(copy: Path) -> None:
    results = under(copy, scheduler="another")
    assert (results.scheduler, results.rungs) == (None, [])
    (copy / SWEEP).unlink()
    runs = load_runs(copy)
    assert (runs.scheduler, runs.rungs) == (None, [])
