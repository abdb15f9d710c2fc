"""What a sweep searched: its trials as an Optuna study."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import optuna

from hlvnn.records.journal import Drawn
from hlvnn.search_space import quieting_optuna


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
