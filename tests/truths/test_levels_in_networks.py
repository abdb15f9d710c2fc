"""Two levels in a network: planted SDs of both are found with nobody turning a knob."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import hlvnn

FEATURES = ["a", "b", "c"]
SD = {"class": 0.8, "school": 0.6}
NOISE = 0.7


def planted(kind: str, school: np.ndarray, group: np.ndarray) -> hlvnn.GroupedDataset:
    """Return rows whose classes and schools have intercepts of the planted SDs."""
    draws = np.random.default_rng(0)
    x = draws.normal(size=(len(group), 3))
    eta = x @ [0.5, -0.3, 0.2] + SD["school"] * draws.normal(size=school.max() + 1)[school]
    eta = eta + SD["class"] * draws.normal(size=group.max() + 1)[group]
    frame = pd.DataFrame(x, columns=FEATURES).assign(**{"class": group, "school": school})
    frame["y"] = eta + NOISE * draws.normal(size=len(eta))
    if kind == "bernoulli":
        frame["y"] = (draws.random(len(eta)) < 1 / (1 + np.exp(-eta))).astype(int)
    return hlvnn.GroupedDataset.from_frame(
        frame,
        target="y",
        features=FEATURES,
        groups=["class", "school"],
        target_kind="class" if kind == "bernoulli" else "real",
    )


def found(data: hlvnn.GroupedDataset, kind: str, how: str, backbone: str = "mlp") -> dict:
    """Fit with plain defaults; return the SDs in y's units, and −2·ELBO."""
    at = {"stage": "output", "placement": "bias"}
    lower = {"nested": {"prior": "nested", "parent": "school"}, "given": {"given": "school"}}
    upper = {"width": 1, "prior": "learned"} if how == "nested" else at
    latents = [
        hlvnn.LatentConfig(level="class", **at, **lower.get(how, {})),
        hlvnn.LatentConfig(level="school", **upper),
    ]
    config = hlvnn.ModelConfig(backbone=backbone, likelihood=kind, latents=latents)
    model = hlvnn.build_model(config, data, seed=0)
    result = hlvnn.fit(model, data, hlvnn.TrainConfig(), lambda *_: None)
    scale = model.likelihood.units()[1]
    sds = {x.name.split()[0]: float(x.prior().stddev.detach()) * scale for x in model.latents}
    return {**sds, **model.likelihood.terms(), "criterion": -2 * result.elbo}


def nested_ids(schools: int, classes: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    group = np.repeat(np.arange(schools * classes), rows)
    return group // classes, group


@pytest.mark.parametrize("how", ["nested", "given"])
@pytest.mark.parametrize(("kind", "rows"), [("gaussian", 4), ("bernoulli", 12)])
def test_classes_in_schools(kind: str, rows: int, how: str) -> None:
    data = planted(kind, *nested_ids(300, 8, rows))
    own = found(data, kind, how)
    print(f"\n{kind}, {how}: {own}")
    for level, sd in SD.items():
        assert own[level] == pytest.approx(sd, rel=0.12), "its SE over groups is 4 %"
    if kind == "gaussian":
        assert own["noise sd"] == pytest.approx(NOISE, rel=0.05)
        apart = found(data, kind, "additive")
        assert own["criterion"] < apart["criterion"] - 100, "q knows what the levels share"


def test_levels_that_cross_one_of_few_groups() -> None:
    """Fewer groups than a batch has rows: each row's own gradient is known of both levels."""
    draws = np.random.default_rng(1)
    ids = draws.integers(0, 60, 12_000), draws.integers(0, 1500, 12_000)
    data = planted("gaussian", *ids)
    exact, own = (found(data, "gaussian", "crossed", one) for one in ("linear", "mlp"))
    print(f"\nexact {exact}, MLP {own}")
    for level in SD:
        assert own[level] == pytest.approx(exact[level], rel=0.1)
