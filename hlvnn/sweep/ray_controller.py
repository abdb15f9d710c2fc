"""Ray Tune's loop, mended: for the private parts of one version of Ray (see `ray_patch`)."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ray.exceptions import RayActorError, RayTaskError
from ray.tune.execution.tune_controller import TuneController

from hlvnn.errors import ConfigError

LOST_STARTS = 10
"""Times that a trial may be lost before it ran, which do not count as its failures; after as many
something is wrong with the nodes."""


class Controller(TuneController):
    """Ray Tune's loop, which here hears of a loss once, and does not blame a trial that never ran.

    A trial that takes over the process of an earlier one is told so by a task, `reset`. When that
    process is lost just then, Ray is told twice: at first it takes the trial up again; the second
    time, as the trial waits by now, it ends it for good, whatever --max-failures says. It also
    believes that the reset goes on, and would never start the trial.

    A draw that cannot be valid (`ConfigError`) is not tried again.
    """

    known: Exception | None = None
    """The loss that it was told of last."""
    lost_starts: Counter[str]
    """How often each trial was lost before it ran, by Ray's id."""

    def __init__(self, *args: Any, **named: Any) -> None:
        self.lost_starts = Counter()
        super().__init__(*args, **named)

    def _process_trial_failure(self, trial: Any, exception: Any) -> None:
        if exception is self.known:
            return
        self.known = exception
        if isinstance(exception, RayActorError) and self._is_yet_to_run(trial):
            self._resetting_trials.discard(trial)
            self.lost_starts[trial.trial_id] += 1
            if self.lost_starts[trial.trial_id] <= LOST_STARTS and not exception.preempted:
                trial.run_metadata.num_failures -= 1  # Ray is about to count it
        if isinstance(exception, RayTaskError) and isinstance(exception.cause, ConfigError):
            trial.run_metadata.num_failures = trial.max_failures  # it could only fail again
        super()._process_trial_failure(trial, exception)

    def _is_yet_to_run(self, trial: Any) -> bool:
        if trial in self._resetting_trials:
            return True
        actor = self._trial_to_actor.get(trial)  # of one that ran it is forgotten by now
        return actor is not None and actor not in self._started_actors
