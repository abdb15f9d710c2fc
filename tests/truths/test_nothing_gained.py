"""Worlds in which latents gain nothing, or in nats alone: the report must not claim more."""

from __future__ import annotations

import contextlib
import math
import re
import shutil
from pathlib import Path

import pytest
from scipy import stats

from hlvnn.analysis import load_runs
from hlvnn.analysis.gains import Summary, gains
from hlvnn.records.predictions import PREDICTIONS
from tests.truths import worlds
from tests.truths.asking import COUNTED, first_screen, reported, runs, table, trained

OWN = "weights@output level=ward posterior=full_rank prior=learned_full"
CRITICAL = stats.t.ppf(1 - 0.01 / 4, 9)
"""Of a mean over ten wards of two measures, at the level of 1 % together: two standard errors are
passed by chance in one world of seven. Over six seeds the means lay on both sides of 0."""
FIT = ("--batch-size", "None", "--lr", "0.1", "--num-epochs", "150", "--eval-every", "50")


def pair(root: Path, name: str) -> str:
    """Train a table of wards without latents and with slopes of each ward's own; report."""
    for run, latents in (("pooled", ()), ("own", ("--latents", OWN))):
        flags = table(f"{name}.csv", "outcome", "ward", "dose,age", *FIT, *latents, name=run)
        said = trained(*flags, "--backbone", "linear")
        (root / f"{run}.txt").write_text(said, encoding="utf-8")
    return reported(f"results/{name}")


@pytest.fixture(scope="module")
def alike(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return the folder of two runs on wards that are all alike, and their report."""
    root = tmp_path_factory.mktemp("alike")
    with contextlib.chdir(root):
        worlds.rules(root / "alike.csv", turned=())
        return root / "results" / "alike", pair(root, "alike")


@pytest.fixture(scope="module")
def coins(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return the folder of two runs on wards of which two throw coins, and their report."""
    root = tmp_path_factory.mktemp("coins")
    with contextlib.chdir(root):
        worlds.coins(root / "coins.csv")
        return root / "results" / "coins", pair(root, "coins")


def test_where_wards_are_alike_no_ward_is_said_to_gain(alike: tuple[Path, str]) -> None:
    folder, page = alike
    results = runs(str(folder))
    for measure in ("acc", "loss"):
        found = Summary.of(gains(results, measure=measure, trial=0, pooled=1))
        assert abs(found.mean) < CRITICAL * found.error
        # of 10 wards half a one is expected by chance; three or more in 1 world of 90
        assert found.surely_better is not None
        assert found.surely_worse is not None
        assert found.surely_better + found.surely_worse <= 2
    counts = [tuple(map(int, found)) for found in COUNTED.findall(page)]
    assert len(counts) == 2
    assert all(sum(found) <= 2 for found in counts)
    assert page.count("That is within noise.") >= 2
    assert "The validation rows cannot tell it from 1 other trial" in page


def test_a_coin_gains_in_nats_what_certainty_costs_and_nothing_in_accuracy(
    coins: tuple[Path, str],
) -> None:
    """Its own slopes say 1/2, ln 2 a row; the pooled model's certainty costs more than that."""
    results = runs(str(coins[0]))
    nats = gains(results, measure="loss", trial=0, pooled=1).set_index("label")
    right = gains(results, measure="acc", trial=0, pooled=1).set_index("label")
    thrown = nats.index.isin(worlds.COINS)
    assert nats["trial"][thrown].to_numpy() == pytest.approx(math.log(2), abs=0.12)
    assert (nats["pooled"][thrown] > math.log(2) + 0.2).all()
    assert (nats["p"][thrown] < 0.05).all()
    # of the 18 others a twentieth each would by chance: more than 3 in 1 world of 100
    assert ((nats["p"] < 0.05) & ~thrown).sum() <= 3
    # half of 40 rows by chance: a standard error of .08 under each model
    assert right["trial"][thrown].to_numpy() == pytest.approx(0.5, abs=0.2)
    assert (right["p"] > 0.05).all()


def test_the_weakest_tenth_are_the_coins(coins: tuple[Path, str]) -> None:
    folder, page = coins
    frame = gains(runs(str(folder)), trial=0, pooled=1).set_index("label")
    own, pooled = (frame[name][[*worlds.COINS]].mean() for name in ("trial", "pooled"))
    assert {*frame["trial"].nsmallest(2).index} == {*worlds.COINS}
    told = re.search(
        r"weakest tenth of groups \(2 of 20, each model's own\) has a mean accuracy of ([\d.]+) "
        r"with latents \(epoch \d+\) and ([\d.]+) in the pooled model",
        page,
    )
    assert told is not None
    assert float(told[1]) == pytest.approx(own, abs=1e-3)
    assert float(told[2]) == pytest.approx(pooled, abs=1e-3)
    rows = page.split("being at an end is mostly chance.")[1].split("How much is known")[0]
    assert {*re.findall(r"\bw\d\d\b", rows)[:2]} == {*worlds.COINS}
    for run in ("own", "pooled"):
        said = (folder.parents[1] / f"{run}.txt").read_text(encoding="utf-8")
        last = said.split("the weakest and the strongest")[-1]
        assert {*re.findall(r"^ (w\d\d) ", last, re.MULTILINE)[:2]} == {*worlds.COINS}


def test_runs_are_called_by_their_names(coins: tuple[Path, str]) -> None:
    page = coins[1]
    assert "Best is trial 0 (own), latents" in page
    assert "The best without latents (the pooled model, trial 1 (pooled)) has" in page
    assert "run status best epoch" in page
    assert "none of the trials with a result drew parameters" in page


def test_cut_predictions_of_a_run_are_told_and_no_group_is_said_to_gain(
    alike: tuple[Path, str], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(alike[0], tmp_path / "alike"))
    path = copy / "own" / PREDICTIONS
    path.write_bytes(path.read_bytes()[:-100])
    told = f"own/{PREDICTIONS} is cut short: whether single groups gain"
    assert any(told in problem for problem in load_runs(copy).problems)
    page = reported(copy)
    assert told in first_screen(page)
    assert COUNTED.search(page) is None
    assert "Whether single groups gain beyond their own error is not known" in page
