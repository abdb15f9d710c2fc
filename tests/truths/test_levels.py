"""Levels: nested and crossed groups, new ones, years far from 0, a level that does not differ."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import hlvnn
from hlvnn.columns import kl
from hlvnn.errors import HlvnnError
from hlvnn.records import run_folder
from tests.truths import worlds
from tests.truths.asking import EXACT, first_screen, reported, runs, table, trained

ALL = ("--val-fraction", "0", "--test-fraction", "0")
"""Flags: train on all rows."""
CLASS = "bias@output 'level=school class' prior=learned given=school"
SCHOOL = "bias@output level=school prior=learned"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def estimates(folder: str) -> pd.Series[float]:
    summary = hlvnn.load_run(folder).model.summary()
    return summary.set_index(["part", "level", "term"])["estimate"]


def test_classes_in_schools_have_the_variances_of_their_analysis_of_variance(here: Path) -> None:
    truth = worlds.schools(here / "schools.csv", reused=True)
    columns = ("schools.csv", "mark", "school class,school", "hour")
    fit = (*EXACT, *ALL, "--lr", "0.1", "--backbone", "linear", "--latents", CLASS, SCHOOL)
    with pytest.raises(HlvnnError, match=r"school class 1 has rows in 40 groups of school") as bad:
        trained(*table(*columns, *fit))
    remedy = "frame['school'].astype(str) + '/' + frame['school class'].astype(str)"
    assert f"frame['school class'] = {remedy}" in str(bad.value)
    frame = pd.read_csv("schools.csv")
    frame["school class"] = eval(remedy)  # what the message says, as it stands
    frame.to_csv("schools.csv", index=False)
    trained(*table(*columns, *fit))
    found = estimates("results/schools/run")
    # balanced: the maximum of the likelihood is a formula, which a fit to its end must find
    assert found["noise sd", "", ""] == pytest.approx(truth.noise_ml, rel=0.01)
    assert found["prior sd", "school class", "(Intercept)"] == pytest.approx(truth.low_ml, rel=0.03)
    assert found["prior sd", "school", "(Intercept)"] == pytest.approx(truth.high_ml, rel=0.03)
    # standard errors of an SD: of 40 schools 11 %, of 120 classes in them 8 %
    assert truth.high_ml == pytest.approx(truth.high, rel=0.33)
    assert truth.low_ml == pytest.approx(truth.low, rel=0.25)


def test_plain_flags_fit_both_levels_exactly_and_the_report_says_so(here: Path) -> None:
    truth = worlds.schools(here / "schools.csv", reused=False)
    latents = ("--latents", "bias@output 'level=school class'", "bias@output level=school")
    flags = table("schools.csv", "mark", "school class,school", "hour", "--backbone", "linear")
    said = trained(*flags, *ALL, *latents)
    assert "fitted exactly, as a linear mixed model by maximum likelihood" in said
    found = estimates("results/schools/run")
    assert found["noise sd", "", ""] == pytest.approx(truth.noise_ml, rel=1e-3)
    assert found["prior sd", "school class", "(Intercept)"] == pytest.approx(truth.low_ml, rel=1e-3)
    assert found["prior sd", "school", "(Intercept)"] == pytest.approx(truth.high_ml, rel=1e-3)
    trained(
        *table("schools.csv", "mark", "school class,school", "hour", name="second"),
        *latents,
        "--backbone",
        "linear",
    )
    page = first_screen(reported("results/schools"))
    assert "fitted all at once" in page
    assert "train longer" not in page


def test_a_level_whose_name_begins_with_anothers_keeps_its_own_kl(here: Path) -> None:
    worlds.schools(here / "schools.csv", reused=False)
    flags = table("schools.csv", "mark", "school class,school", "hour", "--backbone", "linear")
    trained(*flags, "--latents", CLASS, SCHOOL, "--num-epochs", 2, "--batch-size", "None")
    results = runs("results/schools")
    of = {column: (one.level, one.groups) for column, one in results.latent_columns.items()}
    assert of == {
        kl("school class bias@output"): ("school class", 120),
        kl("school bias@output"): ("school", 40),
    }
    sizes = results.groups.read(level="school", split="test")["gid"].nunique()
    assert sizes == 40
    assert results.groups.read(split="test")["gid"].nunique() == 120
    with pytest.raises(HlvnnError, match="unknown level 'class'"):
        results.groups.read(level="class")
    page = reported("results/schools")
    assert "How each school class fares, over epochs (trial 0)" in page


def test_students_and_teachers_that_cross_have_the_sds_that_were_planted(here: Path) -> None:
    truth = worlds.crossed(here / "marks.csv")
    latents = ("bias@output level=student prior=learned given=teacher",)
    latents += ("bias@output level=teacher prior=learned posterior=joint",)
    columns = ("marks.csv", "mark", "student,teacher", "hour")
    trained(*table(*columns, *EXACT, *ALL, "--backbone", "linear", "--latents", *latents))
    found = estimates("results/marks/run")
    # standard errors of an SD: of 40 students and of 15 teachers 11 % and 18 %, of the noise 3 %
    assert found["prior sd", "student", "(Intercept)"] == pytest.approx(truth.low, rel=0.3)
    assert found["prior sd", "teacher", "(Intercept)"] == pytest.approx(truth.high, rel=0.45)
    assert found["noise sd", "", ""] == pytest.approx(truth.noise, rel=0.1)
    latent = runs("results/marks").latents()
    for level, effects in (("student", truth.low_effects), ("teacher", truth.high_effects)):
        means = latent[latent["level"] == level].set_index("label")["mean"]
        assert np.corrcoef(means, effects[means.index])[0, 1] > 0.95


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, worlds.Effects, str]:
    """Return a run that never saw a quarter of the shops, what was planted, what was printed."""
    root = tmp_path_factory.mktemp("shops")
    with contextlib.chdir(root):
        truth = worlds.shops(root / "shops.csv")
        new = ("--hold-out", "0.25", "--unseen", "prior")
        latents = ("--backbone", "linear", "--latents", "bias@output level=shop prior=learned")
        said = trained(*table("shops.csv", "sales", "shop", "price", *EXACT, *new, *latents))
    return root / "results" / "shops" / "run", truth, said


def test_shops_never_seen_are_as_wrong_as_they_differ_and_the_others_as_the_noise(
    held_out: tuple[Path, worlds.Effects, str],
) -> None:
    folder, truth, said = held_out
    row = run_folder.read_metrics(folder).iloc[-1]
    new = list(hlvnn.load_run(folder).schema.levels[0].new)
    assert len(new) == 15
    assert "test: 300 of 480 rows are of groups without training rows (15 new shop)" in said
    # 45 shops of 14 training rows; 180 known test rows: a standard error of 11 %; of new ones the
    # planted effects are known, and the noise's own error over 300 rows is 8 %, the mean's 13 %
    effects = truth.low_effects[new]
    known, unseen = truth.noise**2 * (1 + 1 / 14), truth.noise**2 + np.square(effects).mean()
    assert row["test_known_mse"] == pytest.approx(known, rel=0.3)
    assert row["test_new_mse"] == pytest.approx(unseen, rel=0.2)
    mixed = (180 * row["test_known_mse"] + 300 * row["test_new_mse"]) / 480
    assert row["test_mse"] == pytest.approx(mixed)
    wide = truth.low**2 + truth.noise**2
    nats = 0.5 * np.log(2 * np.pi * wide) + 0.5 * unseen / wide
    assert row["test_new_loss"] == pytest.approx(nats, abs=0.15)
    rows = pd.read_parquet(folder / "predictions.parquet")
    level = hlvnn.load_run(folder).schema.levels[0]
    is_new = [level.label(gid) in new for gid in rows["shop"]]
    lost = np.square(rows["y"] - rows["prediction"])[is_new]
    assert len(lost) == 300
    assert lost.mean() == pytest.approx(row["test_new_mse"])


def test_known_and_new_shops_are_told_apart_on_the_terminal_and_in_the_report(
    held_out: tuple[Path, worlds.Effects, str],
) -> None:
    folder, _, said = held_out
    row = run_folder.read_metrics(folder).iloc[-1]
    both = row["test_known_mse"], row["test_new_mse"]
    assert f"(known groups {both[0]:.4f}, new {both[1]:.4f})" in said
    page = reported(folder.parent)
    losses = row["test_known_loss"], row["test_new_loss"]
    assert (
        f"test nats a row {row['test_loss']:#.4g} ({losses[0]:#.4g} for groups that have training "
        f"rows, {losses[1]:#.4g} for new ones)"
    ) in first_screen(page)


def test_years_may_be_counted_from_anywhere(here: Path) -> None:
    latents = "weights@output level=child posterior=full_rank prior=learned_full"
    found, elbos = [], []
    for name, first in (("since", 0), ("years", 2011)):
        truth = worlds.growth(here / f"{name}.csv", first)
        flags = table(f"{name}.csv", "height", "child", "year", *EXACT, *ALL)
        trained(*flags, "--backbone", "linear", "--latents", latents)
        found.append(estimates(f"results/{name}/run"))
        result = pd.read_json(f"results/{name}/run/result.json", typ="series")
        elbos.append(-2 * result["elbo"])
    assert elbos[0] == pytest.approx(elbos[1], abs=0.05)
    for part, level in (("fixed", ""), ("prior sd", "child")):
        own, other = (one[part, level, "year"] for one in found)
        assert own == pytest.approx(other, rel=1e-3)
    moved = found[1]["fixed", "", "(Intercept)"] + 2011 * found[1]["fixed", "", "year"]
    assert moved == pytest.approx(found[0]["fixed", "", "(Intercept)"], abs=0.01)
    # a slope's SD of 60 children: a standard error of 9 % beside what 8 rows say of each
    assert found[0]["prior sd", "child", "year"] == pytest.approx(truth.low, rel=0.3)
    assert found[0]["noise sd", "", ""] == pytest.approx(truth.noise, rel=0.12)


def test_a_level_that_does_not_differ_is_at_its_boundary(here: Path) -> None:
    worlds.level_ground(here / "flat.csv")
    flags = table("flat.csv", "y", "shop", "x", *EXACT, *ALL, "--backbone", "linear")
    said = trained(*flags, "--latents", "bias@output level=shop prior=learned")
    assert "shop bias@output: singular fit, its prior variance is at its boundary, 0" in said
    found = estimates("results/flat/run")
    assert found["prior sd", "shop", "(Intercept)"] < 0.1 * found["noise sd", "", ""]
    latents = runs("results/flat").latents()
    assert latents["mean"].abs().max() < 0.01 * found["noise sd", "", ""]
    page = reported("results/flat")
    singular = "latent shop bias@output: singular fit, its prior variance is at its boundary, 0"
    assert singular in runs("results/flat").row(0)["reason"]
    assert f"Beware of it, completed as it is: {singular}" in first_screen(page)
    assert "The latent shop bias@output tells next to nothing of its groups" in page
    assert "It was chosen on training rows, for there are no validation rows" in page
    assert "epoch that was best on training rows" in page
    assert "chosen on validation rows" not in page
