"""`groups.effects`: gains by group and setting are planted, and asked back with their intervals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest

from hlvnn.analysis import load_sweep
from hlvnn.analysis.effects import Effects
from hlvnn.errors import RunError
from hlvnn.records import outcomes
from hlvnn.records.journal import Journal
from tests.analysis.wards import EPOCHS, LATENT, POOLED, WARDS, leave_reference, leave_sweep, truth

BOTH = [POOLED, LATENT]


def found(folder: Path, seed: int, mean: float, sd: float) -> Effects:
    known = truth(seed, mean=mean, sd=sd, site_b=0)
    sweep = leave_sweep(folder, known, BOTH * 3, seed=seed, of_trial=0.02, of_training=0.03)
    return load_sweep(sweep).groups.effects("latent_config")


def test_a_planted_site_is_told_from_the_others_and_gains_are_shrunk(tmp_path: Path) -> None:
    known = truth()
    sweep = leave_sweep(tmp_path / "s", known, BOTH * 3, of_trial=0.02, of_training=0.03)
    sweep_read = load_sweep(sweep)
    effects = sweep_read.groups.effects("latent_config")
    (row,) = effects.settings.itertuples()
    assert (row.value, row.trials) == (LATENT, 3)
    assert row.low < known.gain.mean() < row.high
    assert row.sd_low < known.gain.std() < row.sd_high
    table = effects.groups.merge(known.table, left_on="label", right_on="ward")
    assert len(table) == WARDS
    planted = table["site"] == "B"
    assert (table["low"][planted] > 0.15).all(), "each ward of site B gains for sure"
    assert (table["low"][~planted] < 0.03).all()
    covered = (table["low"] <= known.gain) & (known.gain <= table["high"])
    assert covered.mean() >= 0.85
    whole = table["raw"].mean()
    assert (table["gain"] - whole).abs().mean() < (table["raw"] - whole).abs().mean()
    assert "trials of factor (3), each at its chosen epoch within 3 epochs" in effects.said[0]
    assert "test and val rows of 30 groups" in effects.said[0]
    assert effects.said[0] in repr(effects)
    assert effects.said[0] in effects._repr_html_()


def test_where_nothing_is_planted_nothing_is_found(tmp_path: Path) -> None:
    effects = found(tmp_path / "s", 3, mean=0.0, sd=0.0)
    (row,) = effects.settings.itertuples()
    assert row.low < 0 < row.high
    assert row.sd_low == 0
    assert row.sd_high < 0.06, "the rows' and the trainings' own spread is 0.07"
    assert ((effects.groups["low"] < 0) & (effects.groups["high"] > 0)).all()


@pytest.mark.slow
def test_intervals_cover_what_was_planted(tmp_path: Path) -> None:
    of_groups, of_mean, of_sd = [], [], []
    for seed in range(25):
        known = truth(seed, mean=0.1, sd=0.08, site_b=0)
        effects = found(tmp_path / f"s{seed}", seed, mean=0.1, sd=0.08)
        (row,) = effects.settings.itertuples()
        table = effects.groups
        of_groups.append(((table["low"] <= known.gain) & (known.gain <= table["high"])).mean())
        of_mean.append(row.low <= 0.1 <= row.high)
        of_sd.append(row.sd_low <= 0.08 <= row.sd_high)
    assert 0.90 <= np.mean(of_groups) <= 0.99
    assert np.mean(of_mean) >= 0.84
    assert np.mean(of_sd) >= 0.76


def test_one_trial_each_and_trials_cut_short_are_said_to_tell_less(tmp_path: Path) -> None:
    known = truth()
    results = load_sweep(leave_sweep(tmp_path / "two", known, BOTH))
    said = " ".join(results.groups.effects("latent_config").said)
    assert "what one training of it gains by chance cannot be told apart" in said
    cut = leave_sweep(tmp_path / "cut", known, BOTH * 2, epochs=[EPOCHS, EPOCHS, 1, EPOCHS])
    groups = load_sweep(cut).groups
    short = groups.effects("latent_config")
    assert short.epochs == 1, "so that none is left out"
    assert "3 of 4 trials trained longer, to epoch 3: epochs=…" in " ".join(short.said)
    whole = groups.effects("latent_config", epochs=EPOCHS)
    assert "1 of 4 trials ended before epoch 3 and are left out" in " ".join(whole.said)


def test_groups_scored_on_one_split_are_not_shrunk_and_it_is_said(tmp_path: Path) -> None:
    sweep = leave_sweep(tmp_path / "s", truth(), BOTH * 2)
    for path in sweep.glob("trial_*/training_stats/*.parquet"):
        frame = pd.read_parquet(path)
        frame[frame["split"] == "val"].to_parquet(path, index=False)
    effects = load_sweep(sweep).groups.effects("latent_config")
    assert effects.groups["gain"].isna().all()
    assert effects.groups["raw"].notna().all()
    assert effects.settings["sd"].isna().all()
    assert effects.settings["gain"].iloc[0] == pytest.approx(0.1, abs=0.05)
    assert "cannot be told apart, so nothing is shrunk" in " ".join(effects.said)


def test_what_was_drawn_with_a_setting_cannot_be_told_from_it(tmp_path: Path) -> None:
    sweep = leave_sweep(tmp_path / "s", truth(), BOTH * 4)
    for path in sweep.glob("*.journal"):
        path.unlink()
    journal = Journal.create(sweep, "max")
    journal.study.sampler = optuna.samplers.RandomSampler(seed=0)
    for number, structure in enumerate(BOTH * 4):
        trial = journal.study.ask()
        low = structure == POOLED
        trial.suggest_float("lr", *((0.1, 0.2) if low else (0.3, 0.4)))
        trial.suggest_float("dropout", 0.0, 0.3)
        trial.set_user_attr("trial", number)
        settings = {"latent_config": [structure], "num_epochs": EPOCHS}
        trial.set_user_attr("draw", {"settings": settings, "drawn": {}, "problem": ""})
        journal.study.tell(trial, 0.5)
    groups = load_sweep(sweep).groups
    said = " ".join(groups.effects("latent_config").said)
    assert "drawn otherwise with other values of latent_config: lr (median 0.3" in said
    assert "dropout" not in said
    assert "cannot be told apart here" in said
    thirds = groups.effects("lr")
    assert len(thirds.settings) == 2
    assert "put into thirds of the trials" in " ".join(thirds.said)
    over_pooled = groups.effects("lr", reference="pooled")
    assert over_pooled.reference == "the models without latents"
    assert over_pooled.settings["trials"].sum() == 4


def test_without_a_pooled_trial_the_sweeps_own_references_are_it(tmp_path: Path) -> None:
    sweep = leave_sweep(tmp_path / "s", truth(), [LATENT, LATENT])
    leave_reference(sweep, winner=0)
    effects = load_sweep(sweep).groups.effects("latent_config")
    assert effects.reference == "the models without latents"
    assert effects.settings["trials"].tolist() == [2]
    table = effects.groups.merge(truth().table, left_on="label", right_on="ward")
    means = table.groupby("site")["raw"].mean()
    assert means["B"] - means["A"] == pytest.approx(0.3, abs=0.15)


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    sweep = leave_sweep(tmp_path / "s", truth(), [LATENT, LATENT])
    groups = load_sweep(sweep).groups
    with pytest.raises(RunError, match="all trials have latent_config = factor: nothing can be"):
        groups.effects("latent_config")
    with pytest.raises(RunError, match="unknown setting 'latent_confg'"):
        groups.effects("latent_confg")
    with pytest.raises(RunError, match="no model without latents has ended"):
        groups.effects("lr", reference="pooled")
    with pytest.raises(RunError, match="unknown measure 'auc'"):
        groups.effects("latent_config", measure="auc")
    assert outcomes.trial_folder(sweep, 0).exists()
