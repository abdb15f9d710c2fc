"""Worlds whose probabilities are known: of classes by group, of counts, of successes out of trials.

Each is asked back from predictions.parquet, the calibration's table, and closed forms.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression, PoissonRegressor

import hlvnn
from hlvnn.data.grouped import GroupedDataset
from hlvnn.records.predictions import PREDICTIONS
from hlvnn.records.run_folder import Run
from tests.truths import worlds
from tests.truths.asking import COUNTED, EXACT, analysed, first_screen, reported, table, trained

POINT = "posterior=point prior=none"
"""A parameter of each group, with no prior: plain maximum likelihood."""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def scored(run: Run) -> pd.DataFrame:
    rows = pd.read_parquet(run.folder / PREDICTIONS)
    return rows[rows["split"] == "test"].reset_index(drop=True)


def rows_of(data: GroupedDataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return x, gid and y of the training rows."""
    train = data.train
    return train.x.all().numpy(), train.groups[:, 0].numpy(), train.y.numpy()


def test_each_clinics_probability_is_the_planted_one() -> None:
    truth = worlds.clinics(Path("clinics.csv"))
    flags = table("clinics.csv", "cured", "clinic", "age", *EXACT, "--backbone", "linear")
    latents = "bias@output level=clinic prior=learned"
    trained(*flags, "--likelihood", "bernoulli", "--latents", latents, "--test-fraction", 0.4)
    run = hlvnn.load_run("results/clinics/run")
    labels = run.schema.levels[0].labels
    assert labels is not None
    planted = truth[list(labels)].to_numpy()
    rows = scored(run)
    given = rows["log_prob"].map(np.exp)
    yes = given.where(rows["y"] == 1, 1 - given).groupby(rows["clinic"]).mean()
    # 54 training rows a clinic; shrunk towards the others, so at most as far off as the raw shares
    z = (yes.to_numpy() - planted) / np.sqrt(planted * (1 - planted) / 54)
    assert np.square(z).mean() < 1.9  # 24 clinics: a standard error of .29 around 1
    assert np.abs(z).max() < 3.3
    assert (rows["prediction"] == (given.where(rows["y"] == 1, 1 - given) > 0.5)).all()
    # the loss of whoever knows the probabilities is their entropy
    chance = planted[rows["clinic"]]
    entropy = -(chance * np.log(chance) + (1 - chance) * np.log(1 - chance)).mean()
    assert -rows["log_prob"].mean() == pytest.approx(entropy, abs=0.06)
    said = analysed("calibration", "results/clinics/run")
    scores = pd.read_csv("results/clinics/run/figures/calibration_test.csv")
    assert scores["confidence"][0] == pytest.approx(
        np.maximum(planted, 1 - planted).mean(), abs=0.04
    )
    assert scores["acc"][0] == pytest.approx((rows["y"] == rows["prediction"]).mean(), abs=0.005)
    assert f"{scores['acc'][0]:.3f}" in said
    page = first_screen(reported("results/clinics"))
    assert "The best trial's probabilities are honest" in page


def test_fields_have_the_rates_of_a_poisson_regression() -> None:
    truth = worlds.slugs(Path("slugs.csv"))
    flags = (*EXACT, "--backbone", "linear", "--target-kind", "count", "--val-fraction", 0)
    said = trained(*table("slugs.csv", "slugs", "field", "rain", *flags, name="pooled"))
    assert "target: slugs, a count" in said
    latents = f"bias@output level=field {POINT}"
    trained(*table("slugs.csv", "slugs", "field", "rain", *flags, "--latents", latents))
    pooled, run = (hlvnn.load_run(f"results/slugs/{name}") for name in ("pooled", "run"))
    x, gid, y = rows_of(run.data)
    settings = {"alpha": 0, "max_iter": 5000, "tol": 1e-10}
    plain = PoissonRegressor(**settings).fit(x, y)
    fixed = pooled.model.summary().set_index("term")["estimate"]
    assert fixed["(Intercept)"] == pytest.approx(plain.intercept_, abs=1e-4)
    assert fixed["rain"] == pytest.approx(plain.coef_[0], abs=1e-4)
    own = PoissonRegressor(fit_intercept=False, **settings).fit(np.c_[x, np.eye(12)[gid]], y)
    fixed = run.model.summary().set_index("term")["estimate"]
    logs = fixed["(Intercept)"] + run.model.posterior("field")["mean_(Intercept)"].to_numpy()
    assert fixed["rain"] == pytest.approx(own.coef_[0], abs=1e-3)
    np.testing.assert_allclose(logs, own.coef_[1:], atol=2e-3)
    # a log rate's standard error is 1/√(slugs seen there)
    seen = np.bincount(gid, weights=y)
    assert (np.abs(logs - truth.to_numpy()) < 3.5 / np.sqrt(seen)).all()
    rows = scored(run)
    np.testing.assert_allclose(rows["y"], rows["y"].round())
    page = first_screen(reported("results/slugs"))
    counted = COUNTED.search(page)
    assert counted is not None
    assert int(counted[1]) >= 3, "10 rows a field; by chance 0.3 of 12 would"
    assert int(counted[2]) <= 1


def test_herds_have_the_odds_of_a_logistic_regression_of_all_their_animals() -> None:
    truth = worlds.herds(Path("herds.csv"))
    flags = (*EXACT, "--backbone", "linear", "--trials", "animals", "--val-fraction", 0)
    latents = f"bias@output level=herd {POINT}"
    said = trained(*table("herds.csv", "ill", "herd", "age", *flags, "--latents", latents))
    assert "target: ill, successes out of animals" in said
    run = hlvnn.load_run("results/herds/run")
    x, gid, y = rows_of(run.data)
    design = np.tile(np.c_[x, np.eye(10)[gid]], (2, 1))
    ill, animals = y[:, 0], y[:, 1]
    outcome = np.repeat([1, 0], len(y))
    weight = np.r_[ill, animals - ill]
    logistic = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10, max_iter=5000)
    logistic.fit(design, outcome, sample_weight=weight)
    fixed = run.model.summary().set_index("term")["estimate"]
    odds = fixed["(Intercept)"] + run.model.posterior("herd")["mean_(Intercept)"].to_numpy()
    np.testing.assert_allclose(odds, logistic.coef_[0, 1:], atol=5e-3)
    assert fixed["age"] == pytest.approx(logistic.coef_[0, 0], abs=1e-3)
    share = 1 / (1 + np.exp(-truth.to_numpy()))
    error = 1 / np.sqrt(np.bincount(gid, weights=animals) * share * (1 - share))
    assert (np.abs(odds - truth.to_numpy()) < 3.5 * error).all()
    rows = scored(run)
    assert rows["y"].between(0, 1).all()
    told = rows.groupby("herd")["prediction"].mean().to_numpy()
    np.testing.assert_allclose(told, 1 / (1 + np.exp(-odds)), atol=0.01)
    analysed("calibration", "results/herds/run")
    covered = pd.read_csv("results/herds/run/figures/calibration_test.csv").iloc[0]
    for level in (50, 80, 90):  # 80 rows: a standard error of .056; intervals of counts are wider
        assert level / 100 - 0.12 < covered[f"coverage_{level}"] < level / 100 + 0.18
