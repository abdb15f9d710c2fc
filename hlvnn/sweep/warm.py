"""`--warm-start`: the trials of another sweep, as completed trials of this one's study.

A trial serves when the search space, asked for the trial's own parameters, draws exactly those and
each lies within its range; so a space whose ranges moved takes what still fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from hlvnn.choices import kept
from hlvnn.columns import validation_of
from hlvnn.errors import ConfigError
from hlvnn.gone import STEPS, without_gone
from hlvnn.records import outcomes, perturbations, trials_table
from hlvnn.records.journal import Journal
from hlvnn.records.outcomes import Status
from hlvnn.search_space import Space, quieting_optuna
from hlvnn.sweep.sameness import is_of_before
from hlvnn.sweep.searchers import Independent
from hlvnn.words import text

SOURCE = "warm_start"
"""Attribute of an Optuna trial that came from elsewhere: the folder of that trial."""


@dataclass
class Earlier:
    """Another sweep's trials, as this space sees them."""

    place: str
    """Its folder or address, as it was given."""
    trials: list[FrozenTrial] = field(default_factory=list)
    """Those that serve."""
    unfit: list[str] = field(default_factory=list)
    """Why each of the others does not."""
    is_of_before: bool = False
    """Whether other steps than today's trained them (`begun_before`)."""

    def told(self) -> str:
        """One line about them."""
        line = f"warm start: {len(self.trials)} trials of {self.place} inform the search"
        if self.is_of_before:
            line += f" (trained before {STEPS}: today's steps may not reach what they did)"
        if not self.unfit:
            return line
        return f"{line}; {len(self.unfit)} do not fit this space, the first: {self.unfit[0]}"


def read(sweep: Path, space: Space, place: str | None = None) -> Earlier:
    """Return the trials of a sweep that serve a space.

    place: where it was copied from, when `sweep` is a copy.
    Raises `ConfigError` when none does or they did not measure the space's metrics, and `RunError`
    when the folder is no sweep or its journal is damaged.
    """
    earlier = Earlier(place or str(sweep), is_of_before=is_of_before(sweep))
    for number, trial in Journal.open(sweep).latest().items():
        outcome = outcomes.read(sweep, number)
        if outcome is None or not outcome.status.facts.teaches or not trial.params:
            continue
        values = _values(sweep, number, outcome.status, space)
        if perturbations.read(outcomes.trial_folder(sweep, number)):
            earlier.unfit.append(f"trial {number}: its settings changed as it ran")
            continue
        try:
            params, distributions = redrawn(space, without_gone(trial.params))
        except Unfit as error:
            earlier.unfit.append(f"trial {number}: {error}")
            continue
        earlier.trials.append(
            completed_trial(params, distributions, values, f"{earlier.place}/{number}")
        )
    if not earlier.trials:
        why = f"; the first that does not fit: {earlier.unfit[0]}" if earlier.unfit else ""
        raise ConfigError(
            f"--warm-start {earlier.place}: none of its trials serves {space.path} "
            f"({len(earlier.unfit)} ended and do not fit{why}); leave --warm-start out, or give a "
            "sweep of a like space"
        )
    return earlier


def learn(study: optuna.Study, earlier: Earlier) -> None:
    """Add another sweep's trials to a study, those that it does not have yet."""
    known = {trial.user_attrs.get(SOURCE) for trial in study.get_trials(deepcopy=False)}
    for trial in earlier.trials:
        if trial.user_attrs[SOURCE] not in known:
            study.add_trial(trial)


def completed_trial(
    params: dict[str, Any],
    distributions: dict[str, BaseDistribution],
    values: Sequence[float],
    source: str,
) -> FrozenTrial:
    """Return a completed trial of an Optuna study, marked with where it came from."""
    return create_trial(
        state=TrialState.COMPLETE,
        values=list(values),
        params=params,
        distributions=distributions,
        user_attrs={SOURCE: source},
    )


class Unfit(ValueError):
    """A trial's parameters are not a draw of the space."""


def redrawn(
    space: Space, params: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
    """Return parameters as a space would draw them, and from which distributions.

    Raises `Unfit` when it never would.
    """
    with quieting_optuna():
        trial = optuna.create_study(sampler=_Replay(params)).ask()
    space.function(trial)
    for name in params:
        if name not in trial.distributions:
            raise Unfit(f"it drew {name} = {text(params[name])}, which is not drawn here")
    return trial.params, trial.distributions


class _Replay(Independent):
    """Draws what was drawn before."""

    def __init__(self, params: dict[str, Any]) -> None:
        self.params = params

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        if param_name not in self.params:
            raise Unfit(f"{param_name} is drawn here, and was not drawn there")
        value = self.params[param_name]
        if isinstance(param_distribution, CategoricalDistribution):
            value = kept(value)  # another study may have kept a list as a list
            if value not in param_distribution.choices:
                known = ", ".join(text(choice) for choice in param_distribution.choices)
                raise Unfit(f"{param_name} = {text(value)} is none of {known}")
            return value
        low, high = param_distribution.low, param_distribution.high
        if isinstance(value, bool | str) or value is None or not low <= value <= high:
            raise Unfit(f"{param_name} = {text(value)} is not in {text(low)} … {text(high)}")
        return value


def _values(sweep: Path, number: int, status: Status, space: Space) -> list[float]:
    """Return what the trial's chosen epoch measured, in this space's metrics."""
    frame = trials_table.metrics(sweep, number)
    if frame is None or status.facts.is_lost:
        return list(space.worsts.values())
    for metric in space.worsts:
        if metric not in frame:
            known = ", ".join(validation_of(frame))
            raise ConfigError(
                f"--warm-start {sweep}: its trials did not measure {metric}, which {space.path} "
                f"selects on; they measured {known}"
            )
    return space.values_of(frame)
