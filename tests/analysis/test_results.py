"""Reading a real sweep as dataframes: running, killed, damaged; and what its figures show."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import hlvnn
import hlvnn.analysis
from hlvnn.analysis import Results, compare, figures, load_runs, load_sweep
from hlvnn.analysis.figures.curves import COLLAPSED
from hlvnn.analysis.figures.uncertainty import interval
from hlvnn.analysis.gains import Summary, alike, gains
from hlvnn.errors import RunError
from hlvnn.inference.metrics import across_groups
from hlvnn.records import outcomes, run_folder, trials_table
from hlvnn.records.journal import JOURNAL
from hlvnn.records.sweep_folder import SWEEP, locked
from tests.helpers import ROOT
from tests.sweeps import COMPLETED, DIVERGED, DRAWN, FAILED, RUNNING, STOPPED, TRIALS


@pytest.fixture(scope="module")
def swept(small_sweep: Path) -> Results:
    return load_sweep(small_sweep)


@pytest.fixture
def copy(small_sweep: Path, tmp_path: Path) -> Path:
    """Return a copy of the sweep, to be damaged."""
    return Path(shutil.copytree(small_sweep, tmp_path / "damaged"))


def files_below(folder: Path) -> dict[Path, tuple[int, int]]:
    return {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*") if p.is_file()}


# ------------------------------------------------------------------------------ trials


def test_every_trial_is_in_the_table_with_its_status(small_sweep: Path) -> None:
    before = files_below(small_sweep)
    with locked(small_sweep):
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
    assert "gaussian needs a real target" in results.trials["error"][FAILED]


def test_the_table_tells_settings_structure_and_metrics(swept: Results) -> None:
    trials = swept.trials
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
    with_it = load_sweep(copy).trials
    (copy / trials_table.TRIALS).unlink()
    pd.testing.assert_frame_equal(load_sweep(copy).trials, with_it, check_dtype=False)
    (copy / trials_table.TRIALS).write_bytes(b"no table")
    pd.testing.assert_frame_equal(load_sweep(copy).trials, with_it, check_dtype=False)


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
    pooled = swept.trials[swept.trials["pooled"]]
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


# ------------------------------------------------------------------------------ groups


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
    with pytest.raises(RunError, match="unknown column 'accuracy'"):
        groups.read(["accuracy"])


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
    from hlvnn.analysis.group_tables import GroupTables

    groups = GroupTables({0: tmp_path / "trial"}, {0: None})
    row = groups.spread().iloc[0]
    expected = across_groups(frame)
    assert (row["p10"], row["worst"]) == (expected["group_p10"], expected["group_worst"])
    assert row["worst_decile"] == (19 + 18) / 2


# ------------------------------------------------------------------------------ latents


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
    summary = Summary.of(pd.Series([0.1, 0.3, 0.0, -0.2]))
    assert (summary.better, summary.worse, summary.same) == (2, 1, 1)
    assert summary.mean == pytest.approx(0.05)
    assert summary.error == pytest.approx(pd.Series([0.1, 0.3, 0.0, -0.2]).sem())


# ------------------------------------------------------------------------------ damage


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


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
    assert results.trials["lr"].equals(whole.trials["lr"])  # from the journal
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
    ran = before.trials["started"].notna()
    assert results.trials["lr"][ran].equals(before.trials["lr"][ran])
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


# ------------------------------------------------------------------------------ others


def test_single_runs_are_read_as_trials(small_sweep: Path, tmp_path: Path) -> None:
    for number, name in ((0, "b_pooled"), (1, "a_latents"), (DIVERGED, "c"), (RUNNING, "d")):
        shutil.copytree(small_sweep / f"trial_{number:04d}", tmp_path / name)
        (tmp_path / name / outcomes.OUTCOME).unlink(missing_ok=True)
    results = load_runs(tmp_path)
    assert results.trials["name"].tolist() == ["a_latents", "b_pooled", "c", "d"]
    assert results.trials["status"].tolist() == ["completed", "completed", "diverged", "stopped"]
    assert "no result.json" in results.trials["reason"][3]
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


# ------------------------------------------------------------------------------ figures


def test_learning_curves_hold_every_trial_and_the_rungs(swept: Results) -> None:
    drawn = figures.learning_curves(
        swept.trials,
        swept.epochs,
        "val_loss",
        "min",
        rungs=swept.rungs,
        best=swept.best_trial,
        pooled=swept.pooled_trial,
    )
    (axes,) = drawn.axes
    by_trial = {line.get_gid(): line for line in axes.lines if line.get_gid()}
    assert set(by_trial) == {f"trial {n}" for n in swept.epochs["trial"].unique()}
    own = swept.epochs[swept.epochs["trial"] == 2]
    np.testing.assert_array_equal(by_trial["trial 2"].get_xdata(), own["epoch"])
    np.testing.assert_array_equal(by_trial["trial 2"].get_ydata(), own["val_loss"])
    assert axes.get_xlabel().startswith("epoch")
    assert axes.get_ylabel() == "validation nats a row\n(lower is better)"
    assert [t.get_text() for t in axes.texts] == ["rung 1", "rung 2", "rung 4"]
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert f"best (trial {swept.best_trial})" in legend
    assert f"best without latents (trial {swept.pooled_trial})" in legend
    assert {"4 completed", "2 stopped", "1 diverged"} <= set(legend)
    crosses = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "x"]
    assert sorted(crosses) == [1, 2, 2]
    with pytest.raises(RunError, match="no trial has finished an epoch"):
        figures.learning_curves(swept.trials, swept.epochs.iloc[:0], "val_loss", "min")


def test_losses_that_fall_far_are_drawn_on_a_logarithmic_scale(swept: Results) -> None:
    epochs = swept.epochs.assign(val_loss=4.0 / swept.epochs["epoch"])
    (axes,) = figures.learning_curves(swept.trials, epochs, "val_loss", "min").axes
    assert axes.get_yscale() == "log"
    bottom, top = axes.get_ylim()
    ticks = [t for t in axes.get_yticks() if bottom <= t <= top]
    assert {0.7, 1, 2, 3, 4} <= {round(float(t), 6) for t in ticks}
    assert not axes.yaxis.get_minorticklocs().size
    (axes,) = figures.learning_curves(swept.trials, epochs, "val_loss", "max").axes
    assert axes.get_yscale() == "linear"
    near = epochs.assign(val_loss=3.0 + epochs["val_loss"])
    (axes,) = figures.learning_curves(swept.trials, near, "val_loss", "min").axes
    assert axes.get_yscale() == "linear"


def test_kl_is_drawn_per_group_for_each_latent(swept: Results) -> None:
    drawn = figures.kl_over_epochs(swept.epochs, 2, swept.latent_columns)
    (axes,) = drawn.axes
    own = swept.epochs[swept.epochs["trial"] == 2]
    lines = {line.get_label(): line for line in axes.lines}
    for place in ("output", "hidden1"):
        line = lines[f"writer concat@{place}"]
        np.testing.assert_allclose(line.get_ydata(), own[f"kl_writer_concat@{place}"] / 14)
    assert axes.get_yscale() == "log"
    assert axes.get_ylabel() == "KL, nats a group"
    assert any(np.allclose(line.get_ydata(), COLLAPSED) for line in axes.lines)
    with pytest.raises(RunError, match="trial 0 has no latent"):
        figures.kl_over_epochs(swept.epochs, 0, swept.latent_columns)


def test_the_use_of_the_machine_over_time(swept: Results) -> None:
    drawn = figures.use_over_time(swept.trials, swept.epochs)
    above, below = drawn.axes
    (steps,) = above.patches
    running, edges, _ = steps.get_data()
    begun = swept.trials[swept.trials["started"].notna() & (swept.trials["epochs"] > 0)]
    busy = (running * np.diff(edges)).sum() * 60
    assert busy == pytest.approx(begun["seconds"].sum())  # every second of every trial is there
    dots = below.lines[0]
    begun = begun["trial"]
    speeds = swept.epochs[swept.epochs["trial"].isin(begun)]["rows_per_second"]
    assert sorted(dots.get_ydata()) == sorted(speeds)
    assert below.get_xlabel() == "minutes since the first trial began"
    with_use = swept.epochs.assign(gpu_util=50.0)
    assert figures.use_over_time(swept.trials, with_use).axes[1].get_ylabel() == "busy, %"


def test_the_spread_names_the_weakest_groups(swept: Results) -> None:
    best = swept.best_trial
    spread = swept.groups.spread(trials=[best])
    last = swept.groups.read(trials=[best], epochs=[6], split="val", labels=True)
    drawn = figures.group_spread(spread, last, "acc")
    (axes,) = drawn.axes
    lines = {line.get_label(): line.get_ydata() for line in axes.lines}
    np.testing.assert_array_equal(lines["median group"], spread["p50"])
    np.testing.assert_array_equal(lines["10th percentile (weak end)"], spread["p10"])
    np.testing.assert_array_equal(lines["mean of the weakest tenth"], spread["worst_decile"])
    title, *words = drawn.get_supxlabel().splitlines()
    fair = last[last["n"] >= last["n"].median()].sort_values("acc", kind="stable")
    worst = fair.iloc[0]
    assert title == f"weakest at the end, of those with {fair['n'].min()} rows or more (red):"
    assert words[0].startswith(f"{worst['label']} {worst['acc']:.2f} ({worst['n']} rows), ")
    assert ", ".join(words).count(" rows") == 6
    assert axes.get_ylabel() == "accuracy of a group,\nvalidation rows"


def test_trials_that_validation_rows_cannot_tell_apart(swept: Results) -> None:
    best, found = swept.best_trial, alike(swept)
    others = [number for number in swept.placed["trial"] if number != best]
    assert set(found) <= set(others)
    for number in others:
        pair = gains(swept, trial=best, pooled=number, split="val", measure="loss")
        lead = np.average(pair["gain"], weights=pair["n"])
        known = swept.row(number)["best_val_loss"] - swept.row(best)["best_val_loss"]
        assert lead == pytest.approx(known, abs=1e-5)  # the metric itself, group by group
        error = np.sqrt(np.square(pair["n"] * (pair["gain"] - lead)).sum()) / pair["n"].sum()
        assert (number in found) == (lead < 2 * error)
    assert alike(dataclasses.replace(swept, metric="val_group_p10", mode="max")) == []


def test_gains_are_drawn_against_rows_with_the_line_of_no_gain(swept: Results) -> None:
    frame = gains(swept)
    drawn = figures.gain_by_rows(frame)
    (axes,) = drawn.axes
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    drawn_points = sorted(zip(*(np.concatenate([getattr(d, f"get_{k}data")() for d in dots])
                                for k in "xy"), strict=True))  # fmt: skip
    assert drawn_points == sorted(zip(frame["rows"].astype(float), frame["gain"], strict=True))
    zero = next(line for line in axes.lines if line.get_label() == "no gain")
    assert set(zero.get_ydata()) == {0}
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert f"{(frame['gain'] > 0).sum()} groups gain" in labels
    assert f"{(frame['gain'] < 0).sum()} lose" in labels
    assert axes.get_xlabel() == "training rows of the group"
    assert axes.get_ylabel() == "gain in test accuracy\nover the pooled model"
    (squares,) = axes.containers
    assert list(squares.lines[0].get_xdata()) == sorted(set(squares.lines[0].get_xdata()))
    pooled_only = figures.gain_by_rows(frame.assign(rows=np.nan))
    assert pooled_only.axes[0].get_xlabel() == "test rows of the group"


def test_shrinkage_is_a_dot_per_group_and_latent(swept: Results) -> None:
    latents = swept.latents(2)
    (axes,) = figures.shrinkage(latents).axes
    dots = {line.get_label(): line for line in axes.lines if line.get_marker() == "o"}
    assert set(dots) == {"writer concat@output", "writer concat@hidden1"}
    own = latents[latents["latent"] == "writer concat@output"].groupby("gid", sort=False)
    np.testing.assert_allclose(dots["writer concat@output"].get_ydata(), own["shrinkage"].mean())
    np.testing.assert_array_equal(dots["writer concat@output"].get_xdata(), own["rows"].first())
    with pytest.raises(RunError, match="no latent with a posterior SD"):
        figures.shrinkage(swept.latents(0))


def test_calibration_of_classes_and_of_real_targets(swept: Results) -> None:
    frame = swept.calibration(num_samples=4)
    above, below = figures.calibration(frame).axes
    used = frame[frame["n"] > 0]
    curve = next(line for line in above.lines if line.get_marker() == "o")
    np.testing.assert_allclose(np.asarray(curve.get_xdata(), float), used["confidence"])
    np.testing.assert_allclose(np.asarray(curve.get_ydata(), float), used["accuracy"])
    assert [bar.get_height() for bar in below.patches] == frame["n"].tolist()
    assert frame["n"].sum() == 360  # the test rows of digits
    (bars,) = above.containers
    for segment in bars.lines[2][0].get_segments():
        assert -1e-12 < segment[0, 1] <= segment[1, 1] < 1 + 1e-12
    assert below.get_ylabel() == "test rows"
    shares = pd.DataFrame({"low": [0, 0.5], "high": [0.5, 1], "n": [30, 10], "split": "val"})
    (axes,) = figures.calibration(shares.assign(share=[0.75, 0.25])).axes
    assert [bar.get_height() for bar in axes.patches[:2]] == [0.75, 0.25]
    assert axes.get_ylabel() == "share of validation rows"


def test_intervals_of_shares_are_wilsons() -> None:
    low, high = interval(np.array([1 / 3, 0.0, 1.0]), np.array([3.0, 10.0, 10.0]))
    np.testing.assert_allclose(low, [0.0615, 0.0, 0.7225], atol=1e-4)
    np.testing.assert_allclose(high, [0.7923, 0.2775, 1.0], atol=1e-4)


def test_optunas_plots_show_the_parameters_that_all_trials_drew(swept: Results) -> None:
    study = swept.study
    assert len(study.trials) == len(swept.placed)
    assert study.best_value == swept.trials["best_val_loss"].min()
    from matplotlib import pyplot

    before = dict(pyplot.rcParams), pyplot.get_fignums()
    parallel = figures.parallel_coordinates(study, "val_loss")
    names = [tick.get_text() for tick in parallel.axes[0].get_xticklabels()]
    assert names == ["val_loss", "dropout", "lr", "structure"]  # z_dim is drawn by some only
    (lines,) = parallel.axes[0].collections
    losses = [segment[0][1] for segment in lines.get_segments()]
    assert losses == sorted(losses, reverse=True)  # the best are drawn last, over the others,
    assert list(lines.get_array()) == list(range(len(losses)))  # and darkest
    assert lines.to_rgba(len(losses) - 1)[0] < lines.to_rgba(0)[0] < 0.9  # all can be seen
    bars = figures.importances(study, "val_loss").axes[0]
    assert {t.get_text() for t in bars.get_yticklabels()} == {"dropout", "lr", "structure"}
    assert sum(bar.get_width() for bar in bars.patches) == pytest.approx(1)
    assert bars.get_xlabel() == "share of the variance of validation nats a row"
    assert (dict(pyplot.rcParams), pyplot.get_fignums()) == before  # the caller's are left alone


def test_figures_say_why_they_cannot_be_drawn(tmp_path: Path, copy: Path) -> None:
    for folder in copy.glob("trial_*"):
        shutil.rmtree(folder)
    empty = load_sweep(copy)
    assert set(empty.trials["status"]) == {"not started"}
    assert (empty.best_trial, empty.pooled_trial, len(empty.epochs)) == (None, None, 0)
    refusals: list[Callable[[], object]] = [
        lambda: figures.use_over_time(empty.trials, empty.epochs),
        lambda: figures.importances(empty.study, "val_loss"),
        lambda: figures.group_spread(empty.groups.spread(), empty.groups.read(), "acc"),
        empty.latents,
        lambda: gains(empty),
    ]
    for refusal in refusals:
        with pytest.raises(RunError):
            refusal()
