"""The pages of docs/ whose blocks are run: every command works, and writes what the page shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hlvnn import load_example
from hlvnn.analysis import load_sweep, questions
from hlvnn.records.run_folder import FAILURE
from tests.helpers import ROOT
from tests.pages import Block, blocks_of, run

DOCS = ROOT / "docs"


def executed(page: str, folder: Path) -> list[Block]:
    """Run a page; fail on lines that it shows and that were not written."""
    blocks = []
    for block in run(DOCS / page, folder):
        assert block.missing == [], f"{block.code}\nwrote:\n{block.wrote}"
        blocks.append(block)
    return blocks


def test_lines_are_known_by_their_words_in_their_order() -> None:
    wrote = "a  1.5 (0.2 s)\n━━ x 3 ━━\ntrial_0003 failed"
    assert Block("console", "", ["a 7 (9 s)", "…", "trial_0003 failed"], wrote).missing == []
    others = ["trial_0003 failed", "a 7 (9 s)"]
    assert Block("console", "", others, wrote).missing == ["a 7 (9 s)"]
    assert Block("console", "", ["trial_0004 failed"], wrote).missing == ["trial_0004 failed"]


@pytest.mark.parametrize("page", ["three_trials.md", "ten_questions.md"])
def test_a_page_shows_what_each_block_writes(page: str) -> None:
    blocks = blocks_of(DOCS / page)
    quiet = [b.code for b in blocks if not b.shown and "search_spaces/" not in b.code]
    assert quiet == []


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_three_trials_are_found(tmp_path: Path) -> None:
    executed("three_trials.md", tmp_path)
    sweep = load_sweep(tmp_path / "results" / "digits" / "three")
    status = sweep.trials["status"]
    assert status[status == "diverged"].index.tolist() == [2]
    assert (sweep.path / "trial_0002" / FAILURE).exists()
    ended = sweep.trials[status == "completed"]
    assert (ended["best_epoch"] / ended["epochs"]).idxmin() == 4
    assert sweep.epochs.groupby("trial")["seconds"].median().idxmax() == 6
    profile = pd.read_csv(tmp_path / "results" / "digits" / "slow" / "profile.csv")
    assert "conv2" in str(profile.iloc[0].to_dict())


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_ten_questions_are_answered(tmp_path: Path) -> None:
    *_, last = executed("ten_questions.md", tmp_path)
    before, after = (float(line.split()[-1]) for line in last.wrote.splitlines()[-2:])
    assert after < 0.85 * before, "three years tell something of a man"
    sweep = load_sweep(tmp_path / "results" / "workers" / "w")
    gains = sweep.groups.effects("structure").settings.set_index("value")
    own, slope = (
        next(row for name, row in gains.iterrows() if str(name).startswith(place))
        for place in ("bias", "weights")
    )
    assert own["gain"] == pytest.approx(known_gain(rows=4), rel=0.3)
    assert slope["low"] > 0
    order = questions.early_order(sweep)
    assert order["cut"].sum() == (sweep.trials["status"] == "stopped").sum()


def known_gain(rows: int) -> float:
    """Return what some rows of a man take off the squared error, by analysis of variance.

    Of the panel's wages after a regression on what is known of a man.
    """
    frame = load_example("wages")
    known = ["year", "experience", "schooling", "married", "union", "black", "hispanic"]
    x = (frame[known] - frame[known].mean()).assign(one=1.0).to_numpy(float)
    y = frame["log_wage"].to_numpy()
    rest = pd.Series(y - x @ np.linalg.lstsq(x, y, rcond=None)[0])
    men = rest.groupby(frame["worker"])
    within = men.var().mean()
    between = men.mean().var() - within / 8
    return float(between * between / (between + within / rows))
