"""Worlds whose answer is known, as the files that a user would have.

Each function writes a CSV into a folder and returns what was planted in it.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

REVERSED = ("w07", "w08", "w09")
"""Wards of `rules` in which the rule is turned round."""


class Slopes(NamedTuple):
    """What was planted in `slopes`: SDs over pupils, their correlation, the noise, the effects."""

    intercept_sd: float = 2.0
    slope_sd: float = 1.0
    correlation: float = 0.8
    noise: float = 1.0
    intercept: float = 30.0
    slope: float = 3.0


def names(count: int, letter: str = "w") -> list[str]:
    return [f"{letter}{number:02d}" for number in range(count)]


def rules(path: Path, rows: int = 80, flipped: float = 0.05, seed: int = 0) -> None:
    """Ten wards, two classes: `ill` where dose > 0, but in the last three wards where dose < 0.

    A network that knows no wards is right in about 0.95 of 70 % of the rows and in 0.05 of the
    others; one with slopes of its own for each ward in 0.95 of all.
    """
    random = np.random.default_rng(seed)
    parts = []
    for ward in names(10):
        dose, age = random.normal(size=(2, rows))
        ill = (dose < 0) if ward in REVERSED else (dose > 0)
        ill ^= random.random(rows) < flipped
        outcome = np.where(ill, "ill", "well")
        parts.append(pd.DataFrame({"ward": ward, "dose": dose, "age": age, "outcome": outcome}))
    pd.concat(parts).sample(frac=1, random_state=seed).to_csv(path, index=False)


def slopes(path: Path, groups: int = 200, rows: int = 12, seed: int = 0) -> Slopes:
    """Pupils' scores over weeks: intercepts and slopes of pupils that go together (0.8)."""
    truth = Slopes()
    random = np.random.default_rng(seed)
    between = truth.correlation * truth.intercept_sd * truth.slope_sd
    covariance = [[truth.intercept_sd**2, between], [between, truth.slope_sd**2]]
    effects = random.multivariate_normal([truth.intercept, truth.slope], covariance, groups)
    week = np.tile(np.linspace(-2, 2, rows), groups)
    pupil = np.repeat(np.arange(groups), rows)
    score = effects[pupil, 0] + effects[pupil, 1] * week + random.normal(0, truth.noise, len(week))
    labels = np.array(names(groups, "p"))[pupil]
    pd.DataFrame({"pupil": labels, "week": week, "score": score}).to_csv(path, index=False)
    return truth


def clusters(path: Path, seed: int = 0) -> dict[str, int]:
    """Twelve shops in three cities, whose sales lie 10 apart from city to city.

    Returns the city of each shop, which the table does not tell.
    """
    random = np.random.default_rng(seed)
    shops = dict(zip(names(12, "s"), random.permutation(np.repeat([0, 1, 2], 4)), strict=True))
    parts = [
        pd.DataFrame(
            {
                "shop": shop,
                "price": (price := random.normal(size=40)),
                "sales": 50 + 10 * city - 2 * price + random.normal(0, 1, 40),
            }
        )
        for shop, city in shops.items()
    ]
    pd.concat(parts).to_csv(path, index=False)
    return {shop: int(city) for shop, city in shops.items()}
