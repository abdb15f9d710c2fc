"""The figures hold what the tables say, and say why where they cannot be drawn."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hlvnn.analysis import Results, figures, load_sweep
from hlvnn.analysis.figures import style
from hlvnn.analysis.figures.curves import COLLAPSED
from hlvnn.analysis.figures.svg import in_the_dark, paints, svg
from hlvnn.analysis.figures.uncertainty import interval
from hlvnn.analysis.gains import alike, gains
from hlvnn.errors import RunError
from hlvnn.records import trials_table
from hlvnn.records.journal import JOURNAL


def test_learning_curves_hold_every_trial_and_the_rungs(swept: Results) -> None:
    drawn = figures.learning_curves(
        swept.table,
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
        figures.learning_curves(swept.table, swept.epochs.iloc[:0], "val_loss", "min")


def test_losses_that_fall_far_are_drawn_on_a_logarithmic_scale(swept: Results) -> None:
    epochs = swept.epochs.assign(val_loss=4.0 / swept.epochs["epoch"])
    (axes,) = figures.learning_curves(swept.table, epochs, "val_loss", "min").axes
    assert axes.get_yscale() == "log"
    bottom, top = axes.get_ylim()
    ticks = [t for t in axes.get_yticks() if bottom <= t <= top]
    assert {0.7, 1, 2, 3, 4} <= {round(float(t), 6) for t in ticks}
    assert not axes.yaxis.get_minorticklocs().size
    (axes,) = figures.learning_curves(swept.table, epochs, "val_loss", "max").axes
    assert axes.get_yscale() == "linear"
    near = epochs.assign(val_loss=3.0 + epochs["val_loss"])
    (axes,) = figures.learning_curves(swept.table, near, "val_loss", "min").axes
    assert axes.get_yscale() == "linear"


def test_kl_is_drawn_per_group_for_each_latent(swept: Results) -> None:
    drawn = figures.kl_over_epochs(swept.epochs, 2, swept.latent_columns)
    (axes,) = drawn.axes
    own = swept.epochs[swept.epochs["trial"] == 2]
    lines = {line.get_label(): line for line in axes.lines}
    for place in ("output", "hidden1"):
        line = lines[f"writer concat@{place}"]
        kl = own[f"kl_writer_concat@{place}"].clip(1e-6)  # 0 while it waits; the scale is log
        np.testing.assert_allclose(line.get_ydata(), kl / 14)
    assert axes.get_yscale() == "log"
    assert axes.get_ylabel() == "KL, nats a group"
    assert any(np.allclose(line.get_ydata(), COLLAPSED) for line in axes.lines)
    with pytest.raises(RunError, match="trial 0 has no latent"):
        figures.kl_over_epochs(swept.epochs, 0, swept.latent_columns)


def test_the_use_of_the_machine_over_time(swept: Results) -> None:
    drawn = figures.use_over_time(swept.table, swept.epochs)
    above, below = drawn.axes
    (steps,) = above.patches
    running, edges, _ = steps.get_data()
    begun = swept.table[swept.table["started"].notna() & (swept.table["epochs"] > 0)]
    busy = (running * np.diff(edges)).sum() * 60
    assert busy == pytest.approx(begun["seconds"].sum())  # every second of every trial is there
    dots = below.lines[0]
    begun = begun["trial"]
    speeds = swept.epochs[swept.epochs["trial"].isin(begun)]["rows_per_second"]
    assert sorted(dots.get_ydata()) == sorted(speeds)
    assert below.get_xlabel() == "minutes since the first trial began"
    with_use = swept.epochs.assign(gpu_util=50.0)
    assert figures.use_over_time(swept.table, with_use).axes[1].get_ylabel() == "busy, %"


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
    assert title == (
        f"weakest at epoch 6, on validation rows, of those with {fair['n'].min()} or more (red):"
    )
    assert words[0].startswith(f"{worst['label']} {worst['acc']:.2f} ({worst['n']} rows), ")
    assert ", ".join(words).count(" rows") == min(6, (fair["acc"] < 1).sum())
    assert " 1.00 " not in ", ".join(words), "a group that is predicted perfectly is not weak"
    assert axes.get_ylabel() == "accuracy of a group,\nvalidation rows"


def test_trials_that_validation_rows_cannot_tell_apart(swept: Results) -> None:
    best, found = swept.best_trial, alike(swept)
    others = [number for number in swept.placed["trial"] if number != best]
    assert set(found) <= set(others)
    for number in others:
        pair = gains(swept, trial=best, pooled=number, split="val", measure="loss", whole=True)
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
    assert study.best_value == swept.table["best_val_loss"].min()
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
    assert bars.get_xlabel() == "share of the variance of\nvalidation nats a row"
    assert (dict(pyplot.rcParams), pyplot.get_fignums()) == before  # the caller's are left alone


def test_the_history_of_the_search_and_slices_of_it(swept: Results) -> None:
    table = figures.history_table(swept.table, "val_loss", "min")
    assert table["trial"].tolist() == [0, 1, 2, 3, 4, 7]
    known = swept.table.set_index("trial")["best_val_loss"]
    assert table["val_loss"].tolist() == known[table["trial"]].tolist()
    placed = table["val_loss"].where(table["status"].isin(["completed", "stopped"]))
    assert table["best"].tolist() == placed.cummin().ffill().tolist()
    (axes,) = figures.history(table, "val_loss", "min").axes
    steps = next(line for line in axes.lines if line.get_label() == "the best so far")
    assert list(steps.get_ydata()) == table["best"].tolist()
    drawn = [axes for axes in figures.slices(swept.study, "val_loss").axes if axes.get_visible()]
    assert [axes.get_xlabel() for axes in drawn] == ["lr", "dropout", "structure", "z_dim"]
    best = swept.placed.iloc[0]
    for axes in drawn:
        (star,) = [line for line in axes.lines if line.get_marker() == "*"] or [None]
        if star is not None:
            assert list(star.get_ydata()) == [best["best_val_loss"]]
    assert list(drawn[0].lines[0].get_xdata()) == [t.params["lr"] for t in swept.study.trials]
    assert len(drawn[3].lines[0].get_xdata()) == 4  # trials without latents drew no width


def test_many_marks_are_a_picture_in_the_svg() -> None:
    made, axes = style.figure()
    axes.plot(range(5000), range(5000), "o", color=style.BLUE, zorder=1)
    axes.plot([0, 5000], [0, 5000], color=style.ORANGE, label="<line>", zorder=3)
    axes.legend()
    drawn = svg(made, "many", "what & why")
    assert len(drawn) < 40_000
    assert drawn.count("<image") == 1
    assert "--cd55e00" in drawn, "what stands out stays a line"
    assert "&lt;line&gt;</text>" in drawn
    assert 'aria-label="what &amp; why"' in drawn
    assert "://" not in drawn
    css = paints(drawn)
    light, dark = css.split("@media screen and (prefers-color-scheme: dark)")
    assert "--cd55e00:#d55e00;" in light
    assert f"--cd55e00:{in_the_dark('d55e00')};" in dark
    assert in_the_dark("ffffff") == "#1a1a1a"


def test_figures_say_why_they_cannot_be_drawn(tmp_path: Path, copy: Path) -> None:
    for folder in copy.glob("trial_*"):
        shutil.rmtree(folder)
    for name in (trials_table.TRIALS, JOURNAL):
        (copy / name).unlink()
    empty = load_sweep(copy)
    assert set(empty.table["status"]) == {"not started"}
    assert (empty.best_trial, empty.pooled_trial, len(empty.epochs)) == (None, None, 0)
    refusals: list[Callable[[], object]] = [
        lambda: figures.use_over_time(empty.table, empty.epochs),
        lambda: figures.importances(empty.study, "val_loss"),
        lambda: figures.group_spread(empty.groups.spread(), empty.groups.read(), "acc"),
        empty.latents,
        lambda: gains(empty),
    ]
    for refusal in refusals:
        with pytest.raises(RunError):
            refusal()
