"""The best trial with latents beside what it is compared with: every measure, every level."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar

import pandas as pd

from hlvnn.analysis.gains import gains
from hlvnn.analysis.pairs import Fair
from hlvnn.analysis.results import Results
from hlvnn.analysis.verdict import (
    Beside,
    Disagreement,
    disagreement,
    of_metrics,
    over_rows,
    weak_end,
)

T = TypeVar("T")


class Trying(Protocol):
    """What measures and notes what cannot be: `Measured._try`."""

    def __call__(self, what: str, measure: Callable[[], T]) -> T | None:
        """Return what `measure` returns, or None where it cannot."""


@dataclass
class Compared:
    """A pair by every measure, and by the groups of each level.

    beside: rows of the verdict, those of the first baseline first. by_level: `gains` in the main
    measure over the first baseline, of each level that has some. fair: at which epochs.
    """

    split: str = ""
    fair: Fair | None = None
    beside: list[Beside] = field(default_factory=list)
    by_level: dict[str, pd.DataFrame] = field(default_factory=dict)
    disagreement: Disagreement | None = None

    @classmethod
    def of(cls, results: Results, attempt: Trying) -> Compared:
        """Measure it; what cannot be measured is left out, and `attempt` knows why."""
        found = cls()
        latent = results.latent_trial
        for other in [] if latent is None else results.baselines(latent):
            found._add(results, other, attempt)
        found.disagreement = attempt("disagreement", lambda: disagreement(results))
        return found

    def _add(self, results: Results, other: int, attempt: Trying) -> None:
        main, nats = results.groups.main_measure, "loss"
        frames: dict[str, list[pd.DataFrame]] = {main: [], nats: []}
        levels: list[str | None] = [*results.groups.levels] or [None]
        for measure in frames:
            for level in levels:
                wanted = partial(gains, results, pooled=other, level=level, measure=measure)
                frame = attempt(f"gain in {measure} of {level} over {other}", wanted)
                if frame is not None and len(frame):
                    frames[measure].append(frame)
        self.beside += [over_rows(found) for found in frames.values() if found]
        if not frames[main]:
            return
        first = frames[main][0]
        self.beside.append(weak_end(first))
        self.beside += of_metrics(results, first.attrs["fair"], first.attrs["trials"])
        if self.fair is None:
            self.fair, self.split = first.attrs["fair"], str(first.attrs["split"])
            self.by_level = {str(frame.attrs["level"]): frame for frame in frames[main]}
