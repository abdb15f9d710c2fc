"""Times to a tolerance: every try counts, nobody's budget is chosen, and least values are least."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pandas as pd
import pytest


@pytest.fixture(scope="module")
def insteval(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("insteval")


def halving(budget: float) -> tuple[Callable[[], float], str]:
    """Fit as a method does whose distance from 100 is 64 over its budget."""
    return lambda: 100 + 64 / budget, ""


def test_tries_double_until_the_criterion_stands_still(insteval: ModuleType) -> None:
    tries = insteval.doubled(halving, 1, tolerance=1.0, limit=1000)
    assert [one.budget for one in tries] == [1, 2, 4, 8, 16, 32, 64, 128]
    assert [one.seconds for one in tries] == sorted(one.seconds for one in tries)
    assert insteval.reached(tries, 100, 1.0).budget == 64
    assert insteval.known(tries, 1.0).budget == 128
    assert insteval.reached(tries, 100, 0.1) is None
    assert len(insteval.doubled(halving, 1, tolerance=1.0, limit=0)) == 1


def test_a_method_that_stops_by_itself_is_asked_for_the_tolerance_or_its_own(
    insteval: ModuleType,
) -> None:
    tries = insteval.stopped_by_itself(halving, (1.0, 0.1), 2e5)
    assert [one.budget for one in tries] == [insteval.GPBOOST_TOLERANCE, 0.1 / 2e5]


def test_what_was_not_reached_is_printed_as_such(insteval: ModuleType) -> None:
    tries = [insteval.Try(25, 237760.0, 3.0, ""), insteval.Try(50, 237755.0, 9.0, "")]
    row = insteval.cells(insteval.FITS["ours-2"], [tries, tries], (1.0, 0.1))
    assert row[2:6] == ["9.0 / 9.0", "not in 9", "not in 9", "not in 9"]


def test_the_least_value_is_where_our_fit_ends(insteval: ModuleType) -> None:
    generator = np.random.default_rng(0)
    frame = pd.DataFrame({"s": generator.integers(0, 40, 800), "d": generator.integers(0, 25, 800)})
    frame["service"] = generator.integers(0, 2, 800)
    effects = generator.normal(size=40)[frame["s"]] + generator.normal(size=25)[frame["d"]] / 2
    frame["y"] = 3 + frame["service"] / 2 + effects + generator.normal(size=800)
    frame["dept"] = 0
    least = insteval.least_independent(frame, 1000)
    attempt = insteval.ours("two", 0.1)(frame)
    found = attempt(800)[0]()
    assert found == pytest.approx(least, abs=0.02)
