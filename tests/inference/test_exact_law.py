"""The exact law of a mixed model's latents, beside the same model written out whole in NumPy."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch

import hlvnn
from hlvnn.data.grouped import GroupedDataset
from hlvnn.inference.importance import evidence
from hlvnn.inference.objective import full_elbo
from hlvnn.models.model import HierarchicalModel
from hlvnn.training.fit_result import FitResult
from tests.inference.dense import Dense, Effect, fitted

CASES = {
    "slopes": ([Effect("a", ("x1",), full=True)], ["a"]),
    "two latents of a level": ([Effect("a", ("x1",)), Effect("a", ("x2",), full=True)], ["a"]),
    "crossed slopes": ([Effect("a", ("x1",), full=True), Effect("b", ("x1",))], ["a", "b"]),
    "three crossed": (
        [Effect("a"), Effect("b", ("x1",), full=True), Effect("c")],
        ["a", "b", "c"],
    ),
    "nested prior": ([Effect("p", enters=False), Effect("a", parent="p")], ["a", "p"]),
    "nested prior, crossed": (
        [Effect("p"), Effect("b", ("x1",)), Effect("a", parent="p")],
        ["a", "p", "b"],
    ),
}
NEW = pd.DataFrame(
    {
        "a": ["a0", "a1", "a2", "nobody", "a3"],
        "b": ["b0", "b1", "b2", "b1", "nobody"],
        "c": ["c0", "c1", "c2", "c3", "nobody"],
        "p": ["p0", "p1", "p2", "p1", "p3"],
        "x1": [1.0, 2.0, 0.0, -1.0, 3.0],
        "x2": [0.0, 1.0, -1.0, 2.0, 0.5],
    }
)


@cache
def planted() -> pd.DataFrame:
    """Return 150 rows in unbalanced groups: two rows in five are of one; numbers float32 has."""
    random = np.random.default_rng(0)
    n = 150
    frame = pd.DataFrame({name: random.integers(0, k, n) for name, k in (("b", 7), ("c", 4))})
    number = np.where(random.random(n) < 0.4, 0, random.integers(0, 16, n))
    frame["a"], frame["p"] = number, number % 5
    for level in "abcp":
        frame[level] = level + frame[level].astype(str)
    frame["x1"] = random.normal(1, 2, n).astype(np.float32).astype(float)
    frame["x2"] = random.normal(size=n).astype(np.float32).astype(float)

    def effects(level: str, sd: float) -> np.ndarray:
        labels = frame[level].unique()
        drawn = dict(zip(labels, random.normal(0, sd, len(labels)), strict=True))
        return frame[level].map(drawn).to_numpy()

    intercepts = sum(effects(*one) for one in (("a", 1), ("b", 1.5), ("c", 0.8), ("p", 1)))
    slopes = effects("a", 0.5) + effects("b", 0.4)
    frame["y"] = 10 + 2 * frame["x1"] - frame["x2"] + intercepts + slopes * frame["x1"]
    frame["y"] += random.normal(0, 0.7, n)
    return frame


@cache
def of_case(name: str) -> tuple[HierarchicalModel, FitResult, Dense]:
    effects, levels = CASES[name]
    model, result = fitted(planted(), effects, levels)
    return model, result, Dense(planted(), effects, model)


@pytest.mark.parametrize("name", CASES)
def test_the_elbo_is_the_marginal_likelihood(name: str) -> None:
    model, result, dense = of_case(name)
    assert result.elbo == pytest.approx(dense.log_likelihood(), abs=1e-5)
    assert result.elbo_error == 0
    assert result.epochs == len(result.history) == 1
    assert 0 <= result.newton_gain < 1e-4
    data = GroupedDataset.from_frame(
        planted(), target="y", features=["x1", "x2"], groups=CASES[name][1]
    )
    (row,) = result.history.to_dict("records")
    assert row["elbo"] == pytest.approx(full_elbo(model, data.train).value, abs=1e-4)
    # whatever is drawn, p(y | z) p(z) / q(z) is p(y): q is the posterior itself
    bound = evidence(model, data.train, 20)
    assert bound.value == pytest.approx(result.elbo, abs=1e-3)
    assert bound.standard_error < 1e-4


@pytest.mark.parametrize("name", CASES)
def test_known_and_new_rows_are_predicted_as_the_whole_model_has_them(name: str) -> None:
    model, _, dense = of_case(name)
    mean, covariance = dense.predicted(NEW)
    sd = np.sqrt(np.diag(covariance))
    table = hlvnn.predict(model, NEW)
    np.testing.assert_allclose(table["mean"], mean, atol=1e-4 * sd.min())
    np.testing.assert_allclose(table["sd_mean"], sd, rtol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_groups_have_their_exact_mean_sd_and_distance(name: str) -> None:
    model, _, dense = of_case(name)
    effects = CASES[name][0]
    for place, effect in enumerate(effects):
        of_level = [other for other in effects if other.level == effect.level]
        before = sum(1 + len(e.slopes) for e in effects[:place] if e.level == effect.level)
        width = 1 + len(effect.slopes)
        own = slice(before, before + width)
        table = model.posterior(effect.level)
        labels = table[effect.level].tolist()
        mean, covariance = dense.effect(effect, labels)
        sd = np.sqrt(np.diag(covariance)).reshape(mean.shape)
        found = table.filter(regex="^mean_").to_numpy()[:, own]
        np.testing.assert_allclose((found - mean) / sd, 0, atol=1e-4)
        np.testing.assert_allclose(table.filter(regex="^sd_").to_numpy()[:, own], sd, rtol=1e-4)
        if len(of_level) > 1:
            continue
        prior = dense.prior(effect)
        nearest = model.nearest(effect.level, labels[1], 100).set_index(effect.level)["distance"]
        pairs = covariance.reshape(len(labels), width, len(labels), width)
        for at, label in enumerate(labels):
            if at != 1:
                apart = pairs[at, :, at] + pairs[1, :, 1] - pairs[at, :, 1] - pairs[1, :, at]
                move = mean[at] - mean[1]
                square = move @ np.linalg.solve(prior, move)
                square += np.trace(np.linalg.solve(prior, apart))
                assert nearest[label] ** 2 == pytest.approx(square, rel=1e-4)


@pytest.mark.parametrize("name", ["three crossed", "nested prior, crossed"])
def test_draws_have_the_laws_covariance(name: str) -> None:
    model, _, dense = of_case(name)
    rows = NEW.iloc[:3]
    groups = model.schema.groups_of(rows)
    at = model.latents.at(groups, unseen=True)
    torch.manual_seed(0)
    with torch.no_grad():
        eta = model(model.schema.features_of(rows), model.latents.sample(at, 4000))[..., 0]
    center, scale = model.likelihood.units()
    mean, covariance = dense.predicted(rows)
    sd = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose((center + scale * eta.mean(0).numpy() - mean) / sd, 0, atol=0.08)
    np.testing.assert_allclose(scale * eta.std(0).numpy(), sd, rtol=0.05)


def test_the_law_is_in_the_state_dict() -> None:
    model, result, _ = of_case("nested prior, crossed")
    effects, levels = CASES["nested prior, crossed"]
    data = GroupedDataset.from_frame(planted(), target="y", features=["x1", "x2"], groups=levels)
    config = hlvnn.ModelConfig(backbone="linear", latents=[effect.config() for effect in effects])
    other = hlvnn.build_model(config, data, seed=1)
    other.load_state_dict(model.state_dict())
    assert full_elbo(other, data.train).value == result.elbo
    pd.testing.assert_frame_equal(hlvnn.predict(other, NEW), hlvnn.predict(model, NEW))
    other.load_state_dict(hlvnn.build_model(config, data).state_dict())
    assert other.latents.law is None


def test_a_new_group_that_meets_nobody_is_conditioned_on_its_rows() -> None:
    effects, levels = CASES["slopes"]
    frame = planted()
    new = frame["a"].isin(["a3", "a5"])
    model, _ = fitted(frame[~new], effects, levels)
    adapted = hlvnn.adapt(model, frame[new])
    mean, covariance = Dense(frame[~new], effects, model).with_rows(frame).predicted(NEW.iloc[4:])
    table = hlvnn.predict(adapted, NEW.iloc[4:])
    np.testing.assert_allclose(table["mean"], mean, atol=1e-4)
    np.testing.assert_allclose(table["sd_mean"], np.sqrt(np.diag(covariance)), rtol=1e-4)


@pytest.mark.parametrize("level", ["a", "b"])
def test_a_new_group_follows_the_known_ones_that_it_meets(level: str) -> None:
    """By hand: of the smaller level whose draw it follows, of the largest whose mean it knows."""
    effects, levels = [Effect("a"), Effect("b")], ["a", "b"]
    other = "b" if level == "a" else "a"
    frame = planted()
    label = frame[level].iloc[0] if level == "a" else "b3"
    new = frame[level] == label
    old = frame[~new]
    rows = frame[new & frame[other].isin(old[other])]
    rows = rows[rows[other] == rows[other].iloc[0]]  # all in one known group
    model, _ = fitted(old, effects, levels)
    adapted = hlvnn.adapt(model, rows)
    dense = Dense(old, effects, model)
    known = model.posterior(other).set_index(other).loc[rows[other].iloc[0]]
    tau = float(dense.covariances[levels.index(level)][0, 0])
    rest = (rows["y"] - dense.design(rows) @ dense.beta).sum()
    shrunk = 1 / (1 / tau + len(rows) / dense.noise)
    slope = -shrunk * len(rows) / dense.noise
    mean = shrunk * rest / dense.noise + slope * known["mean_(Intercept)"]
    follows = slope * known["sd_(Intercept)"] if level == "a" else 0.0
    found = adapted.posterior(level).set_index(level).loc[label]
    assert found["mean_(Intercept)"] == pytest.approx(mean, rel=1e-4)
    assert found["sd_(Intercept)"] == pytest.approx(np.hypot(shrunk**0.5, follows), rel=1e-4)
    for name in levels:
        before = model.posterior(name).set_index(name)
        after = adapted.posterior(name).set_index(name).loc[before.index]
        pd.testing.assert_frame_equal(after, before)
