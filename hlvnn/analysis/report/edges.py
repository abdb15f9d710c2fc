"""Where a search may have ended too soon: a winner at an edge, choices that were hardly tried."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from optuna.distributions import FloatDistribution, IntDistribution
from scipy import stats

from hlvnn.analysis.report.comparing import plural
from hlvnn.analysis.results import Results
from hlvnn.analysis.searched import Parameter, parameters
from hlvnn.choices import meant
from hlvnn.records.outcomes import ILL, PLACED, Status
from hlvnn.words import text

EDGE = 0.05
"""A drawn value this near to an end of its range, as a share of the range, is at the edge."""
RARE, SHARE = 3, 0.25
"""A choice is rare that so few trials drew, and fewer than this share of what even shares were."""
BEST = 5
"""The best trials of which is asked what they share; of fewer than 20 with a result a quarter."""
FEWEST = 3
CHANCE = 0.05
"""That the best share a choice is told where chance alone would make it as rare as this."""


def edges(results: Results, best: int) -> list[str]:
    """Return a sentence for each parameter whose best value lies where little was searched."""
    known = parameters(results.drawn)
    found = [sentence for one in known.values() for sentence in _of_range(one, best)]
    table = results.table.set_index("trial")
    for one in known.values():
        if one.choices is not None:
            found += _of_choices(results, table, one, best)
    return found


def _of_range(one: Parameter, best: int) -> list[str]:
    law = one.law
    if not isinstance(law, FloatDistribution | IntDistribution) or best not in one.values:
        return []
    if law.high <= law.low:
        return []
    low, high, at = float(law.low), float(law.high), float(one.values[best])
    if law.log:
        low, high, at = math.log(low), math.log(high), math.log(at)
    place = (at - low) / (high - low)
    end = "lower" if place < EDGE else "upper" if place > 1 - EDGE else ""
    if not end:
        return []
    return [
        (
            f"`{one.name}` = {text(one.values[best])} is at the {end} end of its range "
            f"({text(law.low)} to {text(law.high)}): there may be better ones beyond; widen it."
        )
    ]


def _of_choices(results: Results, table: pd.DataFrame, one: Parameter, best: int) -> list[str]:
    """Return what is to be said of a choice, with counts of the trials that it rests on."""
    choices = list(one.choices or ())
    if len(choices) < 2:
        return []
    ran = table[table["status"] != Status.NOT_STARTED]
    drew = pd.Series({n: _key(value) for n, value in one.values.items() if n in ran.index})
    if not len(drew):
        return []
    counts = {_key(choice): int((drew == _key(choice)).sum()) for choice in choices}
    open_ends = _hardly_tried(one, counts, len(drew))
    open_ends += _only_cut(one, drew, ran["status"].reindex(drew.index), ran["epochs"], best)
    return _at_an_end(one, choices, best) + (open_ends or _shared(results, one, drew))


def _key(choice: Any) -> str:
    return text(meant(choice))


def _at_an_end(one: Parameter, choices: list[Any], best: int) -> list[str]:
    """Return that the best has the smallest or largest of choices that are numbers."""
    plain = all(isinstance(c, int | float) and not isinstance(c, bool) for c in choices)
    if not plain or best not in one.values or len(choices) < 3:
        return []
    at, low, high = one.values[best], min(choices), max(choices)
    end = "largest" if at == high else "smallest" if at == low and at != 0 else ""
    if not end:
        return []
    return [
        (
            f"`{one.name}` = {text(at)} is the {end} of its choices ({one.range}): there may be "
            "better ones beyond; add some."
        )
    ]


def _hardly_tried(one: Parameter, counts: dict[str, int], tried: int) -> list[str]:
    even = tried / len(counts)
    rare = {
        choice: count
        for choice, count in counts.items()
        if count == 0 or (count <= RARE and count < SHARE * even)
    }
    if not rare:
        return []
    told = ", ".join(
        f"{choice} ({f'{count} of {tried} trials' if count else 'never'})"
        for choice, count in rare.items()
    )
    return [
        (
            f"`{one.name}` was hardly tried as {told}: whether that is worse is not known. Fix "
            "it in BASE for some trials, or search the choices apart."
        )
    ]


def _only_cut(
    one: Parameter,
    drew: pd.Series[Any],
    status: pd.Series[Any],
    epochs: pd.Series[Any],
    best: int,
) -> list[str]:
    """Return which choices ended early in every trial, while others were trained to the end."""
    if not (status == Status.COMPLETED).any():
        return []
    found = []
    for choice in dict.fromkeys(drew):
        own = drew.index[drew == choice]
        fates = status[own]
        if best in own or fates.isin([Status.COMPLETED, Status.RUNNING]).any():
            continue
        cut = int(fates.isin(PLACED).sum())
        ill = int(fates.isin(ILL).sum())
        if cut:
            longest = int(epochs[own].max())
            others = f" and {plural(ill, 'other')} failed or diverged" if ill else ""
            found.append(
                f"`{one.name}` = {choice} was only cut early: none of {plural(len(own), 'trial')} "
                f"ran to its end ({cut} stopped, the longest after {plural(longest, 'epoch')}"
                f"{others}). That it is worse in the end is not known; run one in full."
            )
        elif ill == len(own):
            found.append(
                f"`{one.name}` = {choice} has no result: {plural(ill, 'trial')} failed or diverged."
            )
    return found


def _shared(results: Results, one: Parameter, drew: pd.Series[Any]) -> list[str]:
    """Return the choice that all of the best trials have, where that is hardly chance."""
    placed = [int(n) for n in results.placed["trial"] if int(n) in drew.index]
    count = min(BEST, len(placed) // 4)
    if count < FEWEST:
        return []
    top = {drew[n] for n in placed[:count]}
    if len(top) > 1:
        return []
    (choice,) = top
    have = int((drew[placed] == choice).sum())
    chance = float(stats.hypergeom.pmf(count, len(placed), have, count))
    if chance >= CHANCE:
        return []
    return [
        (
            f"The best {count} trials all have `{one.name}` = {choice}, as have {have} of the "
            f"{len(placed)} that drew it and have a result (by chance {100 * chance:.2g} % of the "
            "time, had the searcher not gone after it): it could be fixed in BASE next time."
        )
    ]
