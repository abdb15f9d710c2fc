"""Groups whose few rows tell little: planted SDs are found with nobody turning a knob."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest

import hlvnn

FEATURES = [f"x{number}" for number in range(5)]
KINDS = {"gaussian": "real", "bernoulli": "class", "poisson": "count"}
SLOPES = np.array([0.5, -0.3, 0.2, 0.0, 0.1])


def planted(
    kind: str, sizes: np.ndarray, sd: float, noise: float = 0.0, seed: int = 0
) -> pd.DataFrame:
    """Return rows of groups of these sizes, whose intercepts have the SD."""
    draws = np.random.default_rng(seed)
    group = np.repeat(np.arange(len(sizes)), sizes)
    x = draws.normal(size=(len(group), len(SLOPES)))
    eta = x @ SLOPES + sd * draws.normal(size=len(sizes))[group]
    if kind == "gaussian":
        y = eta + noise * draws.normal(size=len(eta))
    elif kind == "bernoulli":
        y = (draws.random(len(eta)) < 1 / (1 + np.exp(-eta))).astype(int)
    else:
        y = draws.poisson(np.exp(eta))
    return pd.DataFrame(x, columns=FEATURES).assign(g=group, y=y)


def found(
    frame: pd.DataFrame,
    kind: str,
    backbone: str = "mlp",
    posterior: str | None = None,
    settings: hlvnn.TrainConfig | None = None,
) -> dict[str, float]:
    """Fit with plain defaults, or as told; return the SDs in y's units."""
    data = hlvnn.GroupedDataset.from_frame(
        frame, target="y", features=FEATURES, groups=["g"], target_kind=KINDS[kind]
    )
    latent = hlvnn.LatentConfig(level="g", stage="output", placement="bias", posterior=posterior)
    config = hlvnn.ModelConfig(backbone=backbone, likelihood=kind, latents=[latent])
    model = hlvnn.build_model(config, data, seed=0)
    hlvnn.fit(model, data, settings or hlvnn.TrainConfig(), lambda *_: None)
    scale = model.likelihood.units()[1]
    return {
        "sd": float(model.latents[0].prior().stddev.detach()) * scale,
        **model.likelihood.terms(),
    }


@pytest.mark.parametrize(
    ("sizes", "sd", "noise"),
    [
        (np.full(6_000, 2), 0.8, 0.7),
        (np.full(10_000, 2), 0.4, 1.0),
        (np.append(np.full(1000, 3), 10_000), 0.8, 0.7),
    ],
    ids=["strong", "weak", "one group of 10,000 rows"],
)
def test_an_mlp_finds_the_sds_of_small_groups(sizes: np.ndarray, sd: float, noise: float) -> None:
    frame = planted("gaussian", sizes, sd, noise)
    exact = found(frame, "gaussian", "linear")
    assert exact["sd"] == pytest.approx(sd, rel=0.1)
    network = found(frame, "gaussian")
    print(f"\nSD {network['sd']:.4f} ({exact['sd']:.4f} exactly), noise {network['noise sd']:.4f}")
    assert network["sd"] == pytest.approx(exact["sd"], rel=0.1)
    assert network["noise sd"] == pytest.approx(exact["noise sd"], rel=0.1)


@pytest.mark.parametrize(
    ("kind", "groups", "rows", "sd"), [("bernoulli", 2500, 8, 1.0), ("poisson", 5000, 4, 0.5)]
)
def test_an_mlp_finds_the_sds_of_small_groups_of_counts(
    kind: str, groups: int, rows: int, sd: float
) -> None:
    network = found(planted(kind, np.full(groups, rows), sd), kind)
    print(f"\n{kind}: SD {network['sd']:.4f} (planted {sd})")
    assert network["sd"] == pytest.approx(sd, rel=0.1)


@cache
def pairs(sd: float, noise: float) -> tuple[pd.DataFrame, dict[str, float]]:
    """Return 10,000 groups of two rows, and their exact fit."""
    frame = planted("gaussian", np.full(10_000, 2), sd, noise)
    return frame, found(frame, "gaussian", "linear")


@pytest.mark.parametrize("posterior", ["low_rank", "mixture"])
@pytest.mark.parametrize(
    ("sd", "noise"), [pytest.param(0.8, 0.7, marks=pytest.mark.slow), (0.4, 1.0)]
)
def test_so_it_does_by_posteriors_of_other_forms(posterior: str, sd: float, noise: float) -> None:
    frame, exact = pairs(sd, noise)
    network = found(frame, "gaussian", posterior=posterior)
    print(f"\n{posterior}: SD {network['sd']:.4f} ({exact['sd']:.4f} exactly)")
    assert network["sd"] == pytest.approx(exact["sd"], rel=0.1)
    assert network["noise sd"] == pytest.approx(exact["noise sd"], rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("posterior", ["low_rank", "mixture"])
def test_so_it_does_of_counts(posterior: str) -> None:
    network = found(planted("poisson", np.full(5000, 4), 0.5), "poisson", posterior=posterior)
    print(f"\n{posterior}: SD {network['sd']:.4f} (planted 0.5)")
    assert network["sd"] == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize(
    ("kind", "groups", "rows", "sd"),
    [
        ("gaussian", 3000, 2, 0.8),
        pytest.param("bernoulli", 2500, 8, 1.0, marks=pytest.mark.slow),
    ],
)
def test_so_it_does_on_the_importance_weighted_bound(
    kind: str, groups: int, rows: int, sd: float
) -> None:
    frame = planted(kind, np.full(groups, rows), sd, 0.7)
    settings = hlvnn.TrainConfig(objective="iwae", num_samples=5)
    network = found(frame, kind, settings=settings)
    print(f"\niwae, {kind}: SD {network['sd']:.4f} (planted {sd})")
    assert network["sd"] == pytest.approx(sd, rel=0.1)
    if kind == "gaussian":
        assert network["noise sd"] == pytest.approx(0.7, rel=0.03)
