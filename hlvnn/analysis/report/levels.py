"""The figures of groups for the levels above the lowest: plays beside characters, and the like."""

from __future__ import annotations

from dataclasses import replace

from matplotlib.figure import Figure

from hlvnn.analysis import figures
from hlvnn.analysis.report import numbers, tables
from hlvnn.analysis.report.numbers import Numbers
from hlvnn.analysis.report.sections import Measured, Section, drawn_section, of_level
from hlvnn.analysis.results import Results
from hlvnn.columns import VAL
from hlvnn.errors import RunError

OF_GROUPS = ("spread", "gain", "shrinkage")
"""Sections that are about the groups of one level."""


def among(measured: Measured, sections: list[Section]) -> list[Section]:
    """Return a report's sections with those of upper levels behind those of the lowest."""
    upper = list(enumerate(measured.results.groups.levels))[1:]
    found = []
    for section in sections:
        found.append(section)
        if section.id in OF_GROUPS:
            found += [_of(measured, section.id, place + 1, level) for place, level in upper]
    return found


def _of(measured: Measured, name: str, place: int, level: str) -> Section:
    make = {"spread": _spread, "gain": _gain, "shrinkage": _shrinkage}[name]
    return make(measured, f"{name}-{place}", level)


def _spread(measured: Measured, name: str, level: str) -> Section:
    results, groups = measured.results, measured.results.groups
    behind: list[Numbers] = []

    def draw() -> Figure:
        number = results._number(None)
        spread = groups.spread(trials=number, level=level)
        epoch = max(groups.files_of(number), default=0)
        last = groups.read(trials=number, epochs=epoch, level=level, split=VAL, labels=True)
        behind.extend(numbers.of_spread(results, spread, last))
        return figures.group_spread(spread, last, groups.main_measure)

    section = drawn_section(
        *(measured, name, f"How each {level} fares, over epochs (trial {results.best_trial})"),
        f"The same by {level}: does the weak end rise with the middle?",
        f"The distribution of the groups of the level {level} over epochs.",
        draw,
    )
    return replace(section, numbers=tuple(behind))


def _gain(measured: Measured, name: str, level: str) -> Section:
    results = measured.results
    frame = measured.compared.by_level.get(level)

    def draw() -> Figure:
        if frame is None:
            raise RunError(measured.why.get("gain", f"no {level} was scored under both models"))
        return figures.gain_by_rows(frame)

    section = drawn_section(
        *(measured, name, f"What each {level} gains by latents{_by(results)}"),
        f"The same rows, by {level}: above the dashed line it is better off with latents.",
        f"Each {level}'s gain over the pooled model against its number of rows.",
        draw,
    )
    if frame is None:
        return section
    table = tables.some_groups(frame, tables.ends(frame), {})
    table = replace(table, id=name.replace("gain", table.id))
    return replace(section, table=table, numbers=tuple(numbers.of_gains(results, frame)))


def _shrinkage(measured: Measured, name: str, level: str) -> Section:
    results = measured.results
    behind: list[Numbers] = []

    def draw() -> Figure:
        own = of_level(measured.frame("latents"), results, level)
        figure = figures.shrinkage(own)
        behind.extend(numbers.of_latents(results, own))
        return figure

    section = drawn_section(
        *(measured, name, f"How much is known of each {level}{_by(results)}"),
        f"As above, for each {level}: one with few rows is held near the common prior.",
        f"The share of the prior variance that each {level}'s rows explain, against these rows.",
        draw,
    )
    return replace(section, numbers=tuple(behind))


def _by(results: Results) -> str:
    return f" (trial {results.latent_trial})" if results.latent_trial is not None else ""
