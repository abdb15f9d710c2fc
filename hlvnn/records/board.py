"""The state of a running sweep as its driver knows it: what the live table shows."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hlvnn.columns import DIVERGED, RAN_ON, VAL_GROUP_WORST
from hlvnn.records.outcomes import OVER, PLACED, Outcome, Status
from hlvnn.search_space import Space
from hlvnn.words import shown

if TYPE_CHECKING:
    from hlvnn.records.journal import Draw


@dataclass
class Entry:
    """One trial on the board."""

    number: int
    settings: str
    """What was drawn, as one line."""
    num_epochs: int
    status: Status = Status.NOT_STARTED
    epoch: int = 0
    first_epoch: int = 0
    """Epochs that it had behind it when this driver started it."""
    metric: float | None = None
    best: float | None = None
    worst_group: float | None = None
    started: float | None = None
    starts: int = 0
    node: str = ""
    ran_on: str = ""


@dataclass
class Board:
    """Every trial drawn so far, and the sweep's clock."""

    space: Space
    num_trials: int
    slots: int
    deadline: float | None = None
    """When the time budget ends (on `time.monotonic`'s clock)."""
    entries: dict[int, Entry] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    def add(self, draw: Draw) -> None:
        """Put a trial on the board when it is drawn first."""
        if draw.number not in self.entries:
            epochs = int(draw.settings.get("num_epochs", 0))
            self.entries[draw.number] = Entry(draw.number, shown(draw.drawn), epochs)

    def began(self, number: int) -> None:
        """Note that a trial runs."""
        entry = self.entries[number]
        entry.status = Status.RUNNING
        entry.started = time.monotonic()
        entry.starts += 1

    def told(self, number: int, result: dict[str, Any]) -> None:
        """Note a result of a trial."""
        entry = self.entries[number]
        if entry.epoch == 0 and entry.first_epoch == 0:
            entry.first_epoch = int(result["epoch"]) - 1
        entry.epoch = int(result["epoch"])
        entry.num_epochs = int(result["num_epochs"])
        entry.node = str(result.get("hostname", ""))
        entry.ran_on = str(result.get(RAN_ON, ""))
        value = float(result[self.space.metric])
        entry.worst_group = result.get(VAL_GROUP_WORST)
        entry.metric = value
        if not result[DIVERGED] and (entry.best is None or self.space.is_better(value, entry.best)):
            entry.best = value

    def ended(self, outcome: Outcome) -> None:
        """Note how a trial ended."""
        self.entries[outcome.trial].status = outcome.status

    def having(self, *statuses: Status) -> list[Entry]:
        """Return the trials in any of these states."""
        return [entry for entry in self.entries.values() if entry.status in statuses]

    @property
    def best(self) -> Entry | None:
        """The trial with the best validation metric so far."""
        found: Entry | None = None
        for entry in self.having(*PLACED, Status.RUNNING):
            if entry.best is None:
                continue
            if found is None or found.best is None or self.space.is_better(entry.best, found.best):
                found = entry
        return found

    def seconds_left(self) -> float | None:
        """Return about how long the sweep will go on, or None before a trial has ended.

        Trials still to come are taken to last as many epochs as those that ended, at the rate so
        far; the time budget is an upper bound.
        """
        now = time.monotonic()
        budget = None if self.deadline is None else max(0.0, self.deadline - now)
        over = self.having(*OVER)
        ended = [entry for entry in over if entry.status.facts.teaches]
        done_here = sum(max(0, e.epoch - e.first_epoch) for e in self.entries.values() if e.starts)
        if not ended or not done_here:
            return budget
        usual = sum(entry.epoch for entry in ended) / len(ended)
        running = self.having(Status.RUNNING)
        to_come = max(0, self.num_trials - len(over) - len(running))
        epochs = to_come * usual + sum(max(1.0, usual - entry.epoch) for entry in running)
        left = epochs * (now - self.started) / done_here
        return left if budget is None else min(left, budget)
