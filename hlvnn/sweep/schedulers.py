"""`--scheduler`: what makes each of `hlvnn.records.schedulers`, in one table.

Each but `pbt` is Ray's own class with the epoch as its time. Two rules are the same for all: a
diverged trial is not compared with others, and in its last epoch a trial is left to end by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

from ray.tune.experiment import Trial
from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    HyperBandScheduler,
    MedianStoppingRule,
    TrialScheduler,
)

from hlvnn.columns import DIVERGED
from hlvnn.records.schedulers import ASHA, HYPERBAND, MEDIAN, NONE, PBT
from hlvnn.sweep.comparing import NO_CONTROLLER, PastTrial, Row, is_compared
from hlvnn.sweep.context import Context
from hlvnn.sweep.population import Exchange, Population

NEVER: Any = float("inf")
MIN_TRIALS = 3
"""The median rule stops nobody before it knows this many other trials."""


@dataclass(frozen=True)
class Rules:
    """What a scheduler is made from."""

    metric: str
    mode: str
    max_epochs: int
    grace_period: int
    reduction_factor: float
    num_trials: int = 1
    perturb_every: int = 4
    seed: int = 0
    exchange: Exchange | None = None
    """What lets a population's trials take over each other."""


class Guarded(TrialScheduler):
    """One of Ray's schedulers, given only the results that are to be compared.

    A diverged trial leaves nothing in it: an infinity in a rung of ASHA makes the percentile NaN,
    and a NaN stops nobody.

    inner: the scheduler. metric: what it compares. why: the end of the sentence that says why a
    trial was stopped. replayed: whether results of earlier drivers count when a sweep goes on.
    """

    _supports_buffered_results = False

    def __init__(self, inner: TrialScheduler, metric: str, why: str, replayed: bool) -> None:
        super().__init__()
        self._metric = metric
        self.inner = inner
        self.why = why
        self.replayed = replayed
        self.reasons: dict[str, str] = {}
        """Why each stopped trial was stopped, by Ray's trial id."""
        self._unfinished: dict[int, list[Row]] = {}
        self._last: dict[str, Row] = {}

    def refill(self, ended: Iterable[list[Row]], unfinished: dict[int, list[Row]]) -> None:
        """Take up an earlier driver's results.

        ended: the rows of each trial that ended; unfinished: those of each trial that will go on,
        by its number (they count from when it is queued again, under its new id).
        """
        if not self.replayed:
            return
        for position, rows in enumerate(ended):
            past: Any = PastTrial(f"past {position}")
            self.inner.on_trial_add(NO_CONTROLLER, past)
            self._replay(past, rows)
        self._unfinished = unfinished

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self.inner.on_trial_add(tune_controller, trial)
        self._replay(trial, self._unfinished.get(trial.config["trial"], []))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        assert {"epoch", "num_epochs", self._metric} <= result.keys(), f"incomplete: {result}"
        if not is_compared(result):
            return TrialScheduler.CONTINUE
        self._last[trial.trial_id] = result
        decision: str = self.inner.on_trial_result(tune_controller, trial, result)
        if decision == TrialScheduler.STOP:
            self._note(trial)
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        if result.get(DIVERGED):
            self.inner.on_trial_remove(tune_controller, trial)
        else:
            self.inner.on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        if trial.status == Trial.PAUSED:  # the inner scheduler stops it where it waits
            self._note(trial)
        self.inner.on_trial_remove(tune_controller, trial)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        self.inner.on_trial_error(tune_controller, trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        return self.inner.choose_trial_to_run(tune_controller)

    def debug_string(self) -> str:
        return str(self.inner.debug_string())

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: a sweep is taken up from its own files."""

    def _note(self, trial: Any) -> None:
        row = self._last.get(trial.trial_id)
        if row is not None:
            value = f"{self._metric} {row[str(self._metric)]:.4g} at epoch {row['epoch']:g}"
            self.reasons[trial.trial_id] = f"{value} {self.why}"

    def _replay(self, trial: Any, rows: list[Row]) -> None:
        for row in rows:
            if is_compared(row):
                self.inner.on_trial_result(NO_CONTROLLER, trial, dict(row))


EpochScheduler: TypeAlias = Guarded | Population
"""A scheduler of Ray's that tells why it stopped a trial and can take up an earlier sweep."""


def asha(rules: Rules) -> EpochScheduler:
    """Asynchronous successive halving.

    At rungs (epoch grace_period, then times reduction_factor, …) a trial whose metric is below the
    best 1/reduction_factor of those that reached the rung before it is stopped.

    Source: Li et al. (2020), A System for Massively Parallel Hyperparameter Tuning.
    """
    inner = AsyncHyperBandScheduler(
        time_attr="epoch",
        metric=rules.metric,
        mode=rules.mode,
        max_t=max(rules.max_epochs, rules.grace_period),
        grace_period=rules.grace_period,
        reduction_factor=rules.reduction_factor,
        stop_last_trials=False,  # True compares late results with the lowest rungs' early ones
    )
    why = f"was not among the best 1/{rules.reduction_factor:g}"
    return Guarded(inner, rules.metric, why, replayed=ASHA.resumes)


def hyperband(rules: Rules) -> EpochScheduler:
    """HyperBand: brackets whose trials wait for each other at every rung.

    A resumed sweep begins new brackets with the trials that are left.
    """
    inner = HyperBandScheduler(
        time_attr="epoch",
        metric=rules.metric,
        mode=rules.mode,
        max_t=rules.max_epochs,
        reduction_factor=rules.reduction_factor,
        stop_last_trials=False,
    )
    why = f"was not among the best 1/{rules.reduction_factor:g} of its bracket"
    return Guarded(inner, rules.metric, why, replayed=HYPERBAND.resumes)


def median(rules: Rules) -> EpochScheduler:
    """Median stopping: a trial whose best is below the median of the others' means is stopped."""
    inner = MedianStoppingRule(
        time_attr="epoch",
        metric=rules.metric,
        mode=rules.mode,
        grace_period=rules.grace_period,
        min_samples_required=MIN_TRIALS,
        min_time_slice=NEVER,  # it would pause trials while it knows too few
    )
    why = "was behind the median of the other trials"
    return Guarded(inner, rules.metric, why, replayed=MEDIAN.resumes)


def pbt(rules: Rules) -> EpochScheduler:
    """Population based training: no trial is stopped, the worst take over the best."""
    return Population(
        metric=rules.metric,
        mode=rules.mode,
        num_trials=rules.num_trials,
        perturb_every=rules.perturb_every,
        seed=rules.seed,
        exchange=rules.exchange,
    )


def none(rules: Rules) -> EpochScheduler:
    """Every trial runs to its end."""
    return Guarded(FIFOScheduler(), rules.metric, "", replayed=NONE.resumes)


MAKERS: dict[str, Callable[[Rules], EpochScheduler]] = {
    ASHA.name: asha,
    HYPERBAND.name: hyperband,
    MEDIAN.name: median,
    PBT.name: pbt,
    NONE.name: none,
}
"""A scheduler's name -> what makes it."""


def scheduler_of(context: Context) -> EpochScheduler:
    """Return the scheduler of a sweep."""
    options, space = context.options, context.space
    rules = Rules(
        metric=space.metric,
        mode=space.mode,
        max_epochs=context.plan.max_epochs,
        grace_period=options.grace_period,
        reduction_factor=options.reduction_factor,
        num_trials=options.num_trials,
        perturb_every=options.perturb_every,
        seed=options.seed,
        exchange=Exchange(context),
    )
    return MAKERS[options.scheduler](rules)
