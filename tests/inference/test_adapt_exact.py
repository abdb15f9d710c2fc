"""Posteriors of new groups of linear-Gaussian models are the exact ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import hlvnn
from hlvnn.data.grouped import GroupedDataset
from hlvnn.inference.predict import predict
from hlvnn.models.model import HierarchicalModel
from tests.helpers import latent
from tests.inference.adapting import PASTES, pastes_model
from tests.inference.linear import SLEEP, table

TRAIN = hlvnn.TrainConfig(num_epochs=300, batch_size=None, lr=0.05, eval_every=300)


def estimate(model: HierarchicalModel, part: str, term: str = "", level: str = "") -> float:
    summary = model.summary()
    chosen = (summary["part"] == part) & (summary["term"] == term)
    if level:
        chosen &= summary["level"] == level
    (value,) = summary.loc[chosen, "estimate"]
    return float(value)


def of_group(model: HierarchicalModel, level: str, label: object) -> pd.Series:
    frame = model.posterior(level)
    return frame[frame[level] == label].iloc[0]


NEW_SUBJECTS = [310, 335, 371]


def sleep_model(frame: pd.DataFrame) -> HierarchicalModel:
    entry = hlvnn.LatentConfig(
        level="Subject",
        stage="output",
        placement="weights",
        posterior="full_rank",
        prior="learned_full",
    )
    data = GroupedDataset.from_frame(frame, **SLEEP)  # type: ignore[arg-type]
    config = hlvnn.ModelConfig(backbone="linear", likelihood="gaussian", latents=(entry,))
    model = hlvnn.build_model(config, data)
    hlvnn.fit(model, data, TRAIN)
    return model


def exact_subject(model: HierarchicalModel, rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and SD of intercept and slope given a subject's rows and all else."""
    terms = ("(Intercept)", "Days")
    fixed = np.array([estimate(model, "fixed", term) for term in terms])
    sd = np.array([estimate(model, "prior sd", term) for term in terms])
    correlation = estimate(model, "prior correlation", "(Intercept), Days")
    prior = np.outer(sd, sd) * np.array([[1, correlation], [correlation, 1]])
    noise = estimate(model, "noise sd")
    x = np.stack([np.ones(len(rows)), rows["Days"]], axis=1)
    covariance = np.linalg.inv(np.linalg.inv(prior) + x.T @ x / noise**2)
    mean = covariance @ x.T @ (rows["Reaction"] - x @ fixed) / noise**2
    return np.asarray(mean), np.sqrt(np.diag(covariance))


@pytest.mark.data
def test_new_subjects_get_their_exact_conditional_posterior(shared: Path) -> None:
    frame = table(shared, "sleepstudy")
    new = frame["Subject"].isin(NEW_SUBJECTS)
    model = sleep_model(frame[~new])
    adapted = hlvnn.adapt(model, frame[new].sample(frac=1, random_state=0))
    for subject in NEW_SUBJECTS:
        mean, sd = exact_subject(model, frame[frame["Subject"] == subject])
        found = of_group(adapted, "Subject", subject)
        assert found["rows"] == 10
        np.testing.assert_allclose(
            found[["mean_(Intercept)", "mean_Days"]].to_numpy(float), mean, atol=1e-3 * sd.min()
        )
        np.testing.assert_allclose(
            found[["sd_(Intercept)", "sd_Days"]].to_numpy(float), sd, rtol=1e-3
        )
    everybody = sleep_model(frame)
    for subject in NEW_SUBJECTS:
        one, all_fitted = (of_group(m, "Subject", subject) for m in (adapted, everybody))
        for term in ("(Intercept)", "Days"):
            assert abs(one[f"mean_{term}"] - all_fitted[f"mean_{term}"]) < one[f"sd_{term}"] / 2
            assert one[f"sd_{term}"] == pytest.approx(all_fitted[f"sd_{term}"], rel=0.1)


@pytest.mark.data
@pytest.mark.filterwarnings("ignore:Initializing zero-element")  # a model without features
@pytest.mark.parametrize("kind", PASTES)
def test_a_new_cask_follows_the_posterior_of_its_known_batch(shared: Path, kind: str) -> None:
    """z_cask | z_batch, y is normal and linear in z_batch, whose posterior is fixed."""
    frame = table(shared, "Pastes")
    new = frame["sample"] == "A:c"
    model = pastes_model(frame[~new], kind)
    batch = of_group(model, "batch", "A")
    adapted = hlvnn.adapt(model, frame[new])
    noise = estimate(model, "noise sd")
    sd = estimate(model, "prior sd", "(Intercept)", "sample")
    residual = frame.loc[new, "strength"] - estimate(model, "fixed", "(Intercept)")
    shrunk = 1 / (1 / sd**2 + len(residual) / noise**2)
    # nested: z_cask is around z_batch; given: the two add up to the effect
    slope = shrunk / sd**2 if kind == "nested" else -shrunk * len(residual) / noise**2
    mean = slope * batch["mean_(Intercept)"] + shrunk * residual.sum() / noise**2
    total = np.sqrt(shrunk + (slope * batch["sd_(Intercept)"]) ** 2)
    found = of_group(adapted, "sample", "A:c")
    assert found["mean_(Intercept)"] == pytest.approx(mean, abs=1e-3 * total)
    assert found["sd_(Intercept)"] == pytest.approx(total, rel=1e-3)
    pd.testing.assert_series_equal(of_group(adapted, "batch", "A"), batch)


@pytest.mark.data
@pytest.mark.filterwarnings("ignore:Initializing zero-element")
@pytest.mark.parametrize("kind", PASTES)
def test_a_new_batch_gets_a_posterior_together_with_its_casks(shared: Path, kind: str) -> None:
    frame = table(shared, "Pastes")
    new = frame["batch"] == "J"
    model = pastes_model(frame[~new], kind)
    adapted = hlvnn.adapt(model, frame[new])
    found = adapted.posterior("sample").set_index("sample").loc[["J:a", "J:b", "J:c"]]
    noise, fixed = estimate(model, "noise sd"), estimate(model, "fixed", "(Intercept)")
    sds = [estimate(model, "prior sd", "(Intercept)", level) for level in ("batch", "sample")]
    rows = frame[new]
    one = (rows["sample"].to_numpy()[:, None] == found.index.to_numpy()).astype(float)
    design = np.hstack([np.ones((len(rows), 1)), one])  # batch, its casks' deviations
    prior = np.diag([sds[0] ** -2, *[sds[1] ** -2] * 3])
    covariance = np.linalg.inv(prior + design.T @ design / noise**2)
    mean = covariance @ design.T @ (rows["strength"] - fixed) / noise**2
    to_effect = np.hstack([np.ones((3, 1)), np.eye(3)]) if kind == "nested" else np.eye(4)[1:]
    sd = np.sqrt(np.diag(to_effect @ covariance @ to_effect.T))
    np.testing.assert_allclose(found["mean_(Intercept)"], to_effect @ mean, atol=2e-3 * sd.min())
    np.testing.assert_allclose(found["sd_(Intercept)"], sd, rtol=2e-3)


@pytest.mark.data
@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_crossed_levels_grow_with_a_joint_posterior(shared: Path) -> None:
    """A new plate meets known samples, and a new sample known plates."""
    frame = table(shared, "Penicillin")
    entries = (
        latent("bias", "output", "sample", prior="learned", posterior="joint"),
        latent("bias", "output", "plate", prior="learned", given="sample"),
    )
    columns = {"target": "diameter", "features": [], "groups": ["plate", "sample"]}
    old = frame[(frame["plate"] != "x") & (frame["sample"] != "F")]
    data = GroupedDataset.from_frame(old, **columns)  # type: ignore[arg-type]
    config = hlvnn.ModelConfig(backbone="linear", likelihood="gaussian", latents=entries)
    model = hlvnn.build_model(config, data)
    hlvnn.fit(model, data, TRAIN)
    new = frame.drop(old.index)
    adapted = hlvnn.adapt(model, new)
    whole = GroupedDataset.from_frame(frame, **columns)  # type: ignore[arg-type]
    everybody = hlvnn.build_model(config, whole)
    hlvnn.fit(everybody, whole, TRAIN)
    one, fitted = (predict(m, new) for m in (adapted, everybody))
    assert ((one["mean"] - fitted["mean"]).abs() < fitted["sd_mean"]).all()
    np.testing.assert_allclose(one["sd_mean"], fitted["sd_mean"], rtol=0.25)
    old_plate, kept = (of_group(m, "plate", "a") for m in (model, adapted))
    pd.testing.assert_series_equal(kept, old_plate, rtol=1e-6)
    assert predict(adapted, new)["sd_mean"].mean() < predict(model, new)["sd_mean"].mean() / 2
