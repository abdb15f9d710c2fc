"""Planted mixed models whose answer is known, where it is easy to get another without a word."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import minimize

import hlvnn
from hlvnn.commands import train_one as train_one_command
from hlvnn.errors import ConfigError, DataError, run_command
from hlvnn.models.build import assemble

GROUPS, YEARS = 40, 8


def frame(
    intercept: float, slope: float, *, noise: float = 8.0, seed: int = 3, first: float = 0
) -> pd.DataFrame:
    """Return 40 people of 8 years each, y = 100 + a + (10 + b) (year − first) + noise."""
    random = np.random.default_rng(seed)
    a, b = random.normal(size=(2, GROUPS, 1)) * [[[intercept]], [[slope]]]
    year = np.arange(YEARS)[None]
    y = 100 + a + (10 + b) * year + noise * random.normal(size=(GROUPS, YEARS))
    who = [f"p{number}" for number in range(GROUPS) for _ in range(YEARS)]
    return pd.DataFrame({"who": who, "year": np.tile(year + first, GROUPS)[0], "y": y.ravel()})


def deviance(table: pd.DataFrame, *, slopes: bool, full: bool) -> float:
    """Return the least −2 log likelihood of the linear mixed model, by its covariance matrices."""
    y = table["y"].to_numpy().reshape(GROUPS, YEARS)
    x = np.stack([np.ones(YEARS), table["year"].to_numpy()[:YEARS]], axis=1)
    x = x - [0, x[:, 1].mean()] if full else x  # a full covariance is at home anywhere

    def criterion(parameters: np.ndarray) -> float:
        noise, *sds = parameters
        factor = np.diag(sds[:2]) if slopes else np.diag([sds[0], 0])
        if full:
            factor[1, 0] = sds[2]
        v = x @ factor @ factor.T @ x.T + np.exp(2 * noise) * np.eye(YEARS)
        inverse = np.linalg.inv(v)
        mean = x @ np.linalg.solve(x.T @ inverse @ x, x.T @ inverse @ y.mean(0))
        rest = y - mean
        spread = np.einsum("gi,ij,gj->", rest, inverse, rest)
        return GROUPS * np.linalg.slogdet(v)[1] + spread + y.size * math.log(2 * math.pi)

    start = [2.0, 5.0] + [3.0] * slopes + [0.0] * full
    options = {"maxiter": 20_000, "maxfev": 20_000, "xatol": 1e-7, "fatol": 1e-9}
    return float(minimize(criterion, start, method="Nelder-Mead", options=options).fun)


def fitted(
    table: pd.DataFrame,
    placement: str = "weights",
    *,
    epochs: int = 1000,
    lr: float = 0.05,
    **latent: object,
) -> tuple[hlvnn.HierarchicalModel, float]:
    data = hlvnn.GroupedDataset.from_frame(table, target="y", features=["year"], groups=["who"])
    config = hlvnn.LatentConfig(
        level="who",
        stage="output",
        placement=placement,
        **latent,  # type: ignore[arg-type]
    )
    model_config = hlvnn.ModelConfig(backbone="linear", likelihood="gaussian", latents=(config,))
    model = hlvnn.build_model(model_config, data)
    train = hlvnn.TrainConfig(num_epochs=epochs, batch_size=None, lr=lr)
    return model, -2 * hlvnn.fit(model, data, train).elbo


def estimates(model: hlvnn.HierarchicalModel) -> dict[str, float]:
    table = model.summary()
    return dict(zip(table["part"] + " " + table["term"], table["estimate"], strict=True))


def test_a_slope_on_years_is_the_slope_on_years_since_the_first() -> None:
    """Uncentred, −2·ELBO of the years 2011 … 2018 was 3546 for 1543."""
    near, far = frame(20, 5), frame(20, 5, first=2011)
    truth = deviance(near, slopes=True, full=True)
    found = [fitted(table, prior="learned_full") for table in (near, far)]
    for _, value in found:
        assert value == pytest.approx(truth, abs=0.01)
    (one, _), (other, _) = found
    a, b = estimates(one), estimates(other)
    for name in ("fixed year", "prior sd year", "noise sd "):
        assert b[name] == pytest.approx(a[name], rel=1e-3)
    expected = a["fixed (Intercept)"] - 2011 * a["fixed year"]
    assert b["fixed (Intercept)"] == pytest.approx(expected, rel=1e-4)
    variance, slope = a["prior sd (Intercept)"] ** 2, a["prior sd year"]
    covariance = a["prior correlation (Intercept), year"] * a["prior sd (Intercept)"] * slope
    expected = variance - 2 * 2011 * covariance + (2011 * slope) ** 2
    assert b["prior sd (Intercept)"] == pytest.approx(math.sqrt(expected), rel=1e-3)
    p, q = one.posterior("who"), other.posterior("who")
    assert np.allclose(q["mean_year"], p["mean_year"], atol=0.01)
    at_first = p["mean_(Intercept)"] - 2011 * p["mean_year"]
    assert np.allclose(q["mean_(Intercept)"], at_first, atol=20)
    shrunk = [model.shrinkage("who")["shrinkage_year"] for model in (one, other)]
    assert np.allclose(*shrunk, atol=1e-3)
    nearest = [model.nearest("who", "p3", k=3) for model in (one, other)]
    assert nearest[0]["who"].tolist() == nearest[1]["who"].tolist()
    predicted = [
        hlvnn.predict(model, table)["mean"]
        for (model, _), table in zip(found, (near, far), strict=True)
    ]
    assert np.allclose(*predicted, atol=0.1)


def test_a_slope_on_seconds_since_1970_is_the_slope_on_days() -> None:
    """Their mean is taken away in float64 where they are coded; slopes by group get it back."""
    days = frame(20, 5)
    seconds = days.assign(year=1_700_000_000 + 86_400 * days["year"])
    truth = deviance(days, slopes=True, full=True)
    model, value = fitted(seconds, prior="learned_full")
    assert value == pytest.approx(truth, abs=0.02)
    other, _ = fitted(days, prior="learned_full")
    a, b = estimates(other), estimates(model)
    for name in ("fixed year", "prior sd year"):
        assert 86_400 * b[name] == pytest.approx(a[name], rel=2e-3)
    with pytest.raises(ConfigError, match=r"mean of column 'year' is 8,58\d of its SDs from 0"):
        fitted(seconds, prior="learned")


def test_a_model_saved_before_slopes_were_centred_is_read_as_it_was() -> None:
    model, _ = fitted(frame(20, 5), prior="learned_full", epochs=3)
    x, groups = torch.tensor([[2.0]]), torch.tensor([[4]])
    weights = model.state_dict()
    (key,) = [name for name in weights if name.endswith(".offset")]
    old = {name: value for name, value in weights.items() if name != key}
    config = hlvnn.ModelConfig(
        backbone="linear",
        likelihood="gaussian",
        latents=("weights@output level=who posterior=full_rank prior=learned_full",),
    )
    for state, offset in ((weights, weights[key]), (old, torch.zeros(1))):
        again = assemble(config, model.schema)
        again.load_state_dict(state)
        z = again.latents[0].posterior(groups[0]).mean[0].detach()
        h = x[0, 0] / again.backbone.input.scale - offset
        shared = again.backbone(x)[0, 0]
        mean, _ = again.predictor_moments(x, again.latents.at(groups, unseen=True))
        assert float(mean) == pytest.approx(float(shared.detach() + z[0] + z[1] * h[0]), abs=1e-5)
        intercept = again.posterior("who")["mean_(Intercept)"][4]
        expected = (z[0] - z[1] * offset[0]) * again.likelihood.scale
        assert intercept == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize(
    ("first", "settings"),
    [
        (2011, {"prior": "learned"}),
        (2011, {"prior": "learned_full", "posterior": "mean_field"}),
        (2011, {"prior": "learned", "posterior": "full_rank"}),
    ],
)
def test_a_slope_on_a_far_column_that_cannot_be_centred_is_refused(
    first: float, settings: dict[str, str]
) -> None:
    with pytest.raises(ConfigError, match=r"mean of column 'year' is 879 of its SDs from 0.*prior"):
        fitted(frame(20, 5, first=first), **settings)


def test_a_slope_on_a_column_rather_far_from_0_is_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fitted(frame(20, 5, first=20), prior="learned", epochs=1)
    assert "the mean of column 'year' is 10.3 of its SDs from 0" in caplog.text
    caplog.clear()
    fitted(frame(20, 5), prior="learned", epochs=1)
    fitted(frame(20, 5, first=2011), prior="learned_full", epochs=1)
    assert "from 0" not in caplog.text


def test_slopes_under_a_full_prior_have_a_posterior_that_follows_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Mean field gave 1517.5 for 1502.3, a correlation of .88 for .14, slope SDs of .34 for .49."""
    table = frame(20, 5)
    truth = deviance(table, slopes=True, full=True)
    assert fitted(table, prior="learned_full", epochs=500)[1] == pytest.approx(truth, abs=0.02)
    assert "cannot follow" not in caplog.text
    _, value = fitted(table, prior="learned_full", posterior="mean_field", epochs=500)
    assert value > truth + 1
    assert "its posterior cannot follow intercepts and slopes that move together" in caplog.text
    assert "posterior=full_rank" in caplog.text


@pytest.mark.parametrize("placement", ["bias", "weights"])
def test_one_row_a_group_is_refused_beside_learned_noise(placement: str) -> None:
    """Only the sum of the two variances is there to be learned."""
    table = frame(20, 5).iloc[:: YEARS + 1]
    with pytest.raises(ConfigError, match="every who has one row, so that only the sum of its var"):
        fitted(table.assign(year=range(len(table))), placement, prior="learned")
    fitted(table.assign(year=range(len(table))), placement, prior="standard", epochs=1)


def test_a_split_that_leaves_one_row_a_group_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    table = frame(20, 5)
    table = table[table["year"] < 2]
    data = hlvnn.GroupedDataset.from_frame(
        table, target="y", features=["year"], groups=["who"], test_fraction=0.5
    )
    assert int(data.counts(0).max()) == 1
    config = hlvnn.ModelConfig(backbone="linear", latents=("bias@output level=who prior=learned",))
    model = hlvnn.build_model(config, data)
    hlvnn.fit(model, data, hlvnn.TrainConfig(num_epochs=1))
    assert "the split leaves every who one row to train on" in caplog.text


@pytest.mark.parametrize(
    ("placement", "prior", "sds", "seed", "singular"),
    [
        ("bias", "learned", (0, 0), 0, "its prior variance"),
        ("bias", "learned", (0, 0), 2, "its prior variance"),
        ("weights", "learned", (20, 0), 1, "a prior variance (of year)"),
        ("weights", "learned", (20, 0), 5, "a prior variance (of year)"),
        ("bias", "learned", (0, 0), 6, ""),
        ("bias", "learned", (20, 0), 3, ""),
        ("weights", "learned_full", (20, 0), 6, ""),
        ("weights", "learned_full", (20, 5), 3, ""),
    ],
)
def test_a_variance_at_its_boundary_is_said_however_long_the_fit(
    placement: str,
    prior: str,
    sds: tuple[float, float],
    seed: int,
    singular: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """By the exact likelihood of the same model with and without that variance."""
    table = frame(*sds, seed=seed)
    slopes, full = placement == "weights", prior == "learned_full"
    without = deviance(table, slopes=False, full=False) if slopes else _pooled(table)
    gained = without - deviance(table, slopes=slopes, full=full)
    fitted(table, placement, prior=prior, posterior="full_rank", epochs=300, lr=0.02)
    told = f"singular fit, {singular} is at its boundary, 0"
    if singular:
        assert gained < 1e-3
        assert told in caplog.text
    else:
        assert gained > 2
        assert "boundary" not in caplog.text
        assert "collapsed" not in caplog.text


def _pooled(table: pd.DataFrame) -> float:
    """Return −2 log likelihood of the regression without groups, at its maximum."""
    x = np.stack([np.ones(len(table)), table["year"]], axis=1)
    rest = table["y"] - x @ np.linalg.lstsq(x, table["y"], rcond=None)[0]
    return float(len(rest) * (math.log(2 * math.pi * (rest**2).mean()) + 1))


def schools() -> pd.DataFrame:
    """Return 12 schools of 3 classes, which each school numbers 1, 2, 3."""
    random = np.random.default_rng(0)
    school = np.repeat(np.arange(12), 3 * 6)
    label = np.tile(np.repeat([1, 2, 3], 6), 12)
    effect = random.normal(0, 2, 12)[school] + random.normal(0, 3, 36)[3 * school + label - 1]
    y = 50 + effect + random.normal(0, 1, len(school))
    return pd.DataFrame({"school": [f"S{s}" for s in school], "class": label, "y": y})


def with_levels(table: pd.DataFrame, **settings: str) -> None:
    data = hlvnn.GroupedDataset.from_frame(
        table, target="y", features=[], groups=["class", "school"]
    )
    latents = tuple(
        hlvnn.LatentConfig(
            level=level,
            stage="output",
            placement="bias",
            prior="learned",
            **(settings if level == "class" else {}),
        )
        for level in ("class", "school")
    )
    config = hlvnn.ModelConfig(backbone="linear", latents=latents)
    model = hlvnn.build_model(config, data)
    hlvnn.fit(model, data, hlvnn.TrainConfig(num_epochs=1))


ADVICE = "frame['class'] = frame['school'].astype(str) + '/' + frame['class'].astype(str)"


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_class_ids_that_each_school_reuses_are_told_with_what_to_do(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Advised was joint (1528.34), where the ids need their school (1440.24)."""
    table = schools()
    with pytest.raises(DataError) as refusal:
        with_levels(table, given="school")
    told = str(refusal.value)
    assert "class 1 has rows in 12 groups of school bias@output (S0, S1, S10, …)" in told
    assert 0 < told.index(ADVICE) < told.index("posterior=joint")
    with_levels(table)
    assert "class has 3 labels, school above it 12, and class 1 has rows in 12" in caplog.text
    assert ADVICE in caplog.text
    caplog.clear()
    table["class"] = table["school"].astype(str) + "/" + table["class"].astype(str)
    with_levels(table, given="school")
    with_levels(table)
    assert "labels" not in caplog.text


def test_doubts_stand_in_the_log_of_a_run_and_refusals_end_a_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(table: pd.DataFrame, *more: str) -> int:
        file = tmp_path / f"people{len(list(tmp_path.iterdir()))}.csv"
        table.to_csv(file, index=False)
        flags = ["--dataset", "table", "--table", str(file), "--target", "y"]
        flags += ["--groups", "who", "--backbone", "linear", "--latent-config", "weights"]
        flags += ["--num-epochs", "1", "--results-dir", str(tmp_path / "results"), *more]
        with pytest.raises(SystemExit) as end:
            run_command(lambda: train_one_command.main(flags))
        return int(end.value.code or 0)

    assert run(frame(20, 5, first=2011), "--prior", "learned") == 2
    assert "error: latent who weights@output: the mean of column 'year'" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()
    logging.getLogger("hlvnn").handlers.clear()
    assert run(frame(20, 5, first=20), "--prior", "learned") == 0
    (log,) = (tmp_path / "results").rglob("train.log")
    assert "of its SDs from 0" in log.read_text(encoding="utf-8")
