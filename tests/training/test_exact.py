"""Which models are fitted exactly, how they say so, and that it is the maximum."""

from __future__ import annotations

import copy
import logging
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import minimize_scalar

import hlvnn
from hlvnn.columns import EXACT
from hlvnn.config import run_config
from hlvnn.data.grouped import GroupedDataset
from hlvnn.inference.mixed_model import System
from hlvnn.inference.objective import full_elbo
from hlvnn.inference.row_sums import row_sums
from hlvnn.models.model import HierarchicalModel
from hlvnn.records.run_folder import LOG, read_metrics
from hlvnn.training import exact
from hlvnn.training.execution import execute
from tests.inference.dense import Dense, Effect, fitted
from tests.inference.test_exact_law import CASES, planted

pytestmark = pytest.mark.filterwarnings("ignore:Initializing zero-element")  # no features


def built(
    *latents: str, frame: pd.DataFrame | None = None, **settings: object
) -> tuple[HierarchicalModel, GroupedDataset]:
    frame = planted() if frame is None else frame
    levels = [level for level in ("a", "b", "c") if level in frame]
    features = [name for name in ("x1", "x2") if name in frame]
    data = GroupedDataset.from_frame(frame, target="y", features=features, groups=levels)
    config = hlvnn.ModelConfig(**{"backbone": "linear", "latents": latents, **settings})  # type: ignore[arg-type]
    return hlvnn.build_model(config, data), data


@pytest.mark.parametrize("name", CASES)
def test_the_gradient_is_the_criterions(name: str) -> None:
    """Central differences, at factors that are not the best."""
    effects, levels = CASES[name]
    data = GroupedDataset.from_frame(planted(), target="y", features=["x1", "x2"], groups=levels)
    config = hlvnn.ModelConfig(backbone="linear", latents=[effect.config() for effect in effects])
    sums = row_sums(hlvnn.build_model(config, data), data.train)
    random = torch.Generator().manual_seed(0)
    factors = {}
    for level, width in sums.layout.widths.items():
        drawn = torch.rand(width, width, generator=random, dtype=torch.float64)
        factors[level] = drawn.tril(-1) + torch.diag(0.3 + drawn.diagonal())
    gradients = System(sums, factors).gradients()
    for level, factor in factors.items():
        for i, j in torch.ones_like(factor).tril().nonzero().tolist():
            values = []
            for step in (1e-5, -1e-5):
                moved = factor.clone()
                moved[i, j] += step
                values.append(System(sums, factors | {level: moved}).criterion())
            slope = (values[0] - values[1]) / 2e-5
            assert float(gradients[level][i, j]) == pytest.approx(slope, rel=1e-5, abs=1e-4)


@pytest.mark.parametrize("name", ["slopes", "three crossed", "nested prior, crossed"])
def test_no_change_of_a_parameter_makes_the_rows_likelier(name: str) -> None:
    effects, levels = CASES[name]
    model, result = fitted(planted(), effects, levels)
    for parameter in exact._set(model):
        for place in range(parameter.numel()):
            for step in (-0.01, 0.01):
                dense = moved(model, parameter, place, step, effects)
                assert dense.log_likelihood() < result.elbo + 1e-5


def moved(
    model: HierarchicalModel,
    parameter: torch.Tensor,
    place: int,
    step: float,
    effects: list[Effect],
) -> Dense:
    """Return the model written out with one number of a parameter moved for a while."""
    with torch.no_grad():
        flat = parameter.view(-1)
        before = float(flat[place])
        flat[place] += step
        dense = Dense(planted(), effects, model)
        flat[place] = before
    return dense


def many_pairs(seed: int, sd: float, noise: float) -> pd.DataFrame:
    """Return 20,000 groups of two rows with five columns."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(40_000, 5))
    frame = pd.DataFrame(x, columns=[f"v{i}" for i in range(5)])
    frame["g"] = np.repeat(np.arange(20_000), 2)
    frame["y"] = 3 + x @ [1, -1, 0.5, 0, 2] + random.normal(0, sd, 20_000)[frame["g"]]
    frame["y"] += random.normal(0, noise, 40_000)
    return frame


@pytest.mark.parametrize(("sd", "noise"), [(0.8, 0.7), (0.4, 1.0)])
def test_many_small_groups_are_fitted_right_by_plain_defaults(sd: float, noise: float) -> None:
    """Balanced pairs: sums and differences within pairs give the maximum, by one search."""
    frame = many_pairs(0, sd, noise)
    data = GroupedDataset.from_frame(
        frame, target="y", features=[f"v{i}" for i in range(5)], groups=["g"]
    )
    config = hlvnn.ModelConfig(backbone="linear", latent_config="bias", prior="learned")
    model = hlvnn.build_model(config, data)
    result = hlvnn.fit(model, data, hlvnn.TrainConfig())
    expected = least_of_pairs(frame)
    assert -2 * result.elbo == pytest.approx(expected[0], abs=1e-3)
    table = model.summary().set_index("part")["estimate"]
    assert table["prior sd"] == pytest.approx(expected[1], rel=1e-3)
    assert table["noise sd"] == pytest.approx(expected[2], rel=1e-3)
    assert expected[1] == pytest.approx(sd, rel=0.03)


def least_of_pairs(frame: pd.DataFrame) -> tuple[float, float, float]:
    """Return −2 log likelihood and both SDs at the maximum, from rotated pairs."""
    whole = np.column_stack([np.ones(len(frame)), frame[[f"v{i}" for i in range(5)]], frame["y"]])
    first, second = whole[::2], whole[1::2]
    up, down = (first + second) / 2**0.5, (first - second) / 2**0.5  # variances σ²+2τ², σ²
    n = len(frame)

    def profile(log_ratio: float) -> tuple[float, float]:
        more = 1 + 2 * np.exp(2 * log_ratio)
        rows = np.concatenate([up / more**0.5, down])
        rest = np.linalg.lstsq(rows[:, :-1], rows[:, -1], rcond=None)[1][0]
        return n * (1 + np.log(2 * np.pi * rest / n)) + len(up) * np.log(more), rest / n

    found = minimize_scalar(lambda r: profile(r)[0], bounds=(-3, 2), options={"xatol": 1e-9})
    value, variance = profile(float(found.x))
    return value, float(np.exp(found.x) * variance**0.5), float(variance**0.5)


@pytest.mark.data
def test_sleepstudy_has_its_digits_by_plain_defaults_from_any_start(shared: Path) -> None:
    frame = pd.read_csv(shared / "data/grouped/sleepstudy.csv.gz")
    data = GroupedDataset.from_frame(
        frame, target="Reaction", features=["Days"], groups=["Subject"]
    )
    config = hlvnn.ModelConfig(
        backbone="linear", latents=["weights@output level=Subject prior=learned_full"]
    )
    for seed in range(10):
        model = hlvnn.build_model(config, data, seed=seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape))
        result = hlvnn.fit(model, data, hlvnn.TrainConfig(), seed=seed)
        assert -2 * result.elbo == pytest.approx(1751.939344, abs=1e-5)
        found = model.summary()["estimate"].tolist()
        expected = [251.405105, 10.467286, 23.780564, 5.716834, 0.0813197, 25.591817]
        assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.data
@pytest.mark.slow
def test_insteval_has_lme4s_digits(shared: Path) -> None:
    frame = pd.read_csv(shared / "data/grouped/InstEval.csv.gz")
    levels = ["s", "d", "dept"]
    data = GroupedDataset.from_frame(
        frame, target="y", features=["service"], groups=levels, target_kind="real"
    )
    config = hlvnn.ModelConfig(backbone="linear", latent_config="bias", prior="learned")
    model = hlvnn.build_model(config, data)
    result = hlvnn.fit(model, data, hlvnn.TrainConfig())
    assert -2 * result.elbo == pytest.approx(237721.7688, abs=1e-3)
    table = model.summary()
    sds = table.loc[table["part"].isin(["prior sd", "noise sd"]), "estimate"].tolist()
    assert sds == pytest.approx([0.32553446, 0.51497995, 0.07853557, 1.1774925], rel=1e-5)


def test_unbalanced_groups_and_two_large_levels() -> None:
    """One group with thousands of rows among many of three; crossed with a level of hundreds."""
    random = np.random.default_rng(1)
    a = np.concatenate([np.zeros(4000, int), np.repeat(np.arange(1, 1001), 3)])
    b = random.integers(0, 300, len(a))
    y = random.normal(0, 1, 1001)[a] + random.normal(0, 0.5, 300)[b] + random.normal(size=len(a))
    frame = pd.DataFrame({"a": a, "b": b, "y": y})
    model, data = built(
        "bias@output level=a prior=learned", "bias@output level=b prior=learned", frame=frame
    )
    result = hlvnn.fit(model, data, hlvnn.TrainConfig())
    assert result.newton_gain < 1e-6
    table = model.summary().set_index(["part", "level"])["estimate"]
    assert table["prior sd", "a"] == pytest.approx(1, rel=0.06)
    assert table["prior sd", "b"] == pytest.approx(0.5, rel=0.12)
    assert table["noise sd", ""] == pytest.approx(1, rel=0.02)


def test_a_variance_at_zero_is_found_and_told(caplog: pytest.LogCaptureFixture) -> None:
    random = np.random.default_rng(3)
    frame = pd.DataFrame({"a": np.tile(np.arange(20), 10), "y": random.normal(size=200)})
    frame["y"] -= 0.999 * frame.groupby("a")["y"].transform("mean")  # groups alike
    model, data = built("bias@output level=a prior=learned", frame=frame)
    result = hlvnn.fit(model, data, hlvnn.TrainConfig())
    plain = len(frame) * (1 + np.log(2 * np.pi * frame["y"].var(ddof=0)))
    assert -2 * result.elbo == pytest.approx(plain, abs=1e-5)
    assert len(result.doubts) == 1
    assert "singular fit" in result.doubts[0]
    assert "its start" not in caplog.text


def test_rows_without_noise_are_told_of() -> None:
    frame = planted()[["a", "x1"]].assign(y=lambda f: f["a"].str[1:].astype(float) + f["x1"])
    model, data = built("bias@output level=a prior=learned", frame=frame)
    result = hlvnn.fit(model, data, hlvnn.TrainConfig())
    assert np.isfinite(result.elbo)
    assert result.doubts[0].startswith("the noise's SD is at its boundary, 0")


def test_more_coordinates_than_rows_under_a_full_covariance_are_not_fitted_exactly() -> None:
    frame = planted().groupby("a").head(2)[["a", "x1", "x2", "y"]]
    model, _ = built("weights@output level=a prior=learned_full", frame=frame)
    reason = exact.why_not_exact(model, hlvnn.TrainConfig())
    assert reason is not None
    assert "as many coordinates in all groups as there are rows" in reason
    model, _ = built("weights@output level=a prior=learned", frame=frame)
    assert exact.why_not_exact(model, hlvnn.TrainConfig()) is None


def test_it_says_in_a_line_what_it_is(caplog: pytest.LogCaptureFixture) -> None:
    model, data = built("bias@output level=a prior=learned")
    with caplog.at_level(logging.INFO, "hlvnn"):
        result = hlvnn.fit(model, data, hlvnn.TrainConfig(num_epochs=7, eval_every=5))
    assert "fitted exactly, as a linear mixed model by maximum likelihood: −2 log p(y) = "  # noqa: PLW0129
    assert f"{-2 * result.elbo:.4f}" in caplog.text
    assert result.history[EXACT].tolist() == [1.0]
    assert result.history["epoch"].tolist() == [1]


@pytest.mark.parametrize(
    ("train", "why"),
    [
        ({"kl_weight": 0.5}, "--kl-weight 0.5 is not 1.0"),
        ({"kl_annealing": 1.0}, "--kl-annealing 1.0 is not 0.0"),
        ({"weight_decay": 0.1}, "--weight-decay 0.1 is not 0.0"),
        ({"objective": "iwae", "num_samples": 2}, "--objective iwae is not elbo"),
    ],
)
def test_other_objectives_are_fitted_by_minibatches_and_told(
    train: dict[str, float], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    model, data = built("bias@output level=a prior=learned")
    hlvnn.fit(model, data, hlvnn.TrainConfig())
    assert model.latents.law is not None
    with caplog.at_level(logging.INFO, "hlvnn"):
        result = hlvnn.fit(model, data, hlvnn.TrainConfig(num_epochs=2, **train))  # type: ignore[arg-type]
    assert f"fitted by minibatches and not exactly: {why}" in caplog.text
    assert result.epochs == 2
    is_of_elbo = "objective" not in train and "kl_weight" not in train
    assert math.isnan(result.newton_gain) is not is_of_elbo
    assert ("a Newton step in the learned SDs" in caplog.text) is (result.newton_gain > 0.01)
    assert model.latents.law is None


@pytest.mark.parametrize(
    "latents",
    [
        ["bias@output level=a prior=learned posterior=mean_field"],
        ["bias@output level=a prior=learned given=none", "bias@output level=b prior=learned"],
        ["bias@output level=a prior=learned centred=false"],
        ["bias@output level=a prior=learned", "bias@output level=b prior=learned posterior=joint"],
    ],
)
def test_a_posterior_that_was_asked_for_is_fitted_by_its_own_elbo(
    latents: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    model, data = built(*latents)
    with caplog.at_level(logging.INFO, "hlvnn"):
        assert hlvnn.fit(model, data, hlvnn.TrainConfig(num_epochs=2)).epochs == 2
    assert "exactly" not in caplog.text


@pytest.mark.parametrize(
    ("latents", "why"),
    [
        (["bias@output level=a prior=standard"], "has prior Standard"),
        (["concat@output level=a width=1 prior=learned"], "passes trained loadings (Concat)"),
    ],
)
def test_models_whose_covariance_is_not_the_priors_alone(latents: list[str], why: str) -> None:
    model, _ = built(*latents)
    reason = exact.why_not_exact(model, hlvnn.TrainConfig())
    assert reason is not None
    assert why in reason


def test_too_many_columns_of_smaller_levels_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = built("bias@output level=a prior=learned", "bias@output level=b prior=learned")
    assert exact.why_not_exact(model, hlvnn.TrainConfig()) is None
    monkeypatch.setattr(exact, "MOST_COLUMNS", 6)
    reason = exact.why_not_exact(model, hlvnn.TrainConfig())
    assert reason == "its levels but the largest have 7 coordinates together, more than 6"


def test_a_checkpoint_goes_on_where_it_ended() -> None:
    model, data = built("bias@output level=a prior=learned", "bias@output level=b prior=learned")
    kept = []
    result = hlvnn.fit(
        model, data, hlvnn.TrainConfig(), lambda epoch, checkpoint: kept.append(checkpoint())
    )
    other, _ = built("bias@output level=a prior=learned", "bias@output level=b prior=learned")
    again = hlvnn.fit(other, data, hlvnn.TrainConfig(), resume=kept[0])
    assert len(kept) == again.epochs == 1
    assert again.elbo == result.elbo
    pd.testing.assert_frame_equal(other.posterior("b"), model.posterior("b"))


def test_what_was_begun_by_minibatches_goes_on_by_minibatches() -> None:
    """As runs of before: their checkpoints hold no law."""
    named, data = built("bias@output level=a prior=learned posterior=mean_field")
    kept = []
    train = hlvnn.TrainConfig(num_epochs=2, eval_every=1)
    whole = hlvnn.fit(
        named, data, train, lambda epoch, checkpoint: kept.append(copy.deepcopy(checkpoint()))
    )
    model, _ = built("bias@output level=a prior=learned")
    result = hlvnn.fit(model, data, train, resume=kept[0])
    assert (result.epochs, result.elbo) == (2, whole.elbo)
    assert model.latents.law is None


def test_a_run_of_a_table_leaves_one_row_and_goes_on_from_its_end(tmp_path: Path) -> None:
    table = tmp_path / "planted.csv"
    planted().to_csv(table, index=False)
    config = run_config(
        {
            "dataset": "table",
            "table": str(table),
            "target": "y",
            "features": ["x1", "x2"],
            "groups": ["a", "b"],
            "backbone": "linear",
            "latent_config": "bias",
            "prior": "learned",
            "unseen": "prior",
            "num_epochs": 9,
            "eval_every": 4,
            "device": "cpu",
        },
        "test",
    )
    folder = tmp_path / "results" / "run"
    result = execute(config, folder)
    (row,) = read_metrics(folder).to_dict("records")
    assert (row["epoch"], row[EXACT]) == (1, 1)
    assert row["val_loss"] < 3
    assert row["elbo"] == pytest.approx(result.elbo, abs=1e-6)
    log = (folder / LOG).read_text()
    assert log.count("fitted exactly") == 1
    assert "epoch 1/1" in log
    run = hlvnn.load_run(folder)
    assert full_elbo(run.model, run.data.train).value == result.elbo
    again = execute(config, folder, resume=True)
    assert (again.epochs, again.elbo) == (1, result.elbo)
    assert len(read_metrics(folder)) == 1


def test_importance_weights_of_an_exact_law_are_equal() -> None:
    model, data = built("bias@output level=a prior=learned", "bias@output level=b prior=learned")
    hlvnn.fit(model, data, hlvnn.TrainConfig())
    rows = planted().head(2).assign(a=["a0", "nobody"])
    table = hlvnn.predict(model, rows, num_samples=50, reweight=data)
    pd.testing.assert_frame_equal(table[["mean", "sd", "sd_mean"]], hlvnn.predict(model, rows))
    assert table["ess"].iloc[0] == 50
    assert table["ess"].isna().tolist() == [False, True]
