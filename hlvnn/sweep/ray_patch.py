"""What Ray (2.60) gets wrong when nodes are lost, mended for as long as a sweep runs."""

from __future__ import annotations

import importlib
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.tune.execution.tune_controller import TuneController

VERSION = "2.60."
"""Of Ray, whose private parts these are."""
LOST_STARTS = 10
"""Times that a trial may be lost before it ran, which do not count as its failures; after as many
something is wrong with the nodes."""
NOTICE_WIDTH = 160
"""Characters of a notice that are shown."""


class Controller(TuneController):
    """Ray Tune's loop, which here hears of a loss once, and does not blame a trial that never ran.

    A trial that takes over the process of an earlier one is told so by a task, `reset`. When that
    process is lost just then, Ray is told twice: at first it takes the trial up again; the second
    time, as the trial waits by now, it ends it for good, whatever --max-failures says. It also
    believes that the reset goes on, and would never start the trial.
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
        if isinstance(exception, RayActorError) and self._never_ran(trial):
            self._resetting_trials.discard(trial)
            self.lost_starts[trial.trial_id] += 1
            if self.lost_starts[trial.trial_id] <= LOST_STARTS and not exception.preempted:
                trial.run_metadata.num_failures -= 1  # Ray is about to count it
        super()._process_trial_failure(trial, exception)

    def _never_ran(self, trial: Any) -> bool:
        if trial in self._resetting_trials:
            return True
        actor = self._trial_to_actor.get(trial)  # of one that ran it is forgotten by now
        return actor is not None and actor not in self._started_actors


@contextmanager
def mended(tell: Callable[[str], None]) -> Iterator[None]:
    """Let Ray Tune use `Controller`, and tell Ray's notices in a line each.

    Such a notice (a node was lost, say) is up to a hundred lines of a log, which Ray prints over
    whatever is on the terminal. Another Ray is left as it is: these are its private parts.
    """
    if not ray.__version__.startswith(VERSION):
        yield
        return
    worker: Any = importlib.import_module("ray._private.worker")
    tuning: Any = importlib.import_module("ray.tune.tune")
    before = worker.print_to_stdstream, tuning.TuneController

    told = ""

    def notice(data: dict[str, Any], ignore_prefix: bool) -> None:
        nonlocal told
        for text in data["lines"]:
            first, *_ = str(text).strip().splitlines() or [""]
            if first != told:
                tell(f"Ray: {textwrap.shorten(first, NOTICE_WIDTH, placeholder=' …')}")
            told = first

    worker.print_to_stdstream, tuning.TuneController = notice, Controller
    try:
        yield
    finally:
        worker.print_to_stdstream, tuning.TuneController = before
