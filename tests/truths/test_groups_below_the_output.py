"""Groups that differ inside the network: found where they do, and free where they do not."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest

import hlvnn

FEATURES = [f"x{number}" for number in range(10)]
HIDDEN, CLASSES = 32, 10


class World:
    """Classes by a hidden layer whose units a group scales by 1 + F z, z of two dimensions.

    sd: of z; rows: training rows a group, of 20,000 in all.
    """

    def __init__(self, sd: float, rows: int) -> None:
        draws = np.random.default_rng(0)
        self.groups, self.rows = 20_000 // rows, rows
        self.first = draws.normal(size=(len(FEATURES), HIDDEN)) / np.sqrt(len(FEATURES)) * 1.5
        self.second = draws.normal(size=(HIDDEN, CLASSES)) / np.sqrt(HIDDEN) * 3
        self.scales = sd * draws.normal(size=(self.groups, 2)) @ draws.normal(size=(2, HIDDEN))

    def frame(self, rows: int, seed: int) -> tuple[pd.DataFrame, float]:
        """Return rows, so many a group, and the nats a row of who knows the world."""
        draws = np.random.default_rng(seed)
        group = np.repeat(np.arange(self.groups), rows)
        x = draws.normal(size=(len(group), len(FEATURES)))
        eta = (np.tanh(x @ self.first) * (1 + self.scales[group])) @ self.second
        p = np.exp(eta - eta.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        y = (p.cumsum(1) > draws.random(len(group))[:, None]).argmax(1)
        frame = pd.DataFrame(x, columns=FEATURES).assign(g=group, y=y)
        return frame, float(-np.log(p[np.arange(len(y)), y]).mean())


@cache
def world_of(sd: float, rows: int) -> World:
    return World(sd, rows)


@cache  # the diagonal law of `film` is asked for twice
def nats(world: World, structure: str, seed: int = 0, posterior: str | None = None) -> float:
    """Train with plain defaults but for the length; return the test rows' nats a row."""
    train, test = world.frame(world.rows, 1)[0], world.frame(30, 2)[0]
    data = hlvnn.GroupedDataset.from_frame(
        train, target="y", features=FEATURES, groups=["g"], target_kind="class"
    )
    config = hlvnn.ModelConfig(
        backbone="mlp", latent_config=structure, z_dim=(4,), posterior=posterior
    )
    model = hlvnn.build_model(config, data, seed=seed)
    hlvnn.fit(model, data, hlvnn.TrainConfig(num_epochs=12, lr=3e-3), lambda *_: None, seed=seed)
    told = hlvnn.predict(model, test, num_samples=20)
    p = told[[name for name in told.columns if name.startswith("prob_")]].to_numpy()
    return float(-np.log(p[np.arange(len(p)), test["y"]]).mean())


@pytest.mark.parametrize(("rows", "least"), [(15, 0.55), (100, 0.68)])
def test_strong_effects_are_found_from_a_start_at_nothing(rows: int, least: float) -> None:
    """How much of the way from the pooled network to the truth.

    Steps of Adam came .65 and .76 of the way, at the best of four rates each.
    """
    world = world_of(1.0, rows)
    truth, pooled = world.frame(30, 2)[1], nats(world, "none")
    film = nats(world, "film", posterior="mean_field")
    share = (pooled - film) / (pooled - truth)
    print(f"\npooled {pooled:.4f}, film {film:.4f}, truth {truth:.4f}: {share:.2f}")
    assert share > least


def test_so_they_are_by_posteriors_of_other_forms() -> None:
    """As far as `mean_field` does: 1.172 nats, where `low_rank` comes to 1.151, `mixture` 1.150."""
    world = world_of(1.0, 15)
    diagonal = nats(world, "film", posterior="mean_field")
    for posterior in ("low_rank", "mixture"):
        found = nats(world, "film", posterior=posterior)
        print(f"\n{posterior} {found:.4f}, mean_field {diagonal:.4f}")
        assert found < diagonal + 0.01


def test_groups_that_do_not_differ_cost_next_to_nothing() -> None:
    world = World(0.0, 15)
    pooled = nats(world, "none")
    for structure in ("film", "lower"):
        found = nats(world, structure)
        print(f"\n{structure} {found:.4f}, pooled {pooled:.4f}")
        assert found < pooled + 0.004
