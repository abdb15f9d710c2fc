"""Linear mixed models, ours beside lme4's: the maximum of the ELBO is the maximum likelihood.

    python -m pytest tests/inference/test_published_fits.py -s    # prints the table

All through `fit` with its default optimiser. lme4's numbers and conditional modes are those of
`published_fits.json`; where it has a REML fit only (radon), the modes are Henderson's equations
solved with our estimates.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import hlvnn
from hlvnn.data.grouped import GroupedDataset
from hlvnn.models.model import HierarchicalModel
from tests.inference.linear import table

pytestmark = [
    pytest.mark.data,
    pytest.mark.timeout(280),
    pytest.mark.filterwarnings("ignore:Initializing zero-element"),  # models without features
]
NOISE = "noise"
Latents = tuple[hlvnn.LatentConfig, ...]


def intercept(level: str, **settings: str) -> hlvnn.LatentConfig:
    return hlvnn.LatentConfig(
        level=level,
        stage="output",
        placement="bias",
        **{"prior": "learned", **settings},  # type: ignore[arg-type]
    )


def slopes(level: str, prior: str = "learned_full") -> hlvnn.LatentConfig:
    return hlvnn.LatentConfig(
        level=level, stage="output", placement="weights", posterior="full_rank", prior=prior
    )


@dataclass(frozen=True)
class Case:
    """A model, and what lme4 says of it."""

    file: str
    target: str
    features: tuple[str, ...]
    groups: tuple[str, ...]
    latents: Latents
    criterion: float
    """−2 log likelihood."""
    sds: dict[tuple[str, str], float]
    """SDs by level and term, and the noise."""
    within: float = 0.05
    """How near the criterion has to be."""
    fit: str | None = None
    """The fit in `published_fits.json` with conditional modes."""
    num_epochs: int = 400


ONE = "(Intercept)"
CASES = {
    "sleepstudy, correlated": Case(
        *("sleepstudy", "Reaction", ("Days",), ("Subject",), (slopes("Subject"),), 1751.9393),
        {("Subject", ONE): 23.78047, ("Subject", "Days"): 5.71683, (NOISE, ""): 25.59182},
        fit="sleepstudy_slope_ml",
    ),
    "sleepstudy, uncorrelated": Case(
        *("sleepstudy", "Reaction", ("Days",), ("Subject",), (slopes("Subject", "learned"),)),
        1752.0033,
        {("Subject", ONE): 24.17127, ("Subject", "Days"): 5.7993992, (NOISE, ""): 25.556138},
        fit="sleepstudy_uncorrelated_ml",
    ),
    "sleepstudy, intercept": Case(
        *("sleepstudy", "Reaction", ("Days",), ("Subject",), (intercept("Subject"),), 1794.0786),
        {("Subject", ONE): 36.0121, (NOISE, ""): 30.8954},
        fit="sleepstudy_intercept_ml",
    ),
    "Dyestuff": Case(
        *("Dyestuff", "Yield", (), ("Batch",), (intercept("Batch"),), 327.3271),
        {("Batch", ONE): 37.2603, (NOISE, ""): 49.5101},
        fit="dyestuff_ml",
    ),
    "Exam, slope": Case(
        *("Exam", "normexam", ("standLRT",), ("school",), (slopes("school"),), 9316.8710),
        {("school", ONE): 0.30074, ("school", "standLRT"): 0.12057, (NOISE, ""): 0.74408},
        fit="exam_slope_ml",
    ),
    "radon, intercept": Case(
        *("radon", "log_radon", ("basement",), ("county_name",), (intercept("county_name"),)),
        2163.6506,
        {("county_name", ONE): 0.32446, (NOISE, ""): 0.75516},
    ),
    "radon, slope": Case(
        *("radon", "log_radon", ("basement",), ("county_name",), (slopes("county_name"),)),
        2161.1088,
        {
            ("county_name", ONE): 0.34427,
            ("county_name", "basement"): 0.32828,
            (NOISE, ""): 0.74634,
        },
        num_epochs=1000,
    ),
    "Pastes, cask given batch": Case(
        *("Pastes", "strength", (), ("sample", "batch")),
        (intercept("sample", given="batch"), intercept("batch")),
        247.9945,
        {("batch", ONE): 1.0951, ("sample", ONE): 2.9041, (NOISE, ""): 0.8234},
        within=0.1,
        fit="pastes_nested_ml",
        num_epochs=1000,
    ),
    "Pastes, cask nested in batch": Case(
        *("Pastes", "strength", (), ("sample", "batch")),
        (
            intercept("sample", prior="nested", parent="batch"),
            hlvnn.LatentConfig(level="batch", width=1, prior="learned"),
        ),
        247.9945,
        {("batch", ONE): 1.0951, ("sample", ONE): 2.9041, (NOISE, ""): 0.8234},
        within=0.1,
    ),
    "Penicillin, plate given samples": Case(
        *("Penicillin", "diameter", (), ("plate", "sample")),
        (intercept("plate", given="sample"), intercept("sample", posterior="joint")),
        332.1883,
        {("plate", ONE): 0.8456, ("sample", ONE): 1.7706, (NOISE, ""): 0.5499},
        within=0.1,
        fit="penicillin_ml",
        num_epochs=1000,
    ),
}


@cache
def fitted(shared: Path, name: str) -> tuple[pd.DataFrame, HierarchicalModel, float]:
    case = CASES[name]
    frame = table(shared, case.file)
    data = GroupedDataset.from_frame(
        frame, target=case.target, features=case.features, groups=case.groups
    )
    config = hlvnn.ModelConfig(backbone="linear", likelihood="gaussian", latents=case.latents)
    model = hlvnn.build_model(config, data, seed=0)
    train = hlvnn.TrainConfig(
        num_epochs=case.num_epochs, batch_size=None, lr=0.05, eval_every=case.num_epochs
    )
    return frame, model, hlvnn.fit(model, data, train).elbo


def sd_of(model: HierarchicalModel, level: str, term: str) -> float:
    rows = model.summary()
    if level == NOISE:
        (value,) = rows.loc[rows["part"] == "noise sd", "estimate"]
        return float(value)
    chosen = (rows["part"] == "prior sd") & (rows["level"] == level) & (rows["term"] == term)
    (value,) = rows.loc[chosen, "estimate"]
    return float(value)


@pytest.mark.parametrize("name", CASES)
def test_the_elbo_and_the_sds_are_lme4s(name: str, shared: Path) -> None:
    _, model, elbo = fitted(shared, name)
    case = CASES[name]
    ours = {key: sd_of(model, *key) for key in case.sds}
    listed = "  ".join(f"{ours[key]:.4f} ({case.sds[key]:.4f})" for key in case.sds)
    print(f"\n{name:32s} {-2 * elbo:10.4f} ({case.criterion:.4f})  SDs {listed}")
    assert -2 * elbo == pytest.approx(case.criterion, abs=case.within)
    for key, expected in case.sds.items():
        assert ours[key] == pytest.approx(expected, rel=0.01), key


def lme4s_modes(shared: Path, fit: str) -> dict[str, dict[str, list[float]]]:
    """Return level -> group -> conditional modes. `cask:batch` becomes `sample`, named as there."""
    fits = json.loads((shared / "data/grouped/published_fits.json").read_text())["computed"]
    (found,) = (one for one in fits if one["id"] == fit)
    modes = {}
    for level, block in found["ranef"].items():
        labels = block["levels"]
        if level == "cask:batch":
            level, labels = "sample", [":".join(reversed(label.split(":"))) for label in labels]
        modes[level] = dict(zip(map(str, labels), block["mode"], strict=True))
    return modes


def hendersons_modes(name: str, shared: Path) -> dict[str, dict[str, list[float]]]:
    """Return the conditional modes of a model with one level, from our estimates."""
    frame, model, _ = fitted(shared, name)
    case = CASES[name]
    (level,) = case.groups
    rows = model.summary()
    fixed = rows.loc[rows["part"] == "fixed", "estimate"].to_numpy()
    sds = rows.loc[rows["part"] == "prior sd", "estimate"].to_numpy()
    covariance = np.diag(sds**2)
    correlation = rows.loc[rows["part"] == "prior correlation", "estimate"]
    if len(correlation):
        covariance[0, 1] = covariance[1, 0] = float(correlation.iloc[0]) * sds[0] * sds[1]
    noise = sd_of(model, NOISE, "") ** 2
    x = np.column_stack([np.ones(len(frame)), *(frame[f] for f in case.features)])
    residual = frame[case.target].to_numpy() - x @ fixed
    modes = {}
    for label, index in frame.groupby(level).indices.items():
        z = x[index][:, : len(sds)]
        precision = z.T @ z / noise + np.linalg.inv(covariance)
        modes[str(label)] = list(np.linalg.solve(precision, z.T @ residual[index] / noise))
    return {level: modes}


@pytest.mark.parametrize("name", [name for name in CASES if "nested" not in name])
def test_group_means_are_the_conditional_modes(name: str, shared: Path) -> None:
    _, model, _ = fitted(shared, name)
    fit = CASES[name].fit
    modes = lme4s_modes(shared, fit) if fit else hendersons_modes(name, shared)
    for level, by_group in modes.items():
        ours = model.posterior(level)
        expected = np.array([by_group[str(label)] for label in ours[level]])
        mean = ours.filter(regex="^mean_").to_numpy()
        sd = ours.filter(regex="^sd_").to_numpy()
        assert mean.shape == expected.shape
        assert np.abs((mean - expected) / sd).max() < 0.02


def lme4s_conditional_sds(shared: Path, fit: str) -> dict[str, dict[str, list[float]]]:
    """Return level -> group -> SDs, for the levels whose SDs lme4 gives; named as the modes are."""
    fits = json.loads((shared / "data/grouped/published_fits.json").read_text())["computed"]
    (found,) = (one for one in fits if one["id"] == fit)
    sds = {}
    for name, block in found["ranef"].items():
        level = "sample" if name == "cask:batch" else name
        if "cond_sd" in block:
            groups = lme4s_modes(shared, fit)[level]
            sds[level] = dict(zip(groups, block["cond_sd"], strict=True))
    return sds


WITH_SDS = [name for name, case in CASES.items() if case.fit and "uncorrelated" not in name]


@pytest.mark.parametrize("name", WITH_SDS)
def test_shrinkage_sets_lme4s_conditional_sds_against_its_sds(name: str, shared: Path) -> None:
    frame, model, _ = fitted(shared, name)
    case = CASES[name]
    assert case.fit is not None
    found = lme4s_conditional_sds(shared, case.fit)
    assert set(found) == set(case.groups)
    for level, by_group in found.items():
        table = model.shrinkage(level)
        terms = [term for at, term in case.sds if at == level]
        assert list(table.columns) == [
            *(level, "rows"),
            *(
                f"{part}_{term}"
                for term in terms
                for part in ("sd", "prior_sd", "sd_ratio", "shrinkage")
            ),
        ]
        sizes = frame[level].astype(str).value_counts()
        assert table["rows"].tolist() == [sizes[str(label)] for label in table[level]]
        expected = np.array([by_group[str(label)] for label in table[level]])
        prior = np.array([case.sds[level, term] for term in terms])
        ratio = table[[f"sd_ratio_{term}" for term in terms]].to_numpy()
        np.testing.assert_allclose(table[[f"sd_{term}" for term in terms]], expected, rtol=0.015)
        np.testing.assert_allclose(ratio, expected / prior, rtol=0.015)
        shrinkage = table[[f"shrinkage_{term}" for term in terms]]
        np.testing.assert_allclose(shrinkage, 1 - (expected / prior) ** 2, atol=0.015)


def test_the_shrinkage_of_a_random_intercept_is_its_reliability(shared: Path) -> None:
    """Dyestuff: n τ²/(n τ² + σ²), with our estimates."""
    _, model, _ = fitted(shared, "Dyestuff")
    tau, sigma = sd_of(model, "Batch", ONE), sd_of(model, NOISE, "")
    table = model.shrinkage("Batch")
    n = table["rows"]
    np.testing.assert_allclose(
        table[f"shrinkage_{ONE}"], n * tau**2 / (n * tau**2 + sigma**2), rtol=1e-3
    )


def test_the_nearest_batches_are_those_with_the_nearest_means(shared: Path) -> None:
    """Dyestuff is balanced: all SDs are the same, and so all that differs is the means."""
    _, model, _ = fitted(shared, "Dyestuff")
    tau = sd_of(model, "Batch", ONE)
    ours = model.posterior("Batch").set_index("Batch")
    apart = ((ours[f"mean_{ONE}"] - ours[f"mean_{ONE}"]["E"]).abs() / tau).drop("E")
    table = model.nearest("Batch", "E", k=3).set_index("Batch")
    assert table.index.tolist() == ["C", "B", "A"]
    np.testing.assert_allclose(table["distance_means"], apart[table.index], rtol=1e-5)
    spread = (ours[f"sd_{ONE}"][table.index] ** 2 + ours[f"sd_{ONE}"]["E"] ** 2) / tau**2
    np.testing.assert_allclose(table["distance"] ** 2, apart[table.index] ** 2 + spread, rtol=1e-5)


def test_what_crossed_groups_share_does_not_set_them_apart(shared: Path) -> None:
    """Penicillin: Var(u_a − u_b) of two samples, from Henderson's equations."""
    frame, model, _ = fitted(shared, "Penicillin, plate given samples")
    noise = sd_of(model, NOISE, "") ** 2
    for level in ("plate", "sample"):
        codes = [pd.factorize(frame[name], sort=True)[0] for name in (level, *LEVEL_BESIDE[level])]
        z = np.hstack([np.eye(code.max() + 1)[code] for code in codes])
        taus = [sd_of(model, name, ONE) for name in (level, *LEVEL_BESIDE[level])]
        precision = np.concatenate(
            [np.full(code.max() + 1, tau**-2.0) for code, tau in zip(codes, taus, strict=True)]
        )
        covariance = np.linalg.inv(z.T @ z / noise + np.diag(precision))
        groups = model.posterior(level)[level].tolist()
        label = groups[2]
        table = model.nearest(level, label, k=100)
        assert len(table) == len(groups) - 1
        at = [groups.index(other) for other in table[level]]
        variance = covariance[at, at] + covariance[2, 2] - 2 * covariance[at, 2]
        ours = (table["distance"] ** 2 - table["distance_means"] ** 2) * taus[0] ** 2
        np.testing.assert_allclose(ours, variance, rtol=0.02)


LEVEL_BESIDE = {"plate": ("sample",), "sample": ("plate",)}


INSTEVAL = (
    intercept("s", given="dept"),
    intercept("d", given="dept"),
    intercept("dept", posterior="joint"),
)


@pytest.mark.slow
def test_three_crossed_factors_of_insteval_keep_the_departments(shared: Path) -> None:
    frame = table(shared, "InstEval")
    data = GroupedDataset.from_frame(
        frame, target="y", features=["service"], groups=["s", "d", "dept"], target_kind="real"
    )
    config = hlvnn.ModelConfig(backbone="linear", likelihood="gaussian", latents=INSTEVAL)
    model = hlvnn.build_model(config, data, seed=0)
    train = hlvnn.TrainConfig(num_epochs=800, batch_size=None, lr=0.05, eval_every=800)
    result = hlvnn.fit(model, data, train)
    ours = {level: sd_of(model, level, ONE) for level in ("s", "d", "dept")}
    print(f"\nInstEval, three factors {-2 * result.elbo:.2f} (lme4 237721.77)  SDs {ours}")
    assert -2 * result.elbo <= 237746.5
    assert ours["dept"] == pytest.approx(0.0785, rel=0.05)
    assert ours["s"] == pytest.approx(0.3255, rel=0.01)
    assert ours["d"] == pytest.approx(0.5150, rel=0.01)
    assert sd_of(model, NOISE, "") == pytest.approx(1.1775, rel=0.01)


def test_independent_posteriors_lose_the_batches_and_say_so(
    shared: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = GroupedDataset.from_frame(
        table(shared, "Pastes"), target="strength", features=[], groups=["sample", "batch"]
    )
    config = hlvnn.ModelConfig(
        backbone="linear",
        likelihood="gaussian",
        latents=tuple(intercept(level, posterior="mean_field") for level in ("sample", "batch")),
    )
    model = hlvnn.build_model(config, data, seed=0)
    result = hlvnn.fit(
        model, data, hlvnn.TrainConfig(num_epochs=1000, batch_size=None, lr=0.05, eval_every=1000)
    )
    assert sd_of(model, "batch", ONE) < 0.05
    assert -2 * result.elbo > 248.3
    assert "latent batch bias@output: a prior SD has collapsed" in caplog.text
    assert "given=" in caplog.text
