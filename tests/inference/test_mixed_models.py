"""The linear special case is exact: linear mixed models, against lme4 and the exact likelihood."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import optimize, stats

import hlvnn
from hlvnn.data.grouped import GroupedDataset
from hlvnn.models.model import HierarchicalModel
from hlvnn.training.loop import FitResult

QUICK = hlvnn.TrainConfig(num_epochs=400, batch_size=None, lr=0.05)


@dataclass(frozen=True)
class Fit:
    frame: pd.DataFrame
    model: HierarchicalModel
    result: FitResult

    def estimate(self, part: str, term: str = "") -> float:
        table = self.model.summary()
        (value,) = table.loc[(table["part"] == part) & (table["term"] == term), "estimate"]
        return float(value)


def random_slopes(level: str, prior: str = "learned_full") -> hlvnn.ModelConfig:
    return hlvnn.ModelConfig(
        backbone="linear",
        likelihood="gaussian",
        latents=[
            hlvnn.LatentConfig(
                level=level,
                stage="output",
                placement="weights",
                posterior="full_rank",
                prior=prior,
            )
        ],
    )


def random_intercept(level: str) -> hlvnn.ModelConfig:
    entry = hlvnn.LatentConfig(level=level, stage="output", placement="bias", prior="learned")
    return hlvnn.ModelConfig(backbone="linear", likelihood="gaussian", latents=[entry])


def fitted(
    frame: pd.DataFrame,
    config: hlvnn.ModelConfig,
    *,
    train: hlvnn.TrainConfig = QUICK,
    **columns: Any,
) -> Fit:
    data = GroupedDataset.from_frame(frame, **columns)
    model = hlvnn.build_model(config, data, seed=0)
    return Fit(frame, model, hlvnn.fit(model, data, train))


def computed(shared: Path, name: str) -> dict[str, Any]:
    """Return a fit that lme4 computed for us."""
    fits = json.loads((shared / "data/grouped/published_fits.json").read_text())["computed"]
    (found,) = (one for one in fits if one["id"] == name)
    return found


# sleepstudy, as the design writes it

SLEEP = {"target": "Reaction", "features": ["Days"], "groups": ["Subject"]}


@pytest.fixture(scope="module")
def sleep_frame(shared: Path) -> pd.DataFrame:
    return pd.read_csv(shared / "data/grouped/sleepstudy.csv.gz")


@pytest.fixture(scope="module")
def sleepstudy(sleep_frame: pd.DataFrame) -> Fit:
    frame = sleep_frame
    data = hlvnn.GroupedDataset.from_frame(
        frame, target="Reaction", features=["Days"], groups=["Subject"]
    )
    model_config = hlvnn.ModelConfig(
        backbone="linear",
        likelihood="gaussian",
        latents=[
            hlvnn.LatentConfig(
                level="Subject",
                stage="output",
                placement="weights",
                posterior="full_rank",
                prior="learned_full",
            )
        ],
    )
    model = hlvnn.build_model(model_config, data, seed=0)
    result = hlvnn.fit(model, data, hlvnn.TrainConfig(num_epochs=2000, batch_size=None, lr=0.05))
    return Fit(frame, model, result)


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


# simulated, without any file

TERMS = ("(Intercept)", "dose", "visit")


def simulated(groups: int = 40) -> pd.DataFrame:
    """Return rows of uneven groups with random intercepts and slopes of two features."""
    random = np.random.default_rng(0)
    sizes = random.integers(2, 16, groups)
    label = np.repeat([f"ward {number:02d}" for number in range(groups)], sizes)
    dose, visit = random.uniform(0, 30, sizes.sum()), random.integers(0, 7, sizes.sum())
    covariance = np.array([[25.0, -0.5, 0.0], [-0.5, 0.16, 0.0], [0.0, 0.0, 4.0]])
    effects = random.multivariate_normal([100, 0.5, -1.0], covariance, groups).repeat(sizes, axis=0)
    y = effects[:, 0] + effects[:, 1] * dose + effects[:, 2] * visit
    y += random.normal(0, 3.0, len(y))
    frame = pd.DataFrame({"y": y, "dose": dose, "visit": visit, "ward": label})
    return frame.sample(frac=1, random_state=1).reset_index(drop=True)  # rows in any order


def marginal_log_likelihood(
    frame: pd.DataFrame, beta: np.ndarray, prior: np.ndarray, noise: float
) -> float:
    """Return Σ_groups log N(y_g; X_g β, X_g T X_gᵀ + σ² I), by scipy."""
    total = 0.0
    for _, rows in frame.groupby("ward"):
        design = np.column_stack([np.ones(len(rows)), rows["dose"], rows["visit"]])
        covariance = design @ prior @ design.T + noise**2 * np.eye(len(rows))
        total += stats.multivariate_normal(design @ beta, covariance).logpdf(rows["y"])
    return total


def maximum_likelihood(frame: pd.DataFrame) -> tuple[float, np.ndarray, np.ndarray, float]:
    """Return the largest log likelihood with its β, T and σ, by a search over L and log σ.

    β is profiled out by generalised least squares; columns are scaled for the search.
    """
    scale = np.array([1.0, frame["dose"].std(), frame["visit"].std()])
    unit = frame["y"].std()
    parts = [
        (
            np.column_stack([np.ones(len(rows)), rows["dose"], rows["visit"]]) / scale,
            rows["y"] / unit,
        )
        for _, rows in frame.groupby("ward")
    ]
    row, column = np.tril_indices(3)

    def laws(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        factor = np.zeros((3, 3))
        factor[row, column] = theta[:6]
        covariances = [
            x @ factor @ factor.T @ x.T + np.exp(2 * theta[6]) * np.eye(len(x)) for x, _ in parts
        ]
        left = sum(
            x.T @ np.linalg.solve(v, x) for (x, _), v in zip(parts, covariances, strict=True)
        )
        right = sum(
            x.T @ np.linalg.solve(v, y) for (x, y), v in zip(parts, covariances, strict=True)
        )
        return np.linalg.solve(left, right), factor, covariances

    def minus_log_likelihood(theta: np.ndarray) -> float:
        beta, _, covariances = laws(theta)
        total = 0.0
        for (x, y), v in zip(parts, covariances, strict=True):
            gap = y - x @ beta
            total += np.linalg.slogdet(2 * np.pi * v)[1] + gap @ np.linalg.solve(v, gap)
        return 0.5 * total

    start = np.array([0.3, 0, 0.3, 0, 0, 0.3, np.log(0.3)])
    found = optimize.minimize(minus_log_likelihood, start, method="BFGS")
    beta, factor, _ = laws(found.x)
    prior = unit**2 * (factor @ factor.T) / np.outer(scale, scale)
    log_likelihood = -found.fun - len(frame) * np.log(unit)
    return log_likelihood, unit * beta / scale, prior, unit * np.exp(found.x[6])


@pytest.fixture(scope="module")
def wards() -> Fit:
    columns = {"target": "y", "features": ["dose", "visit"], "groups": ["ward"]}
    return fitted(simulated(), random_slopes("ward"), **columns)


def estimates(fit: Fit) -> tuple[np.ndarray, np.ndarray, float]:
    """Return β, T and σ as the summary tells them."""
    beta = np.array([fit.estimate("fixed", term) for term in TERMS])
    sd = np.array([fit.estimate("prior sd", term) for term in TERMS])
    correlation = np.eye(3)
    for i in range(3):
        for j in range(i):
            value = fit.estimate("prior correlation", f"{TERMS[j]}, {TERMS[i]}")
            correlation[i, j] = correlation[j, i] = value
    return beta, np.outer(sd, sd) * correlation, fit.estimate("noise sd")


def test_the_elbo_is_the_exact_marginal_likelihood_of_the_reported_estimates(wards: Fit) -> None:
    exact = marginal_log_likelihood(wards.frame, *estimates(wards))
    assert wards.result.elbo == pytest.approx(exact, abs=0.02)


def test_the_largest_elbo_is_the_largest_likelihood(wards: Fit) -> None:
    best, beta, prior, noise = maximum_likelihood(wards.frame)
    assert best == pytest.approx(
        marginal_log_likelihood(wards.frame, beta, prior, noise), abs=1e-6
    ), "the search is wrong"
    assert -2 * wards.result.elbo == pytest.approx(-2 * best, abs=0.05)
    got_beta, got_prior, got_noise = estimates(wards)
    np.testing.assert_allclose(got_beta, beta, rtol=2e-3)
    assert got_noise == pytest.approx(noise, rel=2e-3)
    size = np.sqrt(np.outer(np.diag(prior), np.diag(prior)))
    np.testing.assert_allclose(got_prior / size, prior / size, atol=5e-3)


def test_slopes_of_chosen_columns_are_the_exact_model(wards: Fit) -> None:
    """`visit` has slopes, `dose` only its fixed effect: T without a row for dose."""
    entry = hlvnn.LatentConfig(
        level="ward",
        stage="output",
        placement="weights",
        columns=("visit",),
        posterior="full_rank",
        prior="learned_full",
    )
    config = hlvnn.ModelConfig(backbone="linear", likelihood="gaussian", latents=[entry])
    columns = {"target": "y", "features": ["dose", "visit"], "groups": ["ward"]}
    fit = fitted(wards.frame, config, **columns)
    posterior = fit.model.posterior("ward")
    assert [name for name in posterior if name.startswith("mean_")] == [
        "mean_(Intercept)",
        "mean_visit",
    ]
    beta = np.array([fit.estimate("fixed", term) for term in TERMS])
    sd = np.array([fit.estimate("prior sd", "(Intercept)"), 0, fit.estimate("prior sd", "visit")])
    correlation = np.eye(3)
    correlation[0, 2] = correlation[2, 0] = fit.estimate("prior correlation", "(Intercept), visit")
    prior = np.outer(sd, sd) * correlation
    exact = marginal_log_likelihood(fit.frame, beta, prior, fit.estimate("noise sd"))
    assert fit.result.elbo == pytest.approx(exact, abs=0.02)
    assert fit.result.elbo < wards.result.elbo


def test_every_groups_posterior_is_the_exact_one(wards: Fit) -> None:
    beta, prior, noise = estimates(wards)
    table = wards.model.posterior("ward").set_index("ward")
    for label, rows in wards.frame.groupby("ward"):
        design = np.column_stack([np.ones(len(rows)), rows["dose"], rows["visit"]])
        covariance = np.linalg.inv(np.linalg.inv(prior) + design.T @ design / noise**2)
        mean = covariance @ design.T @ (rows["y"] - design @ beta) / noise**2
        sd = np.sqrt(np.diag(covariance))
        got = table.loc[label]
        assert got["rows"] == len(rows)
        np.testing.assert_allclose(
            got[[f"sd_{term}" for term in TERMS]].astype(float), sd, rtol=0.03
        )
        gap = got[[f"mean_{term}" for term in TERMS]].to_numpy(dtype=float) - mean
        assert (np.abs(gap) < 0.02 * sd).all(), label


def test_minibatches_come_as_close_to_the_exact_likelihood() -> None:
    train = hlvnn.TrainConfig(num_epochs=100, batch_size=32, lr=0.02)
    columns = {"target": "y", "features": ["dose", "visit"], "groups": ["ward"]}
    whole = fitted(simulated(), random_intercept("ward"), **columns)
    parts = fitted(simulated(), random_intercept("ward"), train=train, **columns)
    for fit in (whole, parts):
        beta = np.array([fit.estimate("fixed", term) for term in TERMS])
        prior = np.diag([fit.estimate("prior sd", "(Intercept)") ** 2, 0, 0])
        exact = marginal_log_likelihood(fit.frame, beta, prior, fit.estimate("noise sd"))
        assert exact - 0.5 < fit.result.elbo < exact + 0.01
    assert parts.result.elbo == pytest.approx(whole.result.elbo, abs=0.5)
    assert parts.estimate("noise sd") == pytest.approx(whole.estimate("noise sd"), rel=0.02)


def test_slopes_beside_a_network_are_per_unit_of_their_column() -> None:
    frame = simulated()
    data = GroupedDataset.from_frame(frame, "y", ["dose", "visit"], ["ward"])
    entry = hlvnn.LatentConfig.from_text(
        "weights@output:columns=visit,dose level=ward posterior=point prior=none"
    )
    config = hlvnn.ModelConfig(backbone="mlp", hidden=(3,), skip=True, latents=[entry])
    model = hlvnn.build_model(config, data, seed=0)
    without = hlvnn.predict(model, frame)["mean"]
    (table,) = next(iter(model.latents)).tables()
    with torch.no_grad():
        table.normal_(generator=torch.Generator().manual_seed(0))
    means = model.posterior("ward").set_index("ward").loc[frame["ward"]].reset_index()
    gained = means["mean_(Intercept)"] + means["mean_visit"] * frame["visit"]
    gained += means["mean_dose"] * frame["dose"]
    np.testing.assert_allclose(hlvnn.predict(model, frame)["mean"] - without, gained, atol=1e-4)


def test_two_levels_are_summarised_by_name() -> None:
    frame = simulated().assign(clinic=lambda f: f["ward"].str[-1])
    entries = [
        hlvnn.LatentConfig(level=level, stage="output", placement="bias", prior="learned")
        for level in ("ward", "clinic")
    ]
    config = hlvnn.ModelConfig(backbone="linear", latents=entries)
    train = QUICK.model_copy(update={"num_epochs": 5})
    columns = {"target": "y", "features": ["dose", "visit"], "groups": ["ward", "clinic"]}
    fit = fitted(frame, config, train=train, **columns)
    table = fit.model.summary()
    assert table.loc[table["part"] == "prior sd", "level"].tolist() == ["ward", "clinic"]
    assert len(fit.model.posterior("ward")) == 40
    assert fit.model.posterior("clinic")["clinic"].tolist() == list("0123456789")
    assert fit.model.posterior("clinic")["rows"].sum() == len(frame)
