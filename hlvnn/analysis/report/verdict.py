"""The verdict that a report opens with: who won, by every measure, and what cannot be told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from hlvnn.analysis.figures.style import SPLITS, said
from hlvnn.analysis.pairs import Fair
from hlvnn.analysis.report import about
from hlvnn.analysis.report.comparing import plural
from hlvnn.analysis.report.sections import Measured
from hlvnn.analysis.report.tables import Cell, Table, fixed
from hlvnn.analysis.results import Results
from hlvnn.analysis.verdict import TOLD_APART, Beside, Disagreement
from hlvnn.records.beware import is_in_doubt
from hlvnn.words import number

UNTOLD = "cannot be told apart"
NAMED = 6
"""Trials that are named where some cannot be told from the best."""


def sentences(
    results: Results,
    rows: Sequence[Beside],
    alike: Sequence[int],
    disagreement: Disagreement | None,
) -> list[str]:
    """Return the verdict in a few sentences.

    rows: the best trial with latents beside its baselines, by every measure. alike: trials that
    cannot be told from the best.
    """
    best = results.best_trial
    if best is None:
        return ["No trial has a result, so nothing has won."]
    row = results.row(best)
    found = [_opening(results, best), *_of_latents(results, rows, best)]
    if is_in_doubt(str(row["reason"])):
        found.append(f"Beware of it, {row['status']} as it is: {row['reason']}.")
    if alike:
        names = [results.called(one).removeprefix("trial ") for one in alike]
        some = ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")
        found.append(
            f"The validation rows cannot tell it from {plural(len(alike), 'other trial')} "
            f"(less than two standard errors over groups behind): {some}."
        )
    found += _opposed(results, rows)
    if disagreement is not None:
        found.append(_disagreed(results, disagreement))
    return found


def _opening(results: Results, best: int) -> str:
    row, metric = results.row(best), results.metric
    structure = row["structure"]
    what = ""
    if isinstance(structure, str):
        what = ", without latents," if row["pooled"] else f", latents `{structure}`,"
    running = " It is still running." if not len(results.placed) else ""
    return f"By {said(metric)} {results.called(best)}{what} is best.{running}"


def _of_latents(results: Results, rows: Sequence[Beside], best: int) -> list[str]:
    """Return what the best with latents is beside its first baseline."""
    latent, pooled = results.latent_trial, results.pooled_trial
    if latent is None:
        return ["No trial with latents has ended: what they bring is not known."]
    if pooled is None and not rows:
        return ["No trial without latents has ended: what latents bring is not known."]
    own = [one for one in rows if rows and one.other == rows[0].other]
    if not own:
        return ["How it compares with the model without latents could not be measured."]
    subject = results.called(latent)
    subject = (
        f"{subject[0].upper()}{subject[1:]}"
        if latent == best
        else (f"The best with latents, {subject},")
    )
    whom = _pooled(results, own[0].other)
    words = {sign: [word(one) for one in own if _sign(one) == sign] for sign in (1, -1, 0, None)}
    better, worse, untold, unknown = (_listed(words[sign]) for sign in (1, -1, 0, None))
    parts = []
    if better or worse:
        parts = [f"{subject} is {'better' if better else 'worse'} than {whom} by {better or worse}"]
        parts[0] += f", and worse by {worse}" if better and worse else ""
        parts += [f"by {untold} the two {UNTOLD}"] if untold else []
    elif untold:
        parts = [f"{subject.rstrip(',')} and {whom} {UNTOLD} by {untold}"]
    if unknown:
        whose = f"of {subject[0].lower()}{subject[1:].rstrip(',')} and {whom} " if not parts else ""
        parts.append(f"how sure the difference {whose}in {unknown} is, is not known")
    told = "; ".join(parts)
    return [f"{told[0].upper()}{told[1:]}."]


def _pooled(results: Results, other: int) -> str:
    called = results.called(other)
    return f"{called}" if other < 0 else f"the pooled model ({called})"


def _sign(one: Beside) -> int | None:
    return one.sign if one.is_known else None


def word(one: Beside) -> str:
    """Return the measure in words."""
    plain = said(one.measure)
    return plain if one.tail is None else f"{plain} of the weakest tenth"


def _listed(words: Sequence[str]) -> str:
    *first, last = words or [""]
    return f"{', '.join(first)} and {last}" if first else last


def _opposed(results: Results, rows: Sequence[Beside]) -> list[str]:
    """Return a sentence where the two measures over rows speak for different models."""
    own = [one for one in rows if one.is_over_rows and one.other == rows[0].other]
    latent = results.latent_trial
    if len(own) < 2 or own[0].gain * own[1].gain >= 0 or latent is None:
        return []
    told = [
        f"{word(one)} speaks for {results.called(latent if one.gain > 0 else one.other)} "
        f"(by {_lead(one)})"
        for one in own[:2]
    ]
    return [f"The measures do not agree on the two: {_listed(told)}."]


def _lead(one: Beside) -> str:
    error = f" ± {one.error:.2g}" if one.is_known else ""
    sure = "" if one.sign else ", which may be chance" if one.is_known else ", who knows how surely"
    return f"{abs(one.gain):.3g}{error}{sure}"


def _disagreed(results: Results, found: Disagreement) -> str:
    one, two = (results.called(trial) for trial in found.trials)
    first, second = (said(column) for column in found.columns)
    values = " beside ".join(number(value) for value in found.values)
    lead = "" if found.beside is None else f", a lead of {_lead(found.beside)}"
    return (
        f"{first.capitalize()} and {second} disagree on who wins: by the first it would be {one} "
        f"({values}{lead}), by the second it is {two}."
    )


def measures(results: Results, rows: Sequence[Beside], split: str, fair: Fair) -> Table | None:
    """Return a row for each measure and each model that the best with latents is beside."""
    latent = results.latent_trial
    if not rows or latent is None:
        return None
    columns = [("measure", False), (results.called(latent), True), ("beside", False), ("", True)]
    columns += [("gain", True), ("±", True), ("verdict", False)]
    shown = []
    for one in rows:
        both = fixed(pd.Series([one.own, one.others]))
        gain, error = fixed(pd.Series([one.gain, one.error]), 3)
        cells = [
            Cell(word(one) + ("" if one.tail is None else f" ({one.tail} of {one.groups})")),
            both[0],
            Cell(results.called(one.other)),
            both[1],
            Cell(("+" if one.gain > 0 else "") + gain.text),
            error,
            Cell(_verdict(one)),
        ]
        shown.append(cells)
    levels = results.groups.levels
    over = f"{levels[0]}s" if len(levels) == 1 else "groups (of the level where it is largest)"
    within = "" if fair.is_whole else f", within the first {fair.within} epochs of both"
    caption = (
        f"By every measure, on {SPLITS[split]} rows{within}. Gains are positive where latents are "
        f"better; ± is their standard error over {over}, of one seed each. Below {TOLD_APART:g} of "
        "these nothing can be told apart."
    )
    return Table("measures", caption, columns, shown)


def _verdict(one: Beside) -> str:
    if not one.is_known:
        return "not known how sure"
    return {1: "better", -1: "worse", 0: UNTOLD}[one.sign]


@dataclass(frozen=True)
class FirstScreen:
    """What a report opens with."""

    sentences: list[str]
    measures: Table | None
    settings: Table | None
    facts: list[tuple[str, str]]


def first_screen(measured: Measured, damaged: int) -> FirstScreen:
    """Return what a report opens with; damaged: how many things are told to be so."""
    results, compared = measured.results, measured.compared
    table = None
    if compared.fair is not None:
        table = measures(results, compared.beside, compared.split, compared.fair)
    return FirstScreen(
        sentences(results, compared.beside, measured.alike, compared.disagreement),
        table,
        about.settings(results),
        about.of_search(results, damaged),
    )
