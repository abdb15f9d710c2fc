"""Truths planted in tables, asked back from single runs, by commands and from their tables."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import hlvnn
from hlvnn.commands import train_one as train_one_command
from hlvnn.records import run_folder
from hlvnn.records.run_folder import Run
from tests.conftest import Ended
from tests.truths import worlds

Command = Callable[..., Ended]
FULL = ("--batch-size", "None", "--lr", "0.05", "--num-epochs", "400", "--eval-every", "400")
"""Flags of a fit of a linear model, to its end."""


OWN_SLOPES = (
    "--latents",
    "weights@output level=pupil posterior=full_rank prior=learned_full",
)


def table(path: str, target: str, group: str, *features: str) -> tuple[str, ...]:
    flags = ("--dataset", "table", "--table", path, "--target", target, "--groups", group)
    return (*flags, "--features", *features, "--device", "cpu", "--name", "run")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def pupils(tmp_path_factory: pytest.TempPathFactory) -> tuple[worlds.Slopes, Run]:
    """Return what was planted in a table of pupils, and the run of its exact model."""
    root = tmp_path_factory.mktemp("pupils")
    with contextlib.chdir(root):
        truth = worlds.slopes(root / "pupils.csv")
        flags = table("pupils.csv", "score", "pupil", "week")
        assert train_one_command.main([*flags, "--backbone", "linear", *OWN_SLOPES, *FULL]) == 0
    return truth, hlvnn.load_run(root / "results" / "pupils" / "run")


def test_sds_and_a_correlation_are_found(pupils: tuple[worlds.Slopes, Run]) -> None:
    truth, run = pupils
    summary = run.model.summary().set_index(["part", "term"])["estimate"]
    # standard errors with 200 pupils: an SD's is 5 % of it, the correlation's (1 - r²)/√200 = .025
    assert summary["prior sd", "(Intercept)"] == pytest.approx(truth.intercept_sd, rel=0.15)
    assert summary["prior sd", "week"] == pytest.approx(truth.slope_sd, rel=0.15)
    assert summary["prior correlation", "(Intercept), week"] == pytest.approx(0.8, abs=0.08)
    assert summary["noise sd", ""] == pytest.approx(truth.noise, rel=0.06)
    assert summary["fixed", "(Intercept)"] == pytest.approx(truth.intercept, abs=0.45)
    assert summary["fixed", "week"] == pytest.approx(truth.slope, abs=0.22)


def test_a_new_group_is_as_unsure_as_the_world_is_wide(pupils: tuple[worlds.Slopes, Run]) -> None:
    truth, run = pupils
    week = np.array([-2.0, 0.0, 2.0])
    asked = pd.DataFrame({"pupil": "p00", "week": week})
    known = hlvnn.predict(run.model, asked)
    new = hlvnn.predict(run.model, asked.assign(pupil="nobody"))
    slope, between = truth.slope_sd**2, 2 * 0.8 * truth.intercept_sd * truth.slope_sd
    wide = np.sqrt(truth.intercept_sd**2 + between * week + slope * week**2 + truth.noise**2)
    np.testing.assert_allclose(new["sd"], wide, rtol=0.15)
    np.testing.assert_allclose(new["mean"], truth.intercept + truth.slope * week, atol=0.9)
    assert (known["sd"] < 1.3 * truth.noise).all()


def test_intervals_come_true_as_often_as_they_say(
    pupils: tuple[worlds.Slopes, Run], analysis: Command, tmp_path: Path
) -> None:
    folder = pupils[1].folder
    with contextlib.chdir(folder.parents[2]):
        ended = analysis("calibration", folder, "--out", tmp_path / "calibration")
    assert ended.code == 0, ended.err
    rows = pd.read_csv(tmp_path / "calibration.csv").iloc[0]
    for share in (50, 80, 90):  # 400 test rows: a standard error of .025 at most
        assert rows[f"coverage_{share}"] == pytest.approx(share / 100, abs=0.07)
    assert f"{rows['coverage_90']:.3f}" in ended.out


def test_the_neighbours_of_a_shop_are_those_of_its_city(
    here: Path, train_one: Command, analysis: Command
) -> None:
    cities = worlds.clusters(here / "shops.csv")
    flags = table("shops.csv", "sales", "shop", "price")
    latents = "bias@output level=shop prior=learned"
    ended = train_one(*flags, "--backbone", "linear", "--latents", latents, *FULL)
    assert ended.code == 0, ended.err
    for shop in ("s00", "s05"):
        ended = analysis("neighbours", "results/shops/run", "--group", shop, "--k", 3)
        assert ended.code == 0, ended.err
        found = pd.read_csv(f"results/shops/run/figures/neighbours_shop_{shop}.csv")
        assert {cities[near] for near in found["shop"]} == {cities[shop]}
        assert all(near in ended.out for near in found["shop"])


def test_slopes_of_a_wards_own_turn_the_rule_round(here: Path, train_one: Command) -> None:
    worlds.rules(here / "wards.csv")
    flags = (*table("wards.csv", "outcome", "ward", "dose", "age"), "--backbone", "linear")
    fit = ("--lr", "0.05", "--num-epochs", "20", "--batch-size", "100")
    pooled = train_one(*flags[:-3], "pooled", *flags[-2:], *fit)
    assert pooled.code == 0, pooled.err
    latents = "weights@output level=ward posterior=full_rank prior=learned_full"
    own = train_one(*flags, "--latents", latents, *fit)
    assert own.code == 0, own.err
    last = [
        run_folder.read_metrics(Path("results/wards", name)).iloc[-1] for name in ("pooled", "run")
    ]
    assert last[0]["test_acc"] == pytest.approx(0.7 * 0.95 + 0.3 * 0.05, abs=0.06)
    assert last[1]["test_acc"] == pytest.approx(0.95, abs=0.04)
    slopes = hlvnn.load_run("results/wards/run").model.posterior("ward").set_index("ward")
    turned = np.sign(slopes["mean_dose"] - slopes["mean_dose"].median())
    opposite = slopes.index.isin(worlds.REVERSED)
    assert abs(turned[opposite].sum()) == len(worlds.REVERSED)
    groups = pd.read_parquet("results/wards/pooled/training_stats")
    weak = groups[(groups["split"] == "test") & (groups["epoch"] == 20)].nsmallest(3, "acc")
    schema = hlvnn.load_run("results/wards/pooled").schema
    assert {schema.levels[0].label(gid) for gid in weak["gid"]} == set(worlds.REVERSED)
    for ward in worlds.REVERSED:
        assert ward in pooled.out.split("the weakest and the strongest")[-1]
