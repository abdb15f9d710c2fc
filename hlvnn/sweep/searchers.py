"""`--searcher`: which of Optuna's samplers each of `hlvnn.records.searchers` is, in one table."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from hlvnn import search_space
from hlvnn.errors import ConfigError
from hlvnn.records.searchers import GP, GRID, QMC, RANDOM, TPE
from hlvnn.search_space import Space, quieting_optuna

GRID_LIMIT = 2000
"""Points of the largest grid."""


def stream(seed: int, trials_before: int) -> int:
    """Return the seed of a sampler that comes after `trials_before` other trials of the study.

    A resumed sweep draws from a stream of its own, or it would repeat its first draws.
    """
    if not trials_before:
        return seed
    return int(np.random.SeedSequence([seed, trials_before]).generate_state(1)[0])


def tpe(seed: int, trials_before: int) -> BaseSampler:
    """Tree-structured Parzen estimators, which know conditional parameters."""
    return search_space.new_sampler(stream(seed, trials_before))


def gp(seed: int, trials_before: int) -> BaseSampler:
    """A Gaussian process; conditional parameters are drawn at random."""
    return optuna.samplers.GPSampler(
        seed=stream(seed, trials_before), warn_independent_sampling=False
    )


def qmc(seed: int, trials_before: int) -> BaseSampler:
    """Scrambled Sobol points, which go on where they were; conditional parameters at random."""
    return optuna.samplers.QMCSampler(
        qmc_type="sobol",
        scramble=True,
        seed=seed,
        independent_sampler=optuna.samplers.RandomSampler(stream(seed, trials_before)),
        warn_asynchronous_seeding=False,
        warn_independent_sampling=False,
    )


def random(seed: int, trials_before: int) -> BaseSampler:
    """Independent draws."""
    return optuna.samplers.RandomSampler(stream(seed, trials_before))


def grid(seed: int, trials_before: int) -> BaseSampler:
    """Every point of a small space once, in random order; conditional parameters are understood."""
    return optuna.samplers.BruteForceSampler(stream(seed, trials_before))


SAMPLERS: dict[str, Callable[[int, int], BaseSampler]] = {
    TPE.name: tpe,
    GP.name: gp,
    QMC.name: qmc,
    RANDOM.name: random,
    GRID.name: grid,
}
"""A searcher's name -> what makes it from a seed and the number of trials there are already."""


def sampler(name: str, seed: int, trials_before: int = 0) -> BaseSampler:
    """Return a searcher. With trials before, it draws from a stream of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return SAMPLERS[name](seed, trials_before)


def grid_size(space: Space, limit: int = GRID_LIMIT) -> int:
    """Return the number of points of a space.

    Raises `ConfigError` for a space that is no grid, or one of more than `limit` points.
    """
    points = _Points()
    with quieting_optuna():
        study = optuna.create_study(sampler=points)
    found = 0
    while found == 0 or points.next():
        found += 1
        if found > limit:
            raise ConfigError(
                f"--searcher grid: {space.path} has more than {limit} points; take another "
                "searcher, or a smaller space"
            )
        try:
            space.function(study.ask())
        except _NoSteps as error:
            raise ConfigError(
                f"--searcher grid: {space.path} draws {error} as a real number without steps; give "
                "it step=…, or suggest_categorical, or take another searcher"
            ) from error
    return found


def check_grid(space: Space, num_trials: int) -> None:
    """Raise `ConfigError` unless `num_trials` different points can be drawn."""
    size = grid_size(space)
    if num_trials > size:
        raise ConfigError(
            f"--searcher grid: {space.path} has {size} points, --num-trials {num_trials} is more; "
            f"give --num-trials {size}"
        )


class _NoSteps(ValueError):
    """A parameter has no finite list of values."""


class Independent(BaseSampler):
    """A sampler that chooses each parameter by itself, in `sample_independent`."""

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}


class _Points(Independent):
    """Counts through a space like an odometer: the last parameter that was drawn turns first."""

    def __init__(self) -> None:
        self.at: list[int] = []
        self.sizes: list[int] = []
        self.drawn = 0

    def next(self) -> bool:
        """Go to the next point; False when there is none."""
        self.drawn = 0
        while self.at:
            self.at[-1] += 1
            if self.at[-1] < self.sizes[-1]:
                return True
            self.at.pop()
            self.sizes.pop()
        return False

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        if self.drawn == len(self.at):
            self.at.append(0)
            self.sizes.append(_size(param_name, param_distribution))
        index = self.at[self.drawn]
        self.drawn += 1
        if isinstance(param_distribution, CategoricalDistribution):
            return param_distribution.choices[index]
        return param_distribution.low + index * param_distribution.step


def _size(name: str, distribution: BaseDistribution) -> int:
    """Return how many values a parameter has."""
    if isinstance(distribution, CategoricalDistribution):
        return len(distribution.choices)
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    if distribution.step is None:
        raise _NoSteps(repr(name))
    return round((distribution.high - distribution.low) / distribution.step) + 1
