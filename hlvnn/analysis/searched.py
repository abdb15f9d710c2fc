"""What a sweep searched: its parameters with their ranges, and its trials as an Optuna study."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from hlvnn.choices import meant
from hlvnn.records.journal import Drawn
from hlvnn.search_space import quieting_optuna
from hlvnn.words import text

CHOICES = 8
"""Choices of a parameter that are written out."""


@dataclass
class Parameter:
    """A parameter of a search space, as its trials drew it.

    law: its distribution; of a range that differs between trials the widest. values: what each
    trial drew, by its number.
    """

    name: str
    law: BaseDistribution
    values: dict[int, Any] = field(default_factory=dict)

    @property
    def choices(self) -> tuple[Any, ...] | None:
        """What it is chosen from; None for a range."""
        return self.law.choices if isinstance(self.law, CategoricalDistribution) else None

    @property
    def range(self) -> str:
        """What is searched, in words: "0.003 to 0.03 (log)", "none, factor, double"."""
        law = self.law
        if self.choices is not None:
            words = [text(meant(one)) for one in self.choices]
            more = f", … ({len(words)})" if len(words) > CHOICES else ""
            return ", ".join(words[:CHOICES]) + more
        if not isinstance(law, FloatDistribution | IntDistribution):
            return str(law)
        kind = ["log"] if law.log else []
        if law.step is not None and law.step != 1:
            kind.append(f"in steps of {text(law.step)}")
        return f"{text(law.low)} to {text(law.high)}" + (f" ({', '.join(kind)})" if kind else "")


def parameters(drawn: Drawn) -> dict[str, Parameter]:
    """Return what the trials of a sweep drew, by the parameters' names, in their order."""
    found: dict[str, Parameter] = {}
    for number, trial in sorted(drawn.optuna.items()):
        for name, law in trial.distributions.items():
            one = found.setdefault(name, Parameter(name, law))
            one.law = _widest(one.law, law)
            one.values[number] = trial.params[name]
    return found


def _widest(one: BaseDistribution, other: BaseDistribution) -> BaseDistribution:
    if not isinstance(one, FloatDistribution | IntDistribution) or type(one) is not type(other):
        return other
    assert isinstance(other, type(one))
    low, high = min(one.low, other.low), max(one.high, other.high)
    return type(one)(low=low, high=high, log=one.log, step=one.step)  # type: ignore[arg-type]


def study_of(
    drawn: Drawn, trials: Iterable[int], values: Iterable[float], mode: str
) -> optuna.Study:
    """Return trials as drawn, each with its value, as an Optuna study of one objective."""
    with quieting_optuna():
        study = optuna.create_study(direction="minimize" if mode == "min" else "maximize")
    for number, value in zip(trials, values, strict=False):
        known = drawn.optuna.get(int(number))
        if known is not None and np.isfinite(value):
            study.add_trial(
                optuna.create_trial(
                    params=known.params, distributions=known.distributions, value=float(value)
                )
            )
    return study
