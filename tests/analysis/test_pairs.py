"""Planted sweeps: who gains, by how much and how surely is asked back from table and report."""

from __future__ import annotations

import html
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from hlvnn.analysis import Results, compare, load_sweep
from hlvnn.analysis.gains import Summary, alike, gains
from hlvnn.analysis.pairs import at_equal_epochs, over_groups
from hlvnn.analysis.report import write_report
from hlvnn.errors import RunError
from hlvnn.files import write_json, write_rows
from hlvnn.records import outcomes, run_folder
from hlvnn.records.journal import Journal
from hlvnn.records.outcomes import Outcome, Status
from hlvnn.records.predictions import read_predictions, write_predictions
from hlvnn.records.sweep_folder import Record, write_record

GROUPS, ROWS, EPOCHS, CUT = 20, 60, 12, 5
SURE = 3
"""The first groups gain for sure, the next does lose for sure, the others differ by chance."""
SCHEMA = {
    "levels": [{"name": "ward", "size": GROUPS, "labels": [f"w{g}" for g in range(GROUPS)]}],
}


def hits() -> tuple[np.ndarray, np.ndarray]:
    """Return which rows [groups, rows] each is right on, the trial with latents and the pooled."""
    rng = np.random.default_rng(0)
    pooled = rng.random((GROUPS, ROWS)) < 0.7
    own = pooled.copy()
    for group in range(GROUPS):
        up = rng.integers(0, 5)  # four rows differ, by chance either way
        own[group, rng.permutation(np.flatnonzero(~pooled[group]))[:up]] = True
        own[group, rng.permutation(np.flatnonzero(pooled[group]))[: 4 - up]] = False
    own[:SURE] |= rng.random((SURE, ROWS)) < 0.9
    own[SURE] &= rng.random(ROWS) < 0.4
    return own, pooled


def leave(sweep: Path, number: int, hit: np.ndarray, epochs: int, structure: str) -> None:
    """Leave a trial whose accuracy rises to that of `hit` in its last epoch, the chosen one."""
    folder = outcomes.trial_folder(sweep, number)
    (folder / run_folder.STATS).mkdir(parents=True)
    y = np.arange(hit.size) % 4
    table = pd.DataFrame(
        {
            "row": np.arange(hit.size),
            "ward": np.repeat(np.arange(GROUPS, dtype=np.int32), ROWS),
            "y": y,
            "prediction": np.where(hit.flatten(), y, (y + 1) % 4),
            "log_prob": np.where(hit.flatten(), -0.1, -2.0),
        }
    )
    rows = []
    for epoch in range(1, epochs + 1):
        lack = 0.05 * (epochs - epoch)
        acc = hit.mean() - lack
        row = {"epoch": epoch, "seconds": 1.0, "diverged": 0.0}
        rows.append(row | {f"{s}_{m}": acc for s in ("val", "test") for m in ("acc", "f1")})
        rows[-1] |= {"val_loss": 1 - acc, "test_loss": 1 - acc}
        stat = pd.DataFrame({"gid": np.arange(GROUPS, dtype=np.int32), "n": ROWS})
        stat = stat.assign(acc=hit.mean(1) - lack, f1=0.5, loss=1 - hit.mean(1))
        parts = [stat.assign(split=split) for split in ("val", "test")]
        whole = pd.concat(parts).assign(epoch=epoch, level="ward")
        whole.to_parquet(folder / run_folder.STATS / run_folder.stats_name(epoch), index=False)
    write_rows(folder / run_folder.METRICS, rows)
    write_predictions(folder, epochs, {"val": table, "test": table}, 10**6)
    config = {"latent_config": [structure], "num_epochs": EPOCHS}
    record = {"config": config, "model": "NormalMLP", "latents": [], "data_hash": "ab"}
    write_json(folder / run_folder.HYPERPARAMS, record)
    status = Status.COMPLETED if epochs == EPOCHS else Status.STOPPED
    outcomes.write(sweep, Outcome(trial=number, status=status))


def planted(sweep: Path, pooled_epochs: int = EPOCHS) -> Path:
    own, pooled = hits()
    sweep.mkdir()
    journal = Journal.create(sweep, "max")
    for number, (hit, epochs, structure) in enumerate(
        [(own, EPOCHS, "factor"), (pooled, pooled_epochs, "none")]
    ):
        leave(sweep, number, hit, epochs, structure)
        trial = journal.study.ask()
        trial.suggest_float("lr", 0.1, 1.0)
        trial.set_user_attr("trial", number)
        settings = {"latent_config": [structure], "num_epochs": EPOCHS}
        trial.set_user_attr("draw", {"settings": settings, "drawn": {}, "problem": ""})
        journal.study.tell(trial, 0.5)
    options = {"num_trials": 2, "scheduler": "asha", "grace_period": 1, "reduction_factor": 3.0}
    write_record(
        sweep,
        Record("s", "", (("val_acc", "max"),), base={}, fixed={}, options=options, starts=[]),
    )
    return sweep


@pytest.fixture
def swept(tmp_path: Path) -> Results:
    return load_sweep(planted(tmp_path / "sweep"))


def test_the_groups_that_gain_for_sure_are_those_that_were_planted(swept: Results) -> None:
    frame = gains(swept)
    own, pooled = hits()
    np.testing.assert_allclose(frame["gain"], own.mean(1) - pooled.mean(1))
    beyond = frame["p"] < 0.05
    assert frame["gid"][beyond].tolist() == list(range(SURE + 1))
    for group in range(GROUPS):
        won, lost = (own & ~pooled)[group].sum(), (pooled & ~own)[group].sum()
        exact = stats.binomtest(int(won), int(won + lost)).pvalue if won + lost else 1.0
        assert frame["p"][group] == pytest.approx(exact)
    summary = Summary.of(frame)
    assert (summary.surely_better, summary.surely_worse) == (SURE, 1)
    assert summary.better > SURE + 2, "by their sign alone many more seem to"


def test_the_test_over_rows_is_mcnemars_and_its_error_over_groups_is_the_larger(
    swept: Results,
) -> None:
    test = gains(swept).attrs["test"]
    own, pooled = hits()
    won, lost = int((own & ~pooled).sum()), int((pooled & ~own).sum())
    assert (test.won, test.lost, test.rows) == (won, lost, GROUPS * ROWS)
    assert test.p == pytest.approx(stats.binomtest(won, won + lost).pvalue)
    assert test.gain == pytest.approx(own.mean() - pooled.mean())
    by_group = own.mean(1) - pooled.mean(1)
    assert test.group_error == pytest.approx(stats.sem(by_group))  # groups of one size
    assert test.group_error > 1.5 * test.error
    nats = gains(swept, measure="loss").attrs["test"]
    mine, theirs = (np.where(hit, -0.1, -2.0).flatten() for hit in (own, pooled))
    assert nats.p == pytest.approx(stats.ttest_rel(mine, theirs).pvalue)


def test_the_error_over_groups_of_one_group_is_not_known() -> None:
    assert math.isnan(over_groups(np.array([1.0, 0.0]), np.array([3, 3])))


def test_a_pooled_trial_that_was_cut_is_compared_at_equal_epochs(tmp_path: Path) -> None:
    """In the end 12 epochs would be beside 5: the truth is the difference within the first 5."""
    results = load_sweep(planted(tmp_path / "sweep", CUT))
    own, pooled = hits()
    truth = (own.mean() - 0.05 * (EPOCHS - CUT)) - pooled.mean()
    fair = at_equal_epochs(results, 0, 1)
    assert (fair.within, fair.lengths, fair.epochs) == (CUT, (EPOCHS, CUT), (CUT, CUT))
    assert gains(results)["gain"].mean() == pytest.approx(truth)
    frame = compare([results])
    assert frame["gain"][0] == pytest.approx(truth)
    assert frame["gain_epochs"][0] == CUT
    assert gains(results).attrs["test"] is None
    assert gains(results).attrs["why"] == "trial 0 keeps its rows of epoch 12, not of 5"
    page = html.unescape(write_report(results, num_samples=2).read_text(encoding="utf-8"))
    assert "Within the first 5 epochs of both, for the pooled model was stopped then" in page
    assert f"within the first 5 epochs of both, is {truth:+.4f}" in page
    assert "(after 5 and 12 epochs: " in page
    assert "Whether single groups gain beyond their own error is not known: trial 0 keeps" in page


def test_the_report_says_who_gains_beyond_their_error_without_any_weights(tmp_path: Path) -> None:
    """No weights were ever there: as after `prune`."""
    page = write_report(load_sweep(planted(tmp_path / "sweep"))).read_text(encoding="utf-8")
    page = html.unescape(re.sub(r"<[^>]+>", "", page))
    assert "Both trained for 12 epochs." in page
    assert "3 groups gain and 1 loses beyond their own error" in page
    own, pooled = hits()
    won, lost = (own & ~pooled).sum(), (pooled & ~own).sum()
    assert f"{won} are right with latents only, {lost} without only (McNemar's exact test" in page
    weak = np.sort(own.mean(1))[:2].mean(), np.sort(pooled.mean(1))[:2].mean()
    assert (
        f"On test rows the weakest tenth of groups (2 of 20, each model's own) has a mean accuracy "
        f"of {weak[0]:.3g} with latents (epoch 12) and {weak[1]:.3g} in the pooled model"
    ) in page
    assert "± over its rows" in page


def test_what_cannot_be_told_apart_is_known_without_weights(swept: Results) -> None:
    assert alike(swept) in ([], [1])
    assert "cannot be told" not in str(swept.problems)


def test_rows_of_other_data_are_not_paired(tmp_path: Path) -> None:
    sweep = planted(tmp_path / "sweep")
    path = sweep / "trial_0001" / run_folder.HYPERPARAMS
    path.write_text(path.read_text().replace('"ab"', '"cd"'), encoding="utf-8")
    assert gains(load_sweep(sweep)).attrs["why"] == (
        "trials 0 and 1 did not predict the same test rows"
    )


def test_rows_are_cut_alike_in_every_run_and_it_is_told(tmp_path: Path) -> None:
    table = pd.DataFrame({"row": range(1000), "g": 0, "y": 1.0, "prediction": 0.5, "log_prob": -1})
    kept = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        told = write_predictions(tmp_path / name, 3, {"val": table[:50], "test": table}, 100)
        assert "predictions.parquet keeps 100 of 1,000 test rows, chosen at random" in told
        found = read_predictions(tmp_path / name)
        assert found is not None
        assert (found.epoch, found.all_rows) == (3, {"val": 50, "test": 1000})
        kept.append(found.table)
    assert kept[0]["split"].value_counts().to_dict() == {"test": 100, "val": 50}
    pd.testing.assert_frame_equal(*kept)
    assert kept[0]["row"][kept[0]["split"] == "test"].max() > 900
    (tmp_path / "a" / "predictions.parquet").write_bytes(b"PAR1 cut")
    with pytest.raises(RunError, match=r"a/predictions\.parquet cannot be read"):
        read_predictions(tmp_path / "a")
