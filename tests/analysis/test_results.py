"""What analysis reads of a sweep: its trials, groups and latents, whole and damaged."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import hlvnn
import hlvnn.analysis
from hlvnn.analysis import Results, compare, load_runs, load_sweep
from hlvnn.analysis.gains import Summary, gains
from hlvnn.analysis.group_tables import GroupTables
from hlvnn.errors import RunError
from hlvnn.inference.metrics import across_groups
from hlvnn.records import outcomes, run_folder, trials_table
from hlvnn.records.journal import JOURNAL
from hlvnn.records.sweep_folder import SWEEP, locking
from tests.helpers import ROOT
from tests.sweeps import COMPLETED, DIVERGED, DRAWN, FAILED, RUNNING, STOPPED, TRIALS


def files_below(folder: Path) -> dict[Path, tuple[int, int]]:
    return {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*") if p.is_file()}


# trials


def test_every_trial_is_in_the_table_with_its_status(small_sweep: Path) -> None:
    before = files_below(small_sweep)
    with locking(small_sweep):
        before = files_below(small_sweep)
        running = load_sweep(small_sweep)
        assert running.alive
        assert running.trials["status"][RUNNING] == "running"
        assert running.trials["reason"][DRAWN] == "waiting"
    results = load_sweep(small_sweep)
    assert files_below(small_sweep) == before  # reading changes nothing
    status = results.trials["status"]
    assert results.trials["trial"].tolist() == list(range(TRIALS))
    assert [status[n] for n in COMPLETED] == ["completed"] * len(COMPLETED)
    assert (status[STOPPED], status[DIVERGED], status[FAILED]) == ("stopped", "diverged", "failed")
    assert status[RUNNING] == "stopped"  # nobody works on it any more
    assert "driver ended" in results.trials["reason"][RUNNING]
    assert status[DRAWN:].tolist() == ["not started"] * 2
    assert results.problems == []
    assert "gaussian needs a real target" in results.about["error"][FAILED]


def test_the_table_tells_settings_structure_and_metrics(swept: Results) -> None:
    trials = swept.table
    assert trials["structure"].tolist()[:6] == [
        *("none", "factor", "double", "none", "factor", "factor")
    ]
    assert trials["pooled"].tolist() == [n in (0, 3) for n in range(TRIALS)]
    assert pd.isna(trials["structure"][9])
    config = run_folder.read_config(swept.path / "trial_0001")
    assert trials["lr"][1] == config.train.lr == trials["param_lr"][1]
    assert trials["param_z_dim"].isna().tolist()[:2] == [True, False]  # the pooled one drew none
    assert trials["param_lr"][DIVERGED] != trials["lr"][DIVERGED]  # what Optuna drew, what ran
    metrics = run_folder.read_metrics(swept.path / "trial_0002")
    best = metrics.loc[metrics["val_loss"].idxmin()]
    assert trials["best_epoch"][2] == best["epoch"]
    assert trials["best_test_acc"][2] == best["test_acc"]
    assert trials["final_val_loss"][2] == metrics["val_loss"].iloc[-1]
    assert trials["data_hash"].dropna().nunique() == 1
    assert str(trials["started"].dtype).startswith("datetime64")
    assert trials.index.equals(pd.RangeIndex(TRIALS))  # nothing hides in an index


def test_trials_parquet_only_saves_time(copy: Path) -> None:
    with_it = load_sweep(copy).table
    (copy / trials_table.TRIALS).unlink()
    pd.testing.assert_frame_equal(load_sweep(copy).table, with_it, check_dtype=False)
    (copy / trials_table.TRIALS).write_bytes(b"no table")
    pd.testing.assert_frame_equal(load_sweep(copy).table, with_it, check_dtype=False)


def test_epochs_are_the_rows_of_all_metrics(swept: Results) -> None:
    counts = swept.epochs.groupby("trial").size()
    assert counts.to_dict() == {0: 6, 1: 6, 2: 6, 3: 6, STOPPED: 2, DIVERGED: 1, RUNNING: 2}
    own = swept.epochs[swept.epochs["trial"] == 1].reset_index(drop=True)
    written = run_folder.read_metrics(swept.path / "trial_0001")
    pd.testing.assert_series_equal(own["val_loss"], written["val_loss"])


def test_the_best_and_the_pooled_trial(swept: Results) -> None:
    best = swept.best(3)
    assert best["rank"].tolist() == [1, 2, 3]
    assert best["best_val_loss"].is_monotonic_increasing
    assert swept.best_trial == best["trial"][0] == swept.trials["best_val_loss"].idxmin()
    pooled = swept.table[swept.table["pooled"]]
    assert swept.pooled_trial == pooled["best_val_loss"].idxmin()
    assert swept.rungs == [1, 2, 4]
    with pytest.raises(RunError, match="no trial 77; there are 10"):
        swept.row(77)


def test_analysis_needs_no_ray_and_does_not_import_matplotlib_to_read(small_sweep: Path) -> None:
    code = (
        "import sys; sys.modules['ray'] = None\n"
        "import hlvnn.analysis\n"
        f"r = hlvnn.analysis.load_sweep({str(small_sweep)!r}); r.latents(); r.best(2)\n"
        "assert 'matplotlib' not in sys.modules; print(len(r.trials))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("10\n", 0), done.stderr


# groups


def test_groups_are_read_by_column_trial_and_epoch(swept: Results) -> None:
    groups = swept.groups
    assert groups.measures == ["acc", "f1", "loss"]
    frame = groups.read(trials=[1, 2], epochs=[2, 3], level="writer", split="val", labels=True)
    assert list(frame) == [
        *("trial", "epoch", "level", "gid", "split", "n", "acc", "f1", "loss", "label")
    ]
    assert len(frame) == 2 * 2 * 14
    written = pd.read_parquet(swept.path / "trial_0002/training_stats/epoch_0003.parquet")
    written = written[written["split"] == "val"].reset_index(drop=True)
    own = frame[(frame["trial"] == 2) & (frame["epoch"] == 3)].reset_index(drop=True)
    pd.testing.assert_frame_equal(own[written.columns], written, check_dtype=False)
    assert groups.read(["acc"], trials=[1], epochs=[1]).columns.tolist() == ["acc"]
    assert len(groups.read(trials=[DRAWN])) == 0


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"columns": ["accuracy"]}, "unknown column 'accuracy'"),
        ({"level": "writter"}, "unknown level 'writter'; did you mean 'writer'"),
        ({"split": "vall"}, "unknown split 'vall'; did you mean 'val'"),
        ({"trials": [1, 77]}, "no trial 77; there are 10 trials, from 0 to 9"),
        ({"trials": [STOPPED], "epochs": [3]}, "no epoch 3; there are 2 epochs, from 1 to 2"),
    ],
)
def test_what_there_is_not_is_an_error_and_not_an_empty_table(
    swept: Results, asked: dict[str, Any], words: str
) -> None:
    with pytest.raises(RunError, match=words):
        swept.groups.read(**asked)
    assert len(swept.groups.read(trials=[1, STOPPED], epochs=[3])) > 0  # one of them has it


def test_a_number_of_a_group_is_not_read_as_that_of_another_level(tmp_path: Path) -> None:
    """Group 0 of the lower level has accuracy 1, group 0 of the upper one 0."""
    folder = tmp_path / "trial" / run_folder.STATS
    folder.mkdir(parents=True)
    levels = {"character": [1.0, 0.5, 0.5], "play": [0.0, 0.1]}
    parts = [
        pd.DataFrame({"epoch": 1, "level": level, "gid": range(len(acc)), "split": "val"}).assign(
            n=5, acc=acc, f1=acc, loss=1.0
        )
        for level, acc in levels.items()
    ]
    pd.concat(parts).to_parquet(folder / "epoch_0001.parquet", index=False)
    groups = GroupTables({0: tmp_path / "trial"}, {0: None})
    frame = groups.read(["gid", "acc"])
    assert frame.to_dict("list") == {
        "level": ["character"] * 3,
        "gid": [0, 1, 2],
        "acc": levels["character"],
    }
    assert groups.read(["acc"], level="play")["acc"].tolist() == levels["play"]
    both = groups.read(["gid", "acc"], level=groups.levels)
    assert both.groupby("level")["acc"].first().to_dict() == {"character": 1.0, "play": 0.0}


def test_files_of_other_trials_and_epochs_are_not_opened(copy: Path) -> None:
    for path in copy.glob("trial_*/training_stats/*.parquet"):
        asked_for = path.parent.parent.name == "trial_0001" and path.name == "epoch_0002.parquet"
        if not asked_for and path.name != "epoch_0001.parquet":  # a trial's first has its columns
            path.write_bytes(b"not to be opened")
    groups = load_sweep(copy).groups
    assert len(groups.read(trials=[1], epochs=[2], split="val")) == 14
    assert groups.problems == []


def test_the_spread_is_that_of_metrics_csv(swept: Results) -> None:
    spread = swept.groups.spread(trials=[0, 1])
    metrics = swept.epochs[swept.epochs["trial"].isin([0, 1])].reset_index(drop=True)
    for ours, theirs in (("mean", "mean"), ("p10", "p10"), ("p90", "p90"), ("worst", "worst")):
        np.testing.assert_allclose(spread[ours], metrics[f"val_group_{theirs}"], rtol=1e-12)
    last = swept.groups.read(["acc"], trials=[1], epochs=[6], level="writer", split="val")
    assert spread["worst_decile"].iloc[-1] == last["acc"].min()  # a tenth of 14 groups is one
    assert (spread["groups"] == 14).all()
    loss = swept.groups.spread(trials=[1], measure="loss")
    assert (loss["worst"] >= loss["p10"]).all()  # the weak end of a loss is the high one
    assert (loss["p10"] >= loss["p90"]).all()


def test_a_regressions_spread_has_its_weak_end_where_the_error_is(tmp_path: Path) -> None:
    folder = tmp_path / "trial" / run_folder.STATS
    folder.mkdir(parents=True)
    frame = pd.DataFrame({"gid": range(20), "n": 5, "mse": np.arange(20.0), "loss": 1.0})
    frame.insert(0, "epoch", 1)
    frame.insert(1, "level", "ward")
    frame.insert(3, "split", "val")
    frame.to_parquet(folder / "epoch_0001.parquet", index=False)
    groups = GroupTables({0: tmp_path / "trial"}, {0: None})
    row = groups.spread().iloc[0]
    expected = across_groups(frame)
    assert (row["p10"], row["worst"]) == (expected["group_p10"], expected["group_worst"])
    assert row["worst_decile"] == (19 + 18) / 2


# latents


def test_latents_are_the_models_posteriors(swept: Results) -> None:
    latents = swept.latents(1)
    run = hlvnn.load_run(swept.path / "trial_0001", "best")
    posterior, shrinkage = run.model.posterior("writer"), run.model.shrinkage("writer")
    assert set(latents["label"]) == {str(label) for label in posterior["writer"]}
    for name in latents["coordinate"].unique():
        own = latents[latents["coordinate"] == name].sort_values("gid", ignore_index=True)
        np.testing.assert_allclose(own["mean"], posterior[f"mean_{name}"])
        np.testing.assert_allclose(own["sd"], posterior[f"sd_{name}"])
        np.testing.assert_allclose(own["prior_sd"], shrinkage[f"prior_sd_{name}"])
        np.testing.assert_allclose(own["shrinkage"], shrinkage[f"shrinkage_{name}"], atol=1e-12)
        assert own["rows"].tolist() == posterior["rows"].tolist()
    assert (latents["epoch"] == run.epoch).all()
    assert len(swept.latents(0)) == 0  # the pooled model has none
    assert set(swept.latents(2)["latent"]) == {"writer concat@output", "writer concat@hidden1"}


def test_gains_set_each_group_beside_itself(swept: Results) -> None:
    frame = gains(swept)
    best, pooled = swept.row(swept.best_trial), swept.row(swept.pooled_trial)
    read = {
        name: pd.read_parquet(
            Path(row["folder"]) / run_folder.STATS / f"epoch_{int(row['best_epoch']):04d}.parquet"
        )
        for name, row in (("trial", best), ("pooled", pooled))
    }
    for name, written in read.items():
        written = written[written["split"] == "test"].sort_values("gid")
        np.testing.assert_array_equal(frame[name], written["acc"])
        assert frame["n"].tolist() == written["n"].tolist()
    np.testing.assert_array_equal(frame["gain"], frame["trial"] - frame["pooled"])
    assert (frame["rows"] > frame["n"]).all()  # training rows, not those that were scored
    loss = gains(swept, measure="loss")
    np.testing.assert_array_equal(loss["gain"], loss["pooled"] - loss["trial"])
    weighted = (loss["gain"] * loss["n"]).sum() / loss["n"].sum()
    assert weighted == pytest.approx(pooled["best_test_loss"] - best["best_test_loss"])
    with pytest.raises(RunError, match="compared with itself"):
        gains(swept, trial=swept.pooled_trial)
    summary = Summary.of(pd.DataFrame({"gain": [0.1, 0.3, 0.0, -0.2]}))
    assert (summary.better, summary.worse, summary.same) == (2, 1, 1)
    assert summary.mean == pytest.approx(0.05)
    assert summary.error == pytest.approx(pd.Series([0.1, 0.3, 0.0, -0.2]).sem())


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


# damage


def test_a_damaged_sweep_is_read_as_far_as_it_goes(copy: Path) -> None:
    whole = load_sweep(copy)
    cut_short(copy / "trial_0001" / run_folder.STATS / "epoch_0003.parquet")
    cut_short(copy / "trial_0002" / outcomes.OUTCOME)
    (copy / "trial_0000" / run_folder.METRICS).write_text("not,a\ntable\n", encoding="utf-8")
    cut_short(copy / "trial_0003" / run_folder.SCHEMA)
    cut_short(copy / "trial_0004" / run_folder.HYPERPARAMS)
    (copy / trials_table.TRIALS).unlink()
    with (copy / JOURNAL).open("ab") as file:
        file.write(b'{"op_code":4,"wor')  # a driver was killed while it wrote
    results = load_sweep(copy)
    assert len(results.trials) == TRIALS
    assert results.trials["status"][2] == "completed"  # it has all its epochs
    assert "outcome.json is damaged" in results.trials["reason"][2]
    assert results.trials["epochs"].tolist()[:3] == [0, 6, 6]
    assert results.settings["lr"].equals(whole.settings["lr"])  # from the journal
    spread = results.groups.spread(trials=[1])
    assert spread["epoch"].tolist() == [1, 2, 4, 5, 6]
    assert results.groups.read(trials=[3], epochs=[1], labels=True)["label"].tolist()[:2] == [0, 1]
    told = " | ".join([*results.problems, *results.groups.problems])
    for words in (
        "trial_0002/outcome.json: not readable as JSON",
        "trial_0000/metrics.csv cannot be read",
        "trial_0004/hyperparams.json cannot be read",
        "trial_0001/training_stats/epoch_0003.parquet cannot be read",
    ):
        assert words in told
    assert str(copy) not in told  # short enough to read


def test_a_sweep_without_a_journal_takes_settings_from_its_trials(copy: Path) -> None:
    before = load_sweep(copy)
    (copy / JOURNAL).unlink()
    results = load_sweep(copy)
    assert "optuna.journal is missing" in results.problems[0]
    ran = before.about["started"].notna()
    assert results.settings["lr"][ran].equals(before.settings["lr"][ran])
    assert results.trials["status"].tolist() == before.trials["status"].tolist()
    (copy / JOURNAL).write_text("not a journal\n{}\n", encoding="utf-8")
    assert "optuna.journal cannot be read" in load_sweep(copy).problems[0]


def test_a_folder_that_is_no_sweep_is_told(tmp_path: Path, copy: Path) -> None:
    with pytest.raises(RunError, match=r"is not a sweep: sweep\.json is missing"):
        load_sweep(tmp_path)
    (copy / SWEEP).write_text('{"options": {}}', encoding="utf-8")
    with pytest.raises(
        RunError, match=r"sweep\.json: damaged: expected options, fixed, starts and space"
    ):
        load_sweep(copy)
    (copy / SWEEP).write_text("{", encoding="utf-8")
    with pytest.raises(RunError, match=r"sweep\.json: not readable as JSON"):
        load_sweep(copy)
    with pytest.raises(RunError, match="no run is in it"):
        load_runs(tmp_path)


# others


def test_single_runs_are_read_as_trials(small_sweep: Path, tmp_path: Path) -> None:
    for number, name in ((0, "b_pooled"), (1, "a_latents"), (DIVERGED, "c"), (RUNNING, "d")):
        shutil.copytree(small_sweep / f"trial_{number:04d}", tmp_path / name)
        (tmp_path / name / outcomes.OUTCOME).unlink(missing_ok=True)
    results = load_runs(tmp_path)
    assert results.trials.index.tolist() == ["a_latents", "b_pooled", "c", "d"]
    assert results.trials["status"].tolist() == ["completed", "completed", "diverged", "stopped"]
    assert "no result.json" in results.trials["reason"]["d"]
    assert (results.best_trial, results.pooled_trial) == (0, 1)
    assert load_runs(tmp_path, "val_acc", "max").best(1)["best_val_acc"].notna().all()


def test_sweeps_are_set_side_by_side(swept: Results, copy: Path) -> None:
    record = json.loads((copy / "trial_0001" / run_folder.HYPERPARAMS).read_text())
    for folder in copy.glob("trial_*"):
        if (folder / run_folder.HYPERPARAMS).exists():
            text = (folder / run_folder.HYPERPARAMS).read_text()
            changed = text.replace(record["data_hash"], "f" * 16)
            (folder / run_folder.HYPERPARAMS).write_text(changed)
    frame = compare([swept, copy])
    assert frame["sweep"].tolist() == ["small", "damaged"]
    assert frame["same_data"].tolist() == [True, False]
    assert frame["same_metric"].all()
    first = frame.iloc[0]
    assert (first["trials"], first["completed"], first["failed"]) == (TRIALS, 4, 1)
    assert first["best"] == swept.trials["best_val_loss"].min()
    assert first["gain"] == pytest.approx(first["pooled"] - first["best"])
    assert first["gain"] > 0
