"""Why and when a sweep ends before its trials do: its time budget, Ctrl-C, a signal."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from ray import tune

from hlvnn.columns import DIVERGED
from hlvnn.words import duration


class Ending(tune.Stopper):
    """Ends the sweep when its time is over, when it is asked to by a signal, or when trials fail.

    When its time is over all trials end at once. Otherwise none begins any more, and each that runs
    finishes its epoch. The time begins with the first trial.

    seconds: the time budget; failures: trials that may fail.
    """

    def __init__(self, seconds: float | None, failures: int | None = None) -> None:
        self.seconds, self.failures = seconds, failures
        self.deadline: float | None = None
        self.failed = 0
        """Trials that failed since this driver began."""
        self.interrupted = False
        self.at_once = False
        """Whether it was interrupted a second time."""
        self.cut: set[str] = set()
        """Ray's ids of the trials that were ended after an epoch that was not their last."""
        self.busy = False
        """Whether a trial runs: one that a scheduler has paused does not."""

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        last = result["epoch"] >= result["num_epochs"] or result[DIVERGED] or result.get("done")
        if not self.is_winding_down or last:  # in its last epoch a trial ends by itself
            return False
        self.cut.add(trial_id)
        return True

    def stop_all(self) -> bool:
        return self.is_out_of_time or (self.is_winding_down and not self.busy)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray pickles its arguments into a file that nobody reads

    def begin(self) -> float | None:
        """Note that a trial begins; return when the time is over, on `time.monotonic`'s clock."""
        if self.deadline is None and self.seconds is not None:
            self.deadline = time.monotonic() + self.seconds
        return self.deadline

    @property
    def has_failed(self) -> bool:
        """Whether more trials failed than may."""
        return self.failures is not None and self.failed > self.failures

    @property
    def is_winding_down(self) -> bool:
        """Whether no further trial begins, and those that run finish their epoch."""
        return self.interrupted or self.has_failed

    @property
    def is_out_of_time(self) -> bool:
        """Whether the time budget is over."""
        return self.deadline is not None and time.monotonic() >= self.deadline

    @property
    def reason(self) -> str:
        """Why the sweep ended."""
        if self.interrupted:
            return "the sweep was interrupted; --resume goes on with it"
        if self.has_failed:
            return f"{self.failed} trials failed (--max-failed-trials); --resume goes on"
        if self.is_out_of_time:
            return f"the time budget of {duration(self.seconds or 0)} was over; --resume goes on"
        return "the sweep broke off; --resume goes on with it"


@contextmanager
def heeding_signals(ending: Ending) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the sweep in order; a second Ctrl-C ends it at once."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        ending.interrupted = True
        signal.signal(signal.SIGINT, interrupt_again)

    def interrupt_again(number: int, frame: FrameType | None) -> None:
        ending.at_once = True
        raise KeyboardInterrupt

    both = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, interrupt) for number in both}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
