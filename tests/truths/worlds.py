"""Worlds whose answer is known, as the files that a user would have.

Each function writes a CSV into a folder and returns what was planted in it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

REVERSED = ("w07", "w08", "w09")
"""Wards of `rules` in which the rule is turned round."""


COINS = ("w18", "w19")
"""Wards of `coins` in which the outcome is a coin's."""

MIRRORED = 5
"""The writer of `strokes` who writes the wrong way round."""
MEASURES = tuple(f"x{place}" for place in range(8))
"""The columns of `few`, of which the first alone tells anything."""


class Slopes(NamedTuple):
    """What was planted in `slopes`: SDs over pupils, their correlation, the noise, the effects."""

    intercept_sd: float = 2.0
    slope_sd: float = 1.0
    correlation: float = 0.8
    noise: float = 1.0
    intercept: float = 30.0
    slope: float = 3.0


class Effects(NamedTuple):
    """What was planted by level: SDs of the lower and the upper level's effects, and the noise's.

    low_effects, high_effects: the effects themselves, by label; …_ml: the SDs of largest likelihood
    where these have a formula.
    """

    low: float
    high: float
    noise: float
    low_effects: pd.Series[float]
    high_effects: pd.Series[float]
    low_ml: float = math.nan
    high_ml: float = math.nan
    noise_ml: float = math.nan


NOBODY = pd.Series(dtype=float)


def names(count: int, letter: str = "w") -> list[str]:
    return [f"{letter}{number:02d}" for number in range(count)]


def rules(
    path: Path,
    rows: int = 80,
    flipped: float = 0.05,
    seed: int = 0,
    turned: Sequence[str] = REVERSED,
) -> None:
    """Ten wards, two classes: `ill` where dose > 0, but in the last three wards where dose < 0.

    turned: those wards; without any, all wards are alike and there is nothing to gain.

    A network that knows no wards is right in about 0.95 of 70 % of the rows and in 0.05 of the
    others; one with slopes of its own for each ward in 0.95 of all.
    """
    random = np.random.default_rng(seed)
    parts = []
    for ward in names(10):
        dose, age = random.normal(size=(2, rows))
        ill = (dose < 0) if ward in turned else (dose > 0)
        ill ^= random.random(rows) < flipped
        outcome = np.where(ill, "ill", "well")
        parts.append(pd.DataFrame({"ward": ward, "dose": dose, "age": age, "outcome": outcome}))
    pd.concat(parts).sample(frac=1, random_state=seed).to_csv(path, index=False)


def coins(path: Path, rows: int = 200, seed: int = 0) -> None:
    """Twenty wards, two classes: `ill` where dose > 0 (19 times in 20); in two wards a coin.

    Nothing but the coins' wards differs, and there nobody can be right in more than half the rows.
    """
    random = np.random.default_rng(seed)
    parts = []
    for ward in names(20):
        dose, age = random.normal(size=(2, rows))
        ill = (dose > 0) ^ (random.random(rows) < 0.05)
        if ward in COINS:
            ill = random.random(rows) < 0.5
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


def schools(path: Path, *, reused: bool, seed: int = 0) -> Effects:
    """Three classes of eight pupils in each of 40 schools, whose class ids are 1 to 3 (reused).

    Effects of schools (SD 3) and of their classes (SD 2), noise 1. The hours are balanced out, so
    that they tell nothing; the table is balanced, and an analysis of variance has the answer.
    """
    upper, lower, rows, (high, low, noise) = 40, 3, 8, (3.0, 2.0, 1.0)
    random = np.random.default_rng(seed)
    effects = random.normal(0, high, (upper, 1, 1)) + random.normal(0, low, (upper, lower, 1))
    marks = 20 + effects + random.normal(0, noise, (upper, lower, rows))
    hours = random.normal(size=marks.shape)
    school, number, _ = (place.ravel() for place in np.indices(marks.shape))
    classes = number + 1 if reused else [f"{s}-{c}" for s, c in zip(school, number, strict=True)]
    frame = pd.DataFrame({"school class": classes, "school": school, "hour": hours.ravel()})
    frame["school"] = "school " + frame["school"].astype(str)
    frame.assign(mark=marks.ravel()).to_csv(path, index=False)
    within = marks.var(axis=2, ddof=1).mean()
    between = rows * marks.mean(2).var(axis=1, ddof=1).mean()
    above = lower * rows * marks.mean((1, 2)).var(ddof=0)
    return Effects(
        *(low, high, noise, NOBODY, NOBODY),
        low_ml=math.sqrt((between - within) / rows),
        high_ml=math.sqrt((above - between) / (lower * rows)),
        noise_ml=math.sqrt(within),
    )


def crossed(path: Path, seed: int = 0) -> Effects:
    """Marks of 40 students by 15 teachers, each pair once: SDs 1 and 2, noise 0.5."""
    low, high, noise = 1.0, 2.0, 0.5
    random = np.random.default_rng(seed)
    students, teachers = names(40, "s"), names(15, "t")
    kind = pd.Series(random.normal(0, low, 40), students)
    strict = pd.Series(random.normal(0, high, 15), teachers)
    pairs = pd.MultiIndex.from_product([students, teachers], names=["student", "teacher"])
    frame = pairs.to_frame(index=False)
    frame["hour"] = random.normal(size=len(frame))
    both = kind[frame["student"]].to_numpy() + strict[frame["teacher"]].to_numpy()
    frame["mark"] = 5 + both + random.normal(0, noise, len(frame))
    frame.to_csv(path, index=False)
    return Effects(low, high, noise, kind, strict)


def shops(path: Path, seed: int = 0) -> Effects:
    """Sales of 60 shops that differ by an SD of 3, 20 days each, noise 1, a slope of 2 on price."""
    low, noise, shop = 3.0, 1.0, names(60, "s")
    random = np.random.default_rng(seed)
    effects = pd.Series(random.normal(0, low, 60), shop)
    effects -= effects.mean()
    frame = pd.DataFrame({"shop": np.repeat(shop, 20), "price": random.normal(size=1200)})
    frame["sales"] = 50 + 2 * frame["price"] + effects[frame["shop"]].to_numpy()
    frame["sales"] += random.normal(0, noise, 1200)
    frame.sample(frac=1, random_state=seed).to_csv(path, index=False)
    return Effects(low, math.nan, noise, effects, NOBODY)


def growth(path: Path, first: int, seed: int = 0) -> Effects:
    """Heights of 60 children over eight years that begin with `first`: slopes 1 ± 0.5, noise 0.7.

    Whatever the first year, the heights are the same.
    """
    random = np.random.default_rng(seed)
    effects = random.multivariate_normal([100, 1], [[4, 0.5], [0.5, 0.25]], 60)
    year, child = np.tile(np.arange(8), 60), np.repeat(np.arange(60), 8)
    height = effects[child, 0] + effects[child, 1] * year + random.normal(0, 0.7, 480)
    labels = np.array(names(60, "c"))[child]
    frame = pd.DataFrame({"child": labels, "year": year + first, "height": height})
    frame.to_csv(path, index=False)
    return Effects(0.5, math.nan, 0.7, NOBODY, NOBODY)


def level_ground(path: Path, seed: int = 0) -> None:
    """Twenty shops whose means are all the same, to the last digit: their variance is 0."""
    random = np.random.default_rng(seed)
    x, noise = random.normal(size=(2, 20, 15))
    x, noise = (part - part.mean(1, keepdims=True) for part in (x, noise))
    frame = pd.DataFrame({"shop": np.repeat(names(20, "s"), 15), "x": x.ravel()})
    frame.assign(y=(100 + 5 * x + 2 * noise).ravel()).to_csv(path, index=False)


def clinics(path: Path, seed: int = 0) -> pd.Series[float]:
    """24 clinics of 100 patients, cured with a chance of 0.1, 0.3 or 0.9; return it by clinic."""
    random = np.random.default_rng(seed)
    chance = pd.Series(np.tile([0.1, 0.3, 0.9], 8), names(24, "c"))
    frame = pd.DataFrame({"clinic": np.repeat(chance.index, 100), "age": random.normal(size=2400)})
    cured = random.random(2400) < chance[frame["clinic"]].to_numpy()
    frame["cured"] = np.where(cured, "yes", "no")
    frame.sample(frac=1, random_state=seed).to_csv(path, index=False)
    return chance


def slugs(path: Path, seed: int = 0) -> pd.Series[float]:
    """Slugs counted in 12 fields, more in rain (0.4 a unit, in logs); return the log rates."""
    random = np.random.default_rng(seed)
    rate = pd.Series(np.linspace(-0.5, 2.5, 12), names(12, "f"))
    frame = pd.DataFrame({"field": np.repeat(rate.index, 40), "rain": random.normal(size=480)})
    log = rate[frame["field"]].to_numpy() + 0.4 * frame["rain"]
    frame.assign(slugs=random.poisson(np.exp(log))).to_csv(path, index=False)
    return rate


def herds(path: Path, seed: int = 0) -> pd.Series[float]:
    """Ill ones among 5 to 39 animals, 40 counts of each of 10 herds; return the herds' log odds."""
    random = np.random.default_rng(seed)
    odds = pd.Series(np.linspace(-2, 2, 10), names(10, "h"))
    frame = pd.DataFrame({"herd": np.repeat(odds.index, 40), "age": random.normal(size=400)})
    frame["animals"] = random.integers(5, 40, 400)
    share = 1 / (1 + np.exp(-odds[frame["herd"]].to_numpy()))
    frame.assign(ill=random.binomial(frame["animals"], share)).to_csv(path, index=False)
    return odds


def few(path: Path, signal: float = 1.5, seed: int = 0) -> pd.DataFrame:
    """300 patients with eight measures, of which the first tells a little (log odds: signal)."""
    random = np.random.default_rng(seed)
    frame = pd.DataFrame(random.normal(size=(300, 8)), columns=[*MEASURES])
    sick = random.random(300) < 1 / (1 + np.exp(-signal * frame["x0"]))
    frame["ward"] = np.tile(names(6), 50)
    frame["sick"] = np.where(sick, "yes", "no")
    frame.to_csv(path, index=False)
    return frame


def strokes(folder: Path) -> None:
    """Images of a stroke at the left (class 0) or at the right (1), by six writers.

    The last one writes mirrored: what the others' strokes mean, his mean the other way round.
    """
    folder.mkdir(parents=True)
    for seed, (part, rows) in enumerate((("train", 360), ("test", 120))):
        random = np.random.default_rng(seed)
        writer, kind = np.arange(rows) % 6, random.integers(0, 2, rows)
        image = random.integers(0, 40, (rows, 8, 8))
        left = (kind == 0) ^ (writer == MIRRORED)
        image[left, 2:6, 1:3] += 170
        image[~left, 2:6, 5:7] += 170
        np.save(folder / f"x_{part}.npy", image.astype(np.uint8))
        np.save(folder / f"gid_{part}.npy", writer.astype(np.int32))
        np.save(folder / f"y_{part}.npy", kind)
