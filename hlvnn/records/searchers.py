"""What there is to know of each searcher (`--searcher`) without Optuna: one record for each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Searcher:
    """What proposes a sweep's trials; `hlvnn.sweep.searchers` makes it."""

    name: str
    """As it is typed."""
    sentence: str
    """What it does, after its name, for --help."""
    learns: bool
    """Whether what it proposes follows from the trials before, which must then have run with the
    settings that they were drawn with."""
    is_exhaustive: bool = False
    """Whether it tries every point of a space once: it needs one of finitely many."""


TPE = Searcher(
    name="tpe",
    sentence="learns from those that ended, also where a parameter depends on another",
    learns=True,
)
GP = Searcher(
    name="gp",
    sentence="learns from them by a Gaussian process",
    learns=True,
)
QMC = Searcher(
    name="qmc",
    sentence="spreads them evenly",
    learns=False,
)
RANDOM = Searcher(
    name="random",
    sentence="draws each by itself",
    learns=False,
)
GRID = Searcher(
    name="grid",
    sentence="tries every point of a small space once",
    learns=True,
    is_exhaustive=True,
)

SEARCHERS = {searcher.name: searcher for searcher in (TPE, GP, QMC, RANDOM, GRID)}
"""Every searcher by its name, in the order in which --help lists them."""
