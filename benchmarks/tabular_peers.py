"""What `tabular.py` sets beside our networks and fits itself: mixed models and CatBoost.

Nothing here is ours but the calls: the mixed models are statsmodels' (random slopes of one kind of
group, with every covariance) and GPBoost's (random intercepts, of several kinds crossed), both by
maximum likelihood. `pip install -e '.[comparisons]'` brings all three.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Mixed:
    """A fitted mixed model: its −2 log likelihood, whether its optimiser converged, predictions."""

    deviance: float
    converged: bool
    predicted: np.ndarray


def scaled(train: pd.DataFrame, rows: pd.DataFrame, columns: list[str]) -> np.ndarray:
    """Return 1 and the columns [rows, 1 + columns], centred and scaled as in the training rows."""
    mean, sd = train[columns].mean(), train[columns].std()
    values = ((rows[columns] - mean) / sd).to_numpy(float)
    return np.column_stack([np.ones(len(rows)), values])


def independent(columns: pd.DataFrame) -> list[str]:
    """Return the names of columns that are no combination of those before them and of 1."""
    varied = [name for name in columns if columns[name].nunique() > 1]
    values = scaled(columns, columns, varied)
    diagonal = np.abs(np.diag(np.linalg.qr(values / np.sqrt(len(values)), mode="r")))
    return [name for name, size in zip(varied, diagonal[1:], strict=True) if size > 1e-6]


def mixed_model(
    train: pd.DataFrame,
    test: pd.DataFrame,
    target: str,
    groups: tuple[str, ...],
    slopes: tuple[str, ...] = (),
) -> Mixed:
    """Fit target ~ all other columns + (1 + slopes | group), and predict the test rows.

    A group without training rows has the mean of its prior, 0. Several kinds of groups are crossed,
    and their intercepts alone are random.
    """
    others = [name for name in train if name not in (target, *groups)]
    features = independent(train[others])
    x, x_new = scaled(train, train, features), scaled(train, test, features)
    y = train[target].to_numpy(float)
    if not slopes:
        return intercepts(y, x, x_new, train[list(groups)], test[list(groups)])
    import statsmodels.api as sm

    z, z_new = scaled(train, train, list(slopes)), scaled(train, test, list(slopes))
    (group,) = groups
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # correlations near 1 are told as boundaries
        model = sm.MixedLM(y, x, groups=train[group].to_numpy(), exog_re=z)
        fit = model.fit(reml=False, method="lbfgs")
    effects, none = fit.random_effects, np.zeros(z.shape[1])
    of_rows = np.array([np.asarray(effects.get(label, none)) for label in test[group]])
    predicted = x_new @ np.asarray(fit.fe_params) + np.sum(of_rows * z_new, axis=1)
    return Mixed(-2 * float(fit.llf), bool(fit.converged), predicted)


def intercepts(
    y: np.ndarray, x: np.ndarray, x_new: np.ndarray, groups: pd.DataFrame, new: pd.DataFrame
) -> Mixed:
    """Fit random intercepts with GPBoost, which stops by its own rule; predict other rows."""
    import gpboost as gpb

    model = gpb.GPModel(group_data=groups.to_numpy(), likelihood="gaussian")
    model.fit(y=y, X=x)
    predicted = model.predict(group_data_pred=new.to_numpy(), X_pred=x_new, predict_var=False)["mu"]
    return Mixed(2 * float(model.get_current_neg_log_likelihood()), True, np.asarray(predicted))


def catboost(
    train: pd.DataFrame,
    test: pd.DataFrame,
    target: str,
    groups: tuple[str, ...],
    settings: dict[str, Any],
    seed: int,
) -> np.ndarray:
    """Fit CatBoost, groups as its categories, with one thread; predict the test rows."""
    from catboost import CatBoostRegressor

    features = [name for name in train if name != target]
    model = CatBoostRegressor(
        thread_count=1,
        random_seed=seed,
        cat_features=list(groups),
        verbose=0,
        allow_writing_files=False,
        **settings,
    )
    model.fit(train[features], train[target])
    return np.asarray(model.predict(test[features]))


def paired(differences: np.ndarray, groups: pd.DataFrame) -> tuple[float, float, dict[str, float]]:
    """Return a mean difference, its standard error over rows, and over each kind of group.

    differences: [rows]; groups: [rows, kinds], a label each. Rows of a group are not independent:
    the error over groups takes each group's total as one draw.
    """
    mean = float(differences.mean())
    centred = differences - mean
    errors = {}
    for kind in groups:
        totals = np.bincount(pd.factorize(groups[kind])[0], weights=centred)
        count = len(totals)
        spread = float(np.sum(totals**2)) * count / (count - 1)
        errors[kind] = float(np.sqrt(spread)) / len(differences)
    rows = float(np.std(differences, ddof=1)) / np.sqrt(len(differences))
    return mean, float(rows), errors
