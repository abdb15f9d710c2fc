"""Generalised linear mixed models, ours beside lme4's and beside quadrature of our own.

    python -m pytest tests/inference/test_generalised_mixed_models.py -s    # prints the estimates

All through `fit` with plain defaults. The posteriors are normal and the true ones are not, so the
maximum of the ELBO is near the maximum likelihood, not at it: the SDs are a little smaller (cbpp
0.6440, not 0.6475).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, special

import hlvnn
from hlvnn.data.grouped import GroupedDataset
from hlvnn.models.model import HierarchicalModel

pytestmark = [pytest.mark.data, pytest.mark.timeout(280)]

TRAIN = hlvnn.TrainConfig(num_epochs=500, batch_size=None, lr=0.1, eval_every=500)
"""Where the posterior is named, and fitted by steps."""


def cbpp(frame: pd.DataFrame) -> dict[str, Any]:
    frame["period"] = frame["period"].astype(str)
    columns = {"features": ["period"], "groups": ["herd"]}
    return {"target": "incidence", "trials": "size", **columns}


def contraception(frame: pd.DataFrame, group: str) -> dict[str, Any]:
    frame["age2"] = frame["age"] ** 2
    frame["urban:district"] = frame["urban"] + ":" + frame["district"].astype(str)
    return {"target": "use", "features": ["age", "age2", "urban", "livch"], "groups": [group]}


def died(frame: pd.DataFrame) -> dict[str, Any]:
    frame["died"] = frame["died"] == 1
    features = ["hmo", "white", "age80", "type"]
    return {"target": "died", "features": features, "groups": ["provnum"]}


Columns = Callable[[pd.DataFrame], dict[str, Any]]
CASES: dict[str, tuple[str, Columns, str, float, float]] = {
    "cbpp": ("cbpp", cbpp, "cbpp_agq25", 0.6475, 0.6440),
    "Contraception, district": (
        "Contraception",
        lambda frame: contraception(frame, "district"),
        "contraception_district_laplace",
        *(0.4786, 0.4783),
    ),
    "Contraception, urban:district": (
        "Contraception",
        lambda frame: contraception(frame, "urban:district"),
        "contraception_urban_district_laplace",
        *(0.5810, 0.5802),
    ),
    "medpar, died": ("medpar", died, "medpar_died_laplace", 0.1834, 0.1833),
}
"""File, columns, lme4's fit; the SD by adaptive quadrature, and by the best normal posteriors."""


def table(shared: Path, name: str) -> pd.DataFrame:
    path = shared / "data" / "grouped" / f"{name}.csv.gz"
    return pd.read_csv(path, dtype={"provnum": str, "type": str} if name == "medpar" else None)


def fit(
    frame: pd.DataFrame,
    likelihood: str | None,
    columns: dict[str, Any],
    posterior: str | None = None,
) -> HierarchicalModel:
    data = GroupedDataset.from_frame(frame, **columns)
    latent = hlvnn.LatentConfig(
        level=columns["groups"][0],
        stage="output",
        placement="bias",
        posterior=posterior,
        prior="learned",
    )
    config = hlvnn.ModelConfig(backbone="linear", likelihood=likelihood, latents=[latent])
    model = hlvnn.build_model(config, data, seed=0)
    result = hlvnn.fit(model, data, TRAIN if posterior else hlvnn.TrainConfig(), lambda *_: None)
    assert result.elbo_error == 0
    assert posterior or (result.epochs == 1 and result.newton_gain < 1e-3)
    return model


def estimates(model: HierarchicalModel) -> tuple[pd.Series[float], float]:
    """Return the fixed effects by term, and the SD of the random intercept."""
    rows = model.summary()
    fixed = rows[rows["part"] == "fixed"].set_index("term")["estimate"]
    (sd,) = rows.loc[rows["part"] == "prior sd", "estimate"]
    return fixed, float(sd)


@cache
def fitted(shared: Path, name: str) -> HierarchicalModel:
    file, columns, *_ = CASES[name]
    frame = table(shared, file)
    return fit(frame, None, columns(frame))


@pytest.mark.parametrize("name", CASES)
def test_the_sd_is_that_of_adaptive_quadrature(name: str, shared: Path) -> None:
    *_, by_quadrature, best_normal = CASES[name]
    _, sd = estimates(fitted(shared, name))
    print(f"\n{name:30s} SD {sd:.4f} (quadrature {by_quadrature}, best normal {best_normal})")
    assert sd == pytest.approx(by_quadrature, rel=0.02)
    assert sd == pytest.approx(best_normal, rel=1e-3)


def test_a_posterior_that_is_named_is_fitted_by_steps_to_the_same(shared: Path) -> None:
    frame = table(shared, "cbpp")
    found = estimates(fit(frame, None, cbpp(frame), "mean_field"))
    expected = estimates(fitted(shared, "cbpp"))
    assert found[1] == pytest.approx(expected[1], rel=2e-3)
    assert (found[0] - expected[0]).abs().max() < 2e-3


TERMS = {"I(age^2)": "age2", "urbanY": "urban[Y]"}
"""lme4's names of terms, where ours are not them with the category in brackets."""


def our_term(term: str) -> str:
    for column in ("period", "livch", "type"):
        if term.startswith(column):
            return f"{column}[{term.removeprefix(column)}]"
    return TERMS.get(term, term)


@pytest.mark.parametrize("name", CASES)
def test_the_fixed_effects_are_lme4s(name: str, shared: Path) -> None:
    fits = json.loads((shared / "data/grouped/published_fits.json").read_text())["computed"]
    (expected,) = (one for one in fits if one["id"] == CASES[name][2])
    fixed, _ = estimates(fitted(shared, name))
    assert set(fixed.index) == {our_term(term) for term in expected["fixef"]}
    errors = {
        term: (fixed[our_term(term)] - value) / expected["fixef_se"][term]
        for term, value in expected["fixef"].items()
    }
    print(f"\n{name:30s} largest error {max(map(abs, errors.values())):.4f} SE")
    for term, error in errors.items():
        assert abs(error) < 0.05, term


# Poisson, beside a maximum likelihood fit that shares nothing with the package


class PoissonByQuadrature:
    """log p(y) of a Poisson model with a random intercept, by adaptive Gauss-Hermite quadrature.

    x: [N, P] with a column of ones; group: [N] 0..G-1.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, group: np.ndarray, points: int = 15) -> None:
        self.x, self.y, self.group = x, y, group
        nodes, weights = np.polynomial.hermite_e.hermegauss(points)
        self.nodes, self.log_weights = nodes, np.log(weights) + nodes**2 / 2
        self.constant = special.gammaln(y + 1).sum()
        self.events = np.bincount(group, y)

    def __call__(self, theta: np.ndarray) -> float:
        """Return −log p(y) at the fixed effects and the log SD."""
        fixed, sd = self.x @ theta[:-1], np.exp(theta[-1])
        exposure = np.bincount(self.group, np.exp(fixed))
        u = np.zeros_like(exposure)
        for _ in range(50):  # Newton's way to each group's mode of u = intercept / sd
            rate = exposure * np.exp(sd * u)
            step = (sd * (self.events - rate) - u) / (1 + sd**2 * rate)
            u += step
            if np.abs(step).max() < 1e-12:
                break
        scale = 1 / np.sqrt(1 + sd**2 * exposure * np.exp(sd * u))
        at = u[:, None] + scale[:, None] * self.nodes  # [G, K]
        log_joint = (
            self.events[:, None] * sd * at
            - exposure[:, None] * np.exp(sd * at)
            - at**2 / 2
            - np.log(2 * np.pi) / 2
        )
        per_group = special.logsumexp(log_joint + self.log_weights, axis=1) + np.log(scale)
        return float(self.constant - self.y @ fixed - per_group.sum())

    def hessian(self, theta: np.ndarray, step: float = 1e-3) -> np.ndarray:
        """Return the second derivatives by central differences."""
        moves = step * np.eye(len(theta))
        return np.array(
            [
                [
                    self(theta + a + b) - self(theta + a - b) - self(theta - a + b)
                    + self(theta - a - b)
                    for b in moves
                ]
                for a in moves
            ]
        ) / (4 * step**2)  # fmt: skip


@cache
def length_of_stay(shared: Path) -> HierarchicalModel:
    frame = table(shared, "medpar")
    columns = {"features": ["hmo", "white", "type"], "groups": ["provnum"]}
    return fit(frame, "poisson", {"target": "los", **columns})


def test_a_poisson_model_is_that_of_adaptive_quadrature(shared: Path) -> None:
    frame = table(shared, "medpar")
    fixed, sd = estimates(length_of_stay(shared))
    kinds = (frame["type"] == "2", frame["type"] == "3")
    x = np.column_stack([np.ones(len(frame)), frame["hmo"], frame["white"], *kinds]).astype(float)
    group = pd.factorize(frame["provnum"])[0]
    y = frame["los"].to_numpy(dtype=float)
    by_quadrature = PoissonByQuadrature(x, y, group)
    start = np.array([np.log(y.mean()), 0, 0, 0, 0, np.log(0.3)])
    found = optimize.minimize(by_quadrature, start, method="BFGS", options={"gtol": 1e-3})
    errors = np.sqrt(np.diag(np.linalg.inv(by_quadrature.hessian(found.x))))
    ours = fixed.loc[["(Intercept)", "hmo", "white", "type[2]", "type[3]"]].to_numpy()
    apart = (ours - found.x[:-1]) / errors[:-1]
    print(f"\nmedpar, los: SD {sd:.4f} ({np.exp(found.x[-1]):.4f}), in SEs {apart.round(4)}")
    assert np.abs(found.jac).max() < 0.01
    finer = PoissonByQuadrature(x, y, group, points=31)
    assert finer(found.x) == pytest.approx(found.fun, abs=1e-6)
    assert sd == pytest.approx(np.exp(found.x[-1]), rel=0.02)
    assert (np.abs(apart) < 0.05).all()


def test_poissons_intercept_and_predictions_are_in_the_users_units(shared: Path) -> None:
    frame = table(shared, "medpar")
    model = length_of_stay(shared)
    fixed, _ = estimates(model)
    row = frame.iloc[0]
    hospital = model.posterior("provnum").set_index("provnum").loc[row["provnum"]]
    log_rate = fixed["(Intercept)"] + fixed["hmo"] * row["hmo"] + fixed["white"] * row["white"]
    log_rate += hospital["mean_(Intercept)"] + hospital["sd_(Intercept)"] ** 2 / 2
    assert row["type"] == "1"
    predicted = hlvnn.predict(model, frame.iloc[:1].drop(columns="los"), num_samples=4000)
    assert float(predicted["mean"].iloc[0]) == pytest.approx(np.exp(log_rate), rel=0.01)
