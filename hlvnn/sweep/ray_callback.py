"""What the driver does when a trial begins, reports or ends: board, outcome, table, terminal."""

from __future__ import annotations

import textwrap
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray.tune import Callback
from ray.tune.experiment import Trial

from hlvnn.columns import DIVERGED
from hlvnn.records import outcomes
from hlvnn.records.outcomes import Outcome, Status
from hlvnn.sweep.context import Context
from hlvnn.sweep.schedulers import EpochScheduler
from hlvnn.sweep.trainable import OUT_OF_MEMORY

HANG_GRACE = 3.0
"""Seconds after --trial-timeout in which a hung trial's process can still tell where it was."""
ERROR_WIDTH = 300
"""Characters of an error that the table holds; error.txt has the rest."""
TABLE_SECONDS = 15
"""How often trials.parquet is written while the sweep runs."""


class Recorder(Callback):
    """Ray Tune's callback: it keeps the board and writes each trial's outcome when it ends."""

    def __init__(self, context: Context, scheduler: EpochScheduler) -> None:
        self.context = context
        self.scheduler = scheduler
        self.saved = time.monotonic()
        self.alive: dict[int, float] = {}
        """When each running trial last told that it lives."""
        self.hung: set[int] = set()
        """Trials whose process was ended because it hung."""
        self.told_of_end = False

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray pickles its arguments into a file that nobody reads

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        number = trial.config["trial"]
        self.context.patience.patiently(
            lambda: outcomes.forget(self.context.sweep, number), f"outcome of trial {number}"
        )
        self.context.mirror.push()  # where it begins the journal has it, wherever it goes on
        self.hung.discard(number)
        self.alive[number] = time.monotonic()
        self.context.board.deadline = self.context.ending.begin()
        self.context.board.began(number)
        entry = self.context.board.entries[number]
        again = f" (start {entry.starts})" if entry.starts > 1 else ""
        self.context.display.event(f"trial {number} began{again}: {entry.settings}")

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **_: Any
    ) -> None:
        number = trial.config["trial"]
        if result["epoch"] > self.context.board.entries[number].epoch:
            trial.run_metadata.num_failures = 0  # it got on: --max-failures counts anew
        self.alive[number] = time.monotonic()
        self.context.board.told(number, result)

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **_: Any
    ) -> None:
        result = trial.last_result
        number = trial.config["trial"]
        self.context.mirror.fetch(number)
        if result.get(OUT_OF_MEMORY):
            reason = "it needed more memory than it had; give trials more of it (--gpus-per-trial)"
            self._end(number, Status.OUT_OF_MEMORY, f"{reason}; see {outcomes.ERROR}")
        elif trial.trial_id in self.context.ending.cut:
            self._end(number, Status.STOPPED, self.context.ending.reason, unfinished=True)
        elif result.get(DIVERGED):
            reason = f"the loss was not finite in epoch {result['epoch']}"
            self._end(number, Status.DIVERGED, reason)
        elif trial.trial_id in self.scheduler.reasons:
            self._end(number, Status.STOPPED, self.scheduler.reasons[trial.trial_id])
        else:
            early = result.get("epoch", 0) < result.get("num_epochs", 0)
            self._end(number, Status.COMPLETED, "ended by its own --patience" if early else "")

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        number = trial.config["trial"]
        self.context.board.entries[number].status = Status.NOT_STARTED
        why = self._hung_reason() if number in self.hung else last_line(trial)
        self.context.display.event(f"trial {number} will go on after an error: {why}", lasting=True)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        number = trial.config["trial"]
        self.context.mirror.fetch(number)
        file = self.context.folder(number) / outcomes.ERROR
        reason = f"see {file.name}" if file.exists() else "its process ended"
        if number in self.hung:
            reason = f"hung: {self._hung_reason()}"
        self._end(number, Status.FAILED, reason, error=last_line(trial))

    def on_step_end(self, iteration: int, trials: list[Trial], **_: Any) -> None:
        self.context.display.refresh()
        self.context.ending.busy = any(trial.status == Trial.RUNNING for trial in trials)
        ending = self.context.ending
        if ending.is_winding_down and not self.told_of_end:
            self.told_of_end = True
            why = "interrupted" if ending.interrupted else ending.reason
            self.context.display.event(
                f"{why}: running trials finish their epoch; Ctrl-C again stops them now",
                lasting=True,
            )
        if self.context.options.trial_timeout is not None:
            self._end_hung(trials, self.context.options.trial_timeout)
        self.context.mirror.push_now_and_then()
        began = time.monotonic()
        if began - self.saved > TABLE_SECONDS:
            with suppress(OSError):  # a full disk: the next one will do
                self.context.save_table(alive=True)
            self.saved = began + 20 * (time.monotonic() - began)  # at most a twentieth of the time

    def _end_hung(self, trials: list[Trial], timeout: float) -> None:
        """End the processes of trials that have told nothing for too long; Ray then sees it."""
        late = time.monotonic() - timeout - HANG_GRACE
        for trial in trials:
            actor = trial.temporary_state.ray_actor
            number = trial.config["trial"]
            if trial.status == Trial.RUNNING and actor and self.alive.get(number, late) < late:
                self.hung.add(number)
                self.alive[number] = time.monotonic()
                ray.kill(actor)

    def _hung_reason(self) -> str:
        seconds = self.context.options.trial_timeout
        return (
            f"no epoch was finished within {seconds:g} s (--trial-timeout); "
            f"{outcomes.HUNG} tells where it was"
        )

    def close(self, reason: str) -> None:
        """Record the trials that the sweep's end cut short, and why it ended."""
        for entry in self.context.board.having(Status.RUNNING):
            self.context.mirror.fetch(entry.number)
            self._end(entry.number, Status.STOPPED, reason, unfinished=True)

    def _end(
        self, number: int, status: Status, reason: str, error: str = "", unfinished: bool = False
    ) -> None:
        entry = self.context.board.entries[number]
        outcome = Outcome(
            trial=number,
            status=status,
            reason=reason,
            error=error,
            unfinished=unfinished,
            wall_seconds=time.monotonic() - entry.started if entry.started is not None else 0.0,
            starts=entry.starts,
            cpus=self.context.options.cpus_per_trial,
            gpus=self.context.options.gpus,
            node=entry.node,
            ran_on=entry.ran_on,
        )
        self.context.patience.patiently(
            lambda: outcomes.write(self.context.sweep, outcome), f"outcome of trial {number}"
        )
        self.context.board.ended(outcome)
        self.context.ending.failed += status == Status.FAILED
        metric = self.context.space.metric
        best = "" if entry.best is None else f", best {metric} {entry.best:.4g}"
        why = f": {error or reason}" if error or reason else ""
        self.context.display.event(
            f"trial {number} {status} after {entry.epoch} epochs{best}{why}",
            lasting=status == Status.FAILED,
        )


def last_line(trial: Trial) -> str:
    """Return the last line of what Ray knows of a trial's error, cut where it goes on and on."""
    if not trial.error_file or not Path(trial.error_file).exists():
        return ""
    lines = Path(trial.error_file).read_text(encoding="utf-8").strip().splitlines()
    return textwrap.shorten(lines[-1], ERROR_WIDTH, placeholder=" …") if lines else ""
