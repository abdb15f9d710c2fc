"""Linear mixed models of made-up data, against the exact likelihood and its maximum."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import optimize, stats

import hlvnn
from hlvnn.data.grouped import GroupedDataset
from tests.inference.linear import QUICK, Fit, fitted, random_intercept, random_slopes

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
    train = hlvnn.TrainConfig(num_epochs=100, batch_size=32, lr=0.02, eval_every=100)
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
