"""ASHA by epoch: Ray's scheduler, made safe for diverged, resumed and finishing trials."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

Row = Mapping[str, float]
NO_CONTROLLER: Any = None
"""Ray's scheduler takes its controller as an argument and does not use it."""


@dataclass(frozen=True)
class PastTrial:
    """Stands for a trial of an earlier driver, whose results fill the rungs."""

    trial_id: str


class EpochHalving(AsyncHyperBandScheduler):
    """Asynchronous successive halving with the epoch as its time.

    At rungs (epoch grace_period, then times reduction_factor, …) a trial whose metric is below the
    best 1/reduction_factor of those that reached the rung before it is stopped.

    What differs from Ray's: a diverged trial is not compared and leaves nothing in a rung (an
    infinity there makes the percentile NaN, and a NaN stops nobody); in its last epoch a trial is
    left to end by itself; the rungs are refilled from the results of a sweep that is resumed.

    Source: Li et al. (2020), A System for Massively Parallel Hyperparameter Tuning.
    """

    def __init__(
        self,
        *,
        metric: str,
        mode: str,
        max_epochs: int,
        grace_period: int,
        reduction_factor: float,
    ) -> None:
        super().__init__(
            time_attr="epoch",
            metric=metric,
            mode=mode,
            max_t=max(max_epochs, grace_period),
            grace_period=grace_period,
            reduction_factor=reduction_factor,
            stop_last_trials=False,  # True compares late results with the lowest rungs' early ones
        )
        self.reasons: dict[str, str] = {}
        """Why each stopped trial was stopped, by Ray's trial id."""
        self._unfinished: dict[int, list[Row]] = {}

    def refill(self, ended: Iterable[list[Row]], unfinished: dict[int, list[Row]]) -> None:
        """Fill the rungs with an earlier driver's results.

        ended: the rows of each trial that ended; unfinished: those of each trial that will go on,
        by its number (they count from when it is queued again, under its new id).
        """
        for position, rows in enumerate(ended):
            past: Any = PastTrial(f"past {position}")
            super().on_trial_add(NO_CONTROLLER, past)
            self._replay(past, rows)
            super().on_trial_remove(NO_CONTROLLER, past)
        self._unfinished = unfinished

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, trial)
        self._replay(trial, self._unfinished.get(trial.config["trial"], []))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        assert {"epoch", "num_epochs", self._metric} <= result.keys(), f"incomplete: {result}"
        if not compared(result):
            return TrialScheduler.CONTINUE
        decision: str = super().on_trial_result(tune_controller, trial, result)
        if decision == TrialScheduler.STOP:
            value = f"{self._metric} {result[str(self._metric)]:.4g} at epoch {result['epoch']:g}"
            self.reasons[trial.trial_id] = (
                f"{value} was not among the best 1/{self._reduction_factor:g}"
            )
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        super().on_trial_remove(tune_controller, trial)  # its results are in the rungs already

    def _replay(self, trial: Any, rows: list[Row]) -> None:
        for row in rows:
            if compared(row):
                super().on_trial_result(NO_CONTROLLER, trial, dict(row))


def compared(row: Row) -> bool:
    """Whether a result takes part in the comparison at rungs."""
    return not row["diverged"] and row["epoch"] < row["num_epochs"]
