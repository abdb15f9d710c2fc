"""What a report says of latents against the pooled model: what is compared, how sure it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from hlvnn.analysis.figures.style import SPLITS, WORDS, said
from hlvnn.analysis.gains import Summary
from hlvnn.analysis.pairs import Fair, RowTest
from hlvnn.analysis.verdict import weakest, weakest_mean
from hlvnn.columns import BETTER_HIGH, best_of
from hlvnn.records.outcomes import Status
from hlvnn.words import number

P_SHOWN = 0.001
WITHIN_NOISE = " That is within noise."


def plural(count: int, noun: str, verb: str = "") -> str:
    """Return a count with its noun and verb: "1 group loses", "3 groups lose"."""
    one = count == 1
    return f"{count} {noun}{'' if one else 's'}" + (f" {verb}{'s' if one else ''}" if verb else "")


def of_pair(
    fair: Fair | None,
    latent: pd.Series[Any],
    pooled: pd.Series[Any],
    column: str,
    called: tuple[str, str],
) -> str:
    """Return the sentence that sets the best with latents beside the pooled model.

    fair: at which epochs; None where that is not known. called: the names of the two.
    """
    own, names = called[0], f"the pooled model, {called[1]}"
    if fair is None or fair.is_whole:
        both = "" if fair is None else f" Both trained for {fair.within} epochs."
        return (
            f"The best without latents ({names}) has {said(column)} {_of(pooled, column)}; the "
            f"best with latents ({own}) has {_of(latent, column)}.{both}"
        )
    longer, shorter = fair.lengths
    mine, theirs = fair.rows
    fate = Status(pooled["status"] if longer > shorter else latent["status"]).facts.fate
    cut = "the pooled model" if longer > shorter else "the one with latents"
    return (
        f"Within the first {fair.within} epochs of both, for {cut} {fate} then, the best without "
        f"latents ({names}) has {said(column)} {_shown(theirs, column)}, and the best with latents "
        f"({own}) {_shown(mine, column)}; what each had in the end (after "
        f"{shorter} and {longer} epochs: {_of(pooled, column)} and {_of(latent, column)}) does not "
        "compare."
    )


def against_others(others: dict[str, pd.DataFrame]) -> list[str]:
    """Return the gain over each further pooled model, by what that is called."""
    sentences = []
    for called, gains in others.items():
        found = Summary.of(gains)
        where = f"{SPLITS[str(gains.attrs['split'])]} {WORDS[str(gains.attrs['measure'])]}"
        near = WITHIN_NOISE if abs(found.mean) < 2 * found.error else ""
        sentences.append(
            f"Over {called}, both at {gains.attrs['fair'].within} epochs, the mean gain in {where} "
            f"is {found.mean:+.4f} ± {found.error:.4f}.{near}"
        )
    return sentences


def over_groups(gains: pd.DataFrame) -> list[str]:
    """Return what latents bring by group, and row by row, at equal epochs; `gains` says which."""
    measure, fair = str(gains.attrs["measure"]), gains.attrs["fair"]
    found, where = Summary.of(gains), f"{SPLITS[str(gains.attrs['split'])]} {WORDS[measure]}"
    within = "" if fair.is_whole else f", within the first {fair.within} epochs of both,"
    near = WITHIN_NOISE if abs(found.mean) < 2 * found.error else ""
    turned = "" if measure in BETTER_HIGH else f" ({_turned(found.mean, measure)})"
    opening = f"Over the {len(gains)} groups the mean gain by latents in {where}{within}"
    if measure == "loss":
        opening = (
            f"In {where}, which tell more of a few rows than accuracy does, the mean gain by "
            f"latents over groups{within}"
        )
    first = (
        f"{opening} is "
        f"{found.mean:+.4f} ± {found.error:.4f}{turned} (standard error over groups, of one seed "
        f"each): {_beyond(found)}.{near}"
    )
    test: RowTest | None = gains.attrs["test"]
    if test is None:
        why = gains.attrs["why"]
        unknown = f"Whether single groups gain beyond their own error is not known: {why}."
        return [first, unknown]
    if measure == "loss":
        first += (
            " A group's error is that of its own rows or of all groups' rows, whichever is larger: "
            "few rows seldom hold the rare large losses."
        )
    return [first, _by_row(test, str(gains.attrs["split"]), within)]


def over_level(gains: pd.DataFrame) -> list[str]:
    """Return what latents bring by the groups of a level above the lowest, where it has several."""
    if len(gains) < 2:
        return []
    found = Summary.of(gains)
    where = f"{SPLITS[str(gains.attrs['split'])]} {WORDS[str(gains.attrs['measure'])]}"
    near = WITHIN_NOISE if abs(found.mean) < 2 * found.error else ""
    return [
        (
            f"Over the {len(gains)} groups of the level {gains.attrs['level']} the mean gain by "
            f"latents in {where} is {found.mean:+.4f} ± {found.error:.4f}: {_beyond(found)}.{near}"
        )
    ]


def _beyond(found: Summary) -> str:
    counted = (
        f"{plural(found.better, 'group', 'fare')} better, {found.worse} worse, {found.same} alike"
    )
    if found.surely_better is None or found.surely_worse is None:
        return counted
    total = found.better + found.worse + found.same
    return (
        f"{plural(found.surely_better, 'group', 'gain')} and {found.surely_worse} "
        f"{'loses' if found.surely_worse == 1 else 'lose'} beyond their own error (p < 0.05 over "
        f"their own rows; by chance alone about {total / 20:.2g} of {total} would); by their sign "
        f"alone {counted}"
    )


def _by_row(test: RowTest, split: str, within: str) -> str:
    rows = f"{test.rows:,} {SPLITS[split]} rows"
    if test.rows < test.all_rows:
        rows = f"{test.rows:,} of {test.all_rows:,} {SPLITS[split]} rows, a random choice"
    p = "p < 0.001" if test.p < P_SHOWN else f"p = {test.p:.2g}"
    if test.measure == "acc":
        counted = (
            f"{test.won} are right with latents only, {test.lost} without only (McNemar's exact "
            f"test: {p})"
        )
    else:
        counted = f"the error of a paired test is {test.error:.4f} ({p})"
    groups = ""
    if not np.isnan(test.group_error):
        near = WITHIN_NOISE if abs(test.gain) < 2 * test.group_error else ""
        groups = (
            f"; rows of a group are not independent, and over groups the standard error is "
            f"{test.group_error:.4f}.{near}"
        )
    return (
        f"Row by row{within.rstrip(',')} ({rows}) the gain is {test.gain:+.4f}: {counted}"
        f"{groups or '.'}"
    )


def weak_end(gains: pd.DataFrame) -> str:
    """Return how the weakest tenth of groups fares: of one split, at the epochs compared."""
    measure, fair = str(gains.attrs["measure"]), gains.attrs["fair"]
    count = weakest(len(gains))
    sign = 1.0 if measure in BETTER_HIGH else -1.0
    mine, theirs = (
        sign * weakest_mean(sign * gains[name].to_numpy(np.float64)) for name in ("trial", "pooled")
    )
    first, second = fair.epochs
    return (
        f"On {SPLITS[str(gains.attrs['split'])]} rows the weakest tenth of groups ({count} of "
        f"{len(gains)}, each model's own) has a mean {WORDS[measure]} of {mine:.3g} with latents "
        f"(epoch {first}) and {theirs:.3g} in the pooled model (epoch {second})."
    )


def _turned(gain: float, measure: str) -> str:
    """Return which way a gain goes, in a measure that is better low."""
    way = "fewer" if gain > 0 else "more"
    if measure == "loss":
        return f"{number(abs(gain))} {way} nats with latents; fewer are better"
    lower = "lower" if gain > 0 else "higher"
    return f"{number(abs(gain))} {lower} with latents; lower is better"


def _shown(row: dict[str, float], column: str) -> str:
    return f"{row[column]:#.4g}".rstrip(".")


def _of(row: pd.Series[Any], column: str) -> str:
    return f"{float(str(row[best_of(column)])):#.4g}".rstrip(".")
