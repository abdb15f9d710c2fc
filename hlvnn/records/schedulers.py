"""What there is to know of each scheduler (`--scheduler`) without Ray: one record for each.

A **rung** is an epoch at which a scheduler compares trials and stops the worse ones. A trial that
is not evaluated in that very epoch is compared when it is evaluated next.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Halving:
    """What rungs follow from: the longest trial's epochs, and the two options of that name."""

    max_epochs: int
    grace_period: int
    reduction_factor: float


Rungs = Callable[[Halving], list[int]]


@dataclass(frozen=True)
class Scheduler:
    """What decides when a trial ends early; `hlvnn.sweep.schedulers` makes it."""

    name: str
    """As it is typed."""
    title: str
    """As it is called in a report."""
    sentence: str
    """What it does, after its name, for --help."""
    options: tuple[str, ...] = ()
    """The sweep's options that it reads."""
    stops: bool = True
    """Whether it ends trials early; without, each runs to its end."""
    resumes: bool = True
    """Whether what an earlier driver's trials reached counts when the sweep goes on."""
    perturbs: bool = False
    """Whether it changes the settings of trials as they run. A searcher that learns would mistake
    what they reached for the doing of the settings they were drawn with, and who comes later cannot
    join."""
    smallest: int = 1
    """Trials that it needs at least."""
    compares_at: Rungs | None = None
    """What makes the rungs; None: it has none."""
    drawn_at_once: Callable[[Halving, int], int] | None = None
    """How many trials are drawn at once where so many are to run; None: each when it can begin."""

    @property
    def is_waiting(self) -> bool:
        """Whether its trials wait for each other, so that many must be there (no --max-concurrent).

        Drawn one by one, as they can begin, each would be alone and never be compared.
        """
        return self.drawn_at_once is not None

    @property
    def has_rungs(self) -> bool:
        """Whether there are epochs at which it compares trials."""
        return self.compares_at is not None

    def rungs(self, halving: Halving) -> list[int]:
        """Return the epochs before the last at which trials are compared, in order."""
        return [] if self.compares_at is None else self.compares_at(halving)

    def expected_share(self, halving: Halving) -> float:
        """Return the share of all epochs that is trained when 1/reduction_factor passes each rung.

        The rungs are ASHA's; for HyperBand and the median rule this is a guess.
        """
        if not self.stops:
            return 1.0
        total, alive, before = 0.0, 1.0, 0.0
        for milestone in milestones(halving):
            total += alive * (milestone - before)
            alive, before = alive / halving.reduction_factor, milestone
        return (total + alive * (halving.max_epochs - before)) / halving.max_epochs


def milestones(halving: Halving) -> list[float]:
    """Return ASHA's times of comparison: grace_period, then times reduction_factor, and so on."""
    found: list[float] = []
    time = float(halving.grace_period)
    while time < halving.max_epochs:
        found.append(time)
        time = halving.grace_period * halving.reduction_factor ** len(found)
    return found


def _asha_rungs(halving: Halving) -> list[int]:
    """Each of ASHA's milestones, or the first whole epoch after it."""
    epochs = {math.ceil(milestone) for milestone in milestones(halving)}
    return sorted(epoch for epoch in epochs if epoch < halving.max_epochs)


def _brackets(halving: Halving) -> int:
    """How many brackets a HyperBand has, of which one compares nobody."""
    return round(math.log(halving.max_epochs) / math.log(halving.reduction_factor)) + 1


def _hyperband_rungs(halving: Halving) -> list[int]:
    """Those of all brackets: bracket s compares s times, from 1/reduction_factor**s of the epochs.

    Whole epochs in between, as Ray rounds them down at each step.
    """
    longest, factor = halving.max_epochs, halving.reduction_factor
    found = set()
    for bracket in range(_brackets(halving)):
        rung = int(longest * factor**-bracket)
        if rung == 0:  # too short a bracket, which Ray leaves out
            continue
        for _ in range(bracket):
            found.add(rung)
            rung = int(min(rung * factor, longest))
    return sorted(rung for rung in found if rung < longest)


def _whole_band(halving: Halving, to_run: int) -> int:
    """How many trials fill all brackets of a HyperBand."""
    brackets = _brackets(halving)
    sizes = (brackets / (s + 1) * halving.reduction_factor**s for s in range(brackets))
    return sum(math.ceil(size) for size in sizes)


def _everybody(halving: Halving, to_run: int) -> int:
    return to_run


ASHA = Scheduler(
    name="asha",
    title="ASHA",
    sentence="stops the worse ones at rungs, without waiting",
    options=("grace_period", "reduction_factor"),
    compares_at=_asha_rungs,
)
HYPERBAND = Scheduler(
    name="hyperband",
    title="HyperBand",
    sentence="does so in brackets whose trials wait for each other",
    options=("reduction_factor",),
    resumes=False,
    compares_at=_hyperband_rungs,
    drawn_at_once=_whole_band,
)
MEDIAN = Scheduler(
    name="median",
    title="the median rule",
    sentence="stops those behind the median of the others",
    options=("grace_period",),
)
PBT = Scheduler(
    name="pbt",
    title="population based training",
    sentence=(
        "stops none: the worst take over the weights of the best, with other learning rates and "
        "the like (see --perturb-every)"
    ),
    options=("perturb_every",),
    stops=False,
    perturbs=True,
    smallest=4,  # its worst quarter is one
    drawn_at_once=_everybody,
)
NONE = Scheduler(
    name="none",
    title="no scheduler",
    sentence="lets every trial run to its end",
    stops=False,
    resumes=False,
)

SCHEDULERS = {scheduler.name: scheduler for scheduler in (ASHA, HYPERBAND, MEDIAN, PBT, NONE)}
"""Every scheduler by its name, in the order in which --help lists them."""


def users_of(option: str) -> str:
    """Return the names of the schedulers that read an option, as one text."""
    return ", ".join(one.name for one in SCHEDULERS.values() if option in one.options)
