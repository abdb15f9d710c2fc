"""The report's section on what groups are like: who gains, and what the weakest have in common."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import pandas as pd
from matplotlib.figure import Figure

from hlvnn.analysis.by_attribute import (
    LIKELY,
    ByAttribute,
    by_attribute,
    weakest_of,
)
from hlvnn.analysis.figures.attributes import gain_by_attribute
from hlvnn.analysis.figures.style import SPLITS, WORDS
from hlvnn.analysis.report.comparing import P_SHOWN, plural
from hlvnn.analysis.report.tables import Cell, Table, fixed, value
from hlvnn.analysis.results import Results
from hlvnn.data.attributes import ROWS
from hlvnn.data.describe import listed

if TYPE_CHECKING:
    from hlvnn.analysis.report.sections import Measured

TITLE = "What groups that gain, and the weakest, have in common"
SECTION = "attributes"
"""Its id in the page."""
NAMED = 6
"""Groups that are named."""
SAID = 4
"""Attributes that are put into words; the table has all."""


def of_sweep(results: Results, gains: pd.DataFrame | None) -> list[ByAttribute]:
    """Return how gains go with each attribute of the groups of a table of gains."""
    if gains is None or not len(gains):
        return []
    known = results.groups.of_groups.of(gains.attrs["trials"][0])
    known = known[known["level"] == gains.attrs["level"]].set_index("gid")
    known = known.drop(columns=["level", "label"]).reindex(gains["gid"]).reset_index(drop=True)
    if known[ROWS].isna().all():
        known[ROWS] = gains[ROWS].astype(float).to_numpy()  # a run of before: by its weights
    return by_attribute(gains, known)


def look(measured: Measured) -> str:
    """Return what to look at: who gains and who is weak, in words."""
    gains = measured.gains
    found = measured.by_attribute
    if gains is None or not found:
        return ""
    measure, split = str(gains.attrs["measure"]), str(gains.attrs["split"])
    opening = (
        f"Gain over the pooled model in {SPLITS[split]} {WORDS[measure]} (positive is better), "
        "mean over groups ± standard error over groups; the weakest tenth is that of the model "
        "with latents."
    )
    sentences = [opening, *(_said(one) for one in found[:SAID])]
    sentences.append(_of_weakest(found, gains))
    names = [one.name for one in found]
    if len(names) > 1:
        sentences.append(
            f"{len(names)} attributes were looked at; by chance alone one in 20 would differ at "
            f"p < {LIKELY}."
        )
    if names == [ROWS]:
        sentences.append("What else groups are like is told by --group-table FILE.")
    return " ".join(sentences)


def drawn(measured: Measured) -> list[tuple[str, str, str, str, Callable[[], Figure]]]:
    """Return the section as the others are listed: id, title, look, alt and how it is drawn.

    None where no attribute tells groups apart, or there is nothing that they gain over.
    """
    if not measured.by_attribute:
        return []

    def draw() -> Figure:
        gains = measured.frame("gain")
        measure, split = str(gains.attrs["measure"]), str(gains.attrs["split"])
        return gain_by_attribute(measured.by_attribute, measure, split)

    alt = "The mean gain over groups, with its standard error, by the values of each attribute."
    return [(SECTION, TITLE, look(measured), alt, draw)]


def _p(p: float) -> str:
    return f"p < {P_SHOWN}" if p < P_SHOWN else f"p = {p:.2g}"


def _said(one: ByAttribute) -> str:
    """Return a sentence on the gains by one attribute."""
    called = "number of training rows" if one.name == ROWS else one.name
    parts = [
        f"{row.value} {row.gain:+.3f}"
        + ("" if math.isnan(row.error) else f" ± {row.error:.3f}")
        + f" ({plural(row.groups, 'group')})"
        for row in one.each
    ]
    sure = "gains differ" if one.p < LIKELY else "no difference that chance would not make"
    told = f"{sure}, {_p(one.p)}"
    if one.rank is not None:
        rank, low, high = one.rank
        told = f"rank correlation {rank:+.2f}, {low:+.2f} to {high:+.2f}: {told}"
    lacking = f"; {plural(one.without, 'group')} without" if one.without else ""
    return f"By {called}: {', '.join(parts)} ({told}{lacking})."


def _of_weakest(found: list[ByAttribute], gains: pd.DataFrame) -> str:
    """Return who the weakest tenth are, and what they have in common beyond chance.

    As many values are looked at, each p has to be as many times smaller (Bonferroni).
    """
    labels = gains["label"].iloc[weakest_of(gains)].map(str)
    total, looked_at = len(labels), sum(len(one.parts) for one in found)
    who = f"The weakest tenth: {listed(list(labels), NAMED)}"
    common = [
        f"{row.weakest} of {total} have {'training rows' if one.name == ROWS else one.name} "
        f"{row.value}, as {row.groups} of {one.parts['groups'].sum()} groups do ({_p(row.p)})"
        for one in found
        for row in one.each
        if row.p < LIKELY / looked_at and row.weakest
    ]
    if common:
        return f"{who}; {'; '.join(common)}."
    return f"{who}; they have nothing in common here that chance would not make so."


def table(found: list[ByAttribute]) -> Table | None:
    """Return the numbers: a row per attribute and value."""
    if not found:
        return None
    whole = pd.concat([one.parts for one in found], ignore_index=True)
    every = [(one.name, part) for one in found for part in one.each]
    columns = [("attribute", False), ("value", False), ("groups", True), ("mean gain", True)]
    columns += [("± over groups", True), ("in the weakest tenth", True), ("p of as many", True)]
    gain, error = fixed(whole["gain"], 3, "+"), fixed(whole["error"], 3)
    rows = [
        [
            *(value(name), Cell(row.value, place), value(row.groups)),
            *(gain[place], error[place], value(row.weakest), Cell(f"{row.p:.2g}", row.p)),
        ]
        for place, (name, row) in enumerate(every)
    ]
    return Table(SECTION + "-table", "Groups by what they are like", columns, rows)
