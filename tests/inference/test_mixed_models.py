"""Linear mixed models of published data: lme4's estimates, modes and likelihood."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import hlvnn
from hlvnn.data.grouped import GroupedDataset
from tests.inference.linear import SLEEP, Fit, fitted, random_intercept, random_slopes


def computed(shared: Path, name: str) -> dict[str, Any]:
    """Return a fit that lme4 computed for us."""
    fits = json.loads((shared / "data/grouped/published_fits.json").read_text())["computed"]
    (found,) = (one for one in fits if one["id"] == name)
    return found


pytestmark = pytest.mark.xdist_group("sleepstudy")  # one fit serves it and the README's test


@pytest.fixture(scope="module")
def sleep_frame(shared: Path) -> pd.DataFrame:
    return pd.read_csv(shared / "data/grouped/sleepstudy.csv.gz")


@pytest.fixture(scope="module")
def sleepstudy(readme_example: dict[str, Any]) -> Fit:
    """Return the fit of the README, as a user writes it."""
    return Fit(*(readme_example[name] for name in ("frame", "model", "result")))


@pytest.mark.data
def test_sleepstudys_elbo_is_lme4s_log_likelihood(sleepstudy: Fit) -> None:
    assert isinstance(sleepstudy.result.elbo, float)
    assert sleepstudy.result.elbo_error == 0
    assert -2 * sleepstudy.result.elbo == pytest.approx(1751.9393, abs=0.05)


@pytest.mark.data
def test_sleepstudys_estimates_are_lme4s(sleepstudy: Fit) -> None:
    assert sleepstudy.estimate("fixed", "(Intercept)") == pytest.approx(251.405, rel=1e-3)
    assert sleepstudy.estimate("fixed", "Days") == pytest.approx(10.467, rel=1e-3)
    assert sleepstudy.estimate("prior sd", "(Intercept)") == pytest.approx(23.78, rel=5e-3)
    assert sleepstudy.estimate("prior sd", "Days") == pytest.approx(5.717, rel=5e-3)
    correlation = sleepstudy.estimate("prior correlation", "(Intercept), Days")
    assert correlation == pytest.approx(0.081, abs=0.01)
    assert sleepstudy.estimate("noise sd") == pytest.approx(25.59, rel=3e-3)


@pytest.mark.data
def test_sleepstudys_posteriors_are_lme4s_conditional_modes(sleepstudy: Fit, shared: Path) -> None:
    expected = computed(shared, "sleepstudy_slope_ml")["ranef"]["Subject"]
    table = sleepstudy.model.posterior("Subject")
    assert table["Subject"].tolist() == [int(label) for label in expected["levels"]]
    assert table["rows"].tolist() == [10] * 18
    modes, spreads = np.array(expected["mode"]), np.array(expected["cond_sd"])
    for column, term in enumerate(expected["terms"]):
        mean, sd = table[f"mean_{term}"].to_numpy(), table[f"sd_{term}"].to_numpy()
        assert (np.abs(mean - modes[:, column]) < 0.02 * spreads[:, column]).all()
        np.testing.assert_allclose(sd, spreads[:, column], rtol=0.01)


def exact_prediction(fit: Fit, known: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and variance of E[y] at the first subject's rows, by the textbook formulas.

    With X = [1, Days] and random effects N(0, T): given the subject's own rows the effects have
    covariance (T⁻¹ + XᵀX/σ²)⁻¹; for a subject never seen they have T.
    """
    own = fit.frame[fit.frame["Subject"] == fit.frame["Subject"].iloc[0]]
    design = np.column_stack([np.ones(len(own)), own["Days"]])
    sd = np.array([fit.estimate("prior sd", term) for term in ("(Intercept)", "Days")])
    correlation = fit.estimate("prior correlation", "(Intercept), Days")
    prior = np.outer(sd, sd) * np.array([[1, correlation], [correlation, 1]])
    noise = fit.estimate("noise sd") ** 2
    fixed = design @ [fit.estimate("fixed", term) for term in ("(Intercept)", "Days")]
    if not known:
        return fixed, np.einsum("ni,ij,nj->n", design, prior, design)
    covariance = np.linalg.inv(np.linalg.inv(prior) + design.T @ design / noise)
    effects = covariance @ design.T @ (own["Reaction"] - fixed) / noise
    return fixed + design @ effects, np.einsum("ni,ij,nj->n", design, covariance, design)


@pytest.mark.data
@pytest.mark.parametrize("known", [True, False], ids=["a known subject", "a new subject"])
def test_predictions_have_the_exact_mean_and_variance(sleepstudy: Fit, known: bool) -> None:
    rows = sleepstudy.frame[sleepstudy.frame["Subject"] == 308].drop(columns="Reaction")
    rows = rows if known else rows.assign(Subject=999)
    samples = 4000
    table = hlvnn.predict(sleepstudy.model, rows, num_samples=samples)
    assert table.index.equals(rows.index)
    mean, variance = exact_prediction(sleepstudy, known)
    assert (np.abs(table["mean"] - mean) < 5 * np.sqrt(variance / samples)).all()
    np.testing.assert_allclose(table["sd_mean"], np.sqrt(variance), rtol=0.06)
    total = np.sqrt(variance + sleepstudy.estimate("noise sd") ** 2)
    np.testing.assert_allclose(table["sd"], total, rtol=0.06)


@pytest.mark.data
def test_a_frame_may_mix_known_and_new_subjects(sleepstudy: Fit) -> None:
    rows = sleepstudy.frame.iloc[[5, 5]].assign(Subject=[308, 1])
    known, new = hlvnn.predict(sleepstudy.model, rows, num_samples=2000)["sd_mean"]
    assert new > 1.5 * known


@pytest.mark.data
def test_absurd_units_give_the_same_fit(sleep_frame: pd.DataFrame, sleepstudy: Fit) -> None:
    frame = sleep_frame.assign(
        Days=sleep_frame["Days"] * 1e6, Reaction=sleep_frame["Reaction"] / 1e6
    )
    fit = fitted(frame, random_slopes("Subject"), **SLEEP)
    jacobian = len(frame) * np.log(1e6)
    assert -2 * (fit.result.elbo - jacobian) == pytest.approx(1751.9393, abs=0.05)
    for part, term, unit in [
        ("fixed", "(Intercept)", 1e6),
        ("fixed", "Days", 1e12),
        ("prior sd", "(Intercept)", 1e6),
        ("prior sd", "Days", 1e12),
        ("prior correlation", "(Intercept), Days", 1),
        ("noise sd", "", 1e6),
    ]:
        expected = sleepstudy.estimate(part, term)
        assert unit * fit.estimate(part, term) == pytest.approx(expected, rel=2e-3)
    mine, theirs = fit.model.posterior("Subject"), sleepstudy.model.posterior("Subject")
    gap = 1e12 * mine["mean_Days"] - theirs["mean_Days"]
    assert (gap.abs() < 0.02 * theirs["sd_Days"]).all()


@pytest.mark.data
def test_shifting_a_feature_moves_only_the_intercept(
    sleep_frame: pd.DataFrame, sleepstudy: Fit
) -> None:
    """A full prior covariance does not mind where a feature's zero is."""
    frame = sleep_frame.assign(Days=sleep_frame["Days"] + 3)
    fit = fitted(frame, random_slopes("Subject"), **SLEEP)
    assert -2 * fit.result.elbo == pytest.approx(1751.9393, abs=0.05)
    slope = sleepstudy.estimate("fixed", "Days")
    assert fit.estimate("fixed", "Days") == pytest.approx(slope, rel=1e-3)


@pytest.mark.data
def test_labels_that_are_text_are_kept(sleep_frame: pd.DataFrame) -> None:
    frame = sleep_frame.assign(Subject="no. " + sleep_frame["Subject"].astype(str))
    data = GroupedDataset.from_frame(frame, **SLEEP)
    table = hlvnn.build_model(random_slopes("Subject"), data).posterior("Subject")
    assert table["Subject"].tolist()[:2] == ["no. 308", "no. 309"]


@pytest.mark.data
def test_uncorrelated_slopes_are_lme4s(sleep_frame: pd.DataFrame, shared: Path) -> None:
    """Features are scaled and never centred: centred they would give 1762.44."""
    fit = fitted(sleep_frame, random_slopes("Subject", prior="learned"), **SLEEP)
    expected = computed(shared, "sleepstudy_uncorrelated_ml")
    assert -2 * fit.result.elbo == pytest.approx(expected["criterion"]["value"], abs=0.05)
    assert fit.estimate("noise sd") == pytest.approx(expected["sigma"], rel=1e-3)


@pytest.mark.filterwarnings("ignore:Initializing zero-element")  # a model without features
@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "file", "columns"),
    [
        ("sleepstudy_intercept_ml", "sleepstudy", SLEEP),
        ("dyestuff_ml", "Dyestuff", {"target": "Yield", "features": [], "groups": ["Batch"]}),
        (
            "exam_intercept_ml",
            "Exam",
            {"target": "normexam", "features": ["standLRT"], "groups": ["school"]},
        ),
    ],
)
def test_random_intercepts_are_lme4s(
    name: str, file: str, columns: dict[str, Any], shared: Path
) -> None:
    frame = pd.read_csv(shared / f"data/grouped/{file}.csv.gz")
    (level,) = columns["groups"]
    fit = fitted(frame, random_intercept(level), **columns)
    expected = computed(shared, name)
    assert -2 * fit.result.elbo == pytest.approx(expected["criterion"]["value"], abs=0.05)
    assert fit.estimate("noise sd") == pytest.approx(expected["sigma"], rel=1e-3)
    (spread,) = (row["sdcor"] for row in expected["varcorr"] if row["group"] == level)
    assert fit.estimate("prior sd", "(Intercept)") == pytest.approx(spread, rel=5e-3)
    for term, value in expected["fixef"].items():
        assert fit.estimate("fixed", term) == pytest.approx(value, rel=2e-3, abs=1e-4)


@pytest.mark.data
def test_under_a_learned_prior_the_sd_of_a_loaded_latent_is_that_of_its_effect(
    sleep_frame: pd.DataFrame, shared: Path
) -> None:
    """`concat` of width 1 is a random intercept whose scale could lie in A or in the prior."""
    entry = hlvnn.LatentConfig(
        level="Subject", stage="output", placement="concat", width=1, prior="learned"
    )
    config = hlvnn.ModelConfig(backbone="linear", likelihood="gaussian", latents=[entry])
    fit = fitted(sleep_frame, config, **SLEEP)
    expected = computed(shared, "sleepstudy_intercept_ml")
    assert -2 * fit.result.elbo == pytest.approx(1794.0786, abs=0.05)
    assert fit.estimate("prior sd", "z1") == pytest.approx(36.0121, rel=0.01)
    modes = np.array(expected["ranef"]["Subject"]["mode"])[:, 0]
    got = fit.model.posterior("Subject")["mean_z1"].to_numpy()
    np.testing.assert_allclose(np.abs(got), np.abs(modes), atol=0.5)  # A has a sign
