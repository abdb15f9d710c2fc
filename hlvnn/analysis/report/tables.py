"""The tables of a report."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hlvnn.analysis.figures.style import SPLITS, WORDS, said
from hlvnn.analysis.report.comparing import plural
from hlvnn.analysis.report.findings import test_column
from hlvnn.analysis.results import Results
from hlvnn.columns import (
    BEST_EPOCH,
    BETTER_HIGH,
    DATA_HASH,
    PARAMETER,
    TEST_ACC,
    TEST_AUC,
    TEST_MSE,
    VAL_GROUP_P10,
    VAL_GROUP_WORST,
    best_of,
)
from hlvnn.records.outcomes import ERROR, ILL
from hlvnn.records.run_folder import HYPERPARAMS
from hlvnn.storage import shown_path
from hlvnn.words import number, text

TOP = 20
"""Trials on the leaderboard."""
ENDS = 10
"""Groups shown from each end."""
TRACE_LINES = 12
LONG = 24
"""Letters from which on a cell gets room to break its lines."""


@dataclass(frozen=True)
class Cell:
    """A cell: what is shown, and what it is sorted by (None = last, whatever the order)."""

    text: str
    sort: float | str | None = None
    kind: str = ""
    """Class of the cell, such as a status."""
    link: str = ""
    """Id of what there is about it on the page."""


@dataclass(frozen=True)
class Table:
    """A table that can be sorted by each of its columns."""

    id: str
    caption: str
    columns: list[tuple[str, bool]]
    """Title, and whether it holds numbers."""
    rows: list[list[Cell]]


def value(given: object) -> Cell:
    """Return a cell of a number or a word; an empty one where there is none."""
    if given is None or (isinstance(given, float) and math.isnan(given)) or given is pd.NaT:
        return Cell("")
    if isinstance(given, int | float) and not isinstance(given, bool):
        shown = f"{int(given)}" if float(given).is_integer() else number(float(given))
        return Cell(shown, float(given))
    word = text(given)
    return Cell(word, word, "long" if len(word) > LONG else "")


def fixed(values: pd.Series[Any], digits: int = 4, sign: str = "") -> list[Cell]:
    """Return the cells of a column of measurements, with the same decimals in all of them.

    digits: of the largest value, where it has no more before the point. sign: "+" shows every sign.
    """
    numbers = values.astype(float)
    largest = float(numbers[np.isfinite(numbers)].abs().max())
    whole = math.ceil(math.log10(largest)) if largest > 0 else 0
    decimals = max(0, digits - whole)
    shown = f"{sign}.{decimals}f"
    return [Cell("") if math.isnan(one) else Cell(format(one, shown), one) for one in numbers]


def status(given: object) -> Cell:
    """Return a cell of a trial's status, in its colour."""
    word = str(given)
    return Cell(word, word, "status-" + word.replace(" ", "-"))


def leaderboard(results: Results) -> Table:
    """Return the best trials: their place, how they fared, and what was drawn."""
    metric = results.metric
    measured = {
        metric: said(metric),
        VAL_GROUP_P10: "10th percentile of groups",
        VAL_GROUP_WORST: "worst group",
        test_column(metric): said(test_column(metric)),
    }
    for name in (TEST_ACC, TEST_AUC, TEST_MSE):
        measured.setdefault(name, said(name))
    best = results.placed.head(TOP)
    measured = {name: word for name, word in measured.items() if best_of(name) in best}
    drawn = [str(name) for name in best if str(name).startswith(PARAMETER)]
    drawn = [name for name in drawn if best[name].notna().any()]
    columns = [("place", True), ("trial", True), *_run_title(results), ("status", False)]
    columns += [("best epoch", True)]
    columns += [(word, True) for word in measured.values()]
    columns += [
        (name.removeprefix(PARAMETER), pd.api.types.is_numeric_dtype(best[name])) for name in drawn
    ]
    told = {
        name: fixed(best[best_of(name)], 3 if name.startswith("val_group") else 4)
        for name in measured
    }
    rows = []
    for place, (_, row) in enumerate(best.iterrows()):
        cells = [value(place + 1), value(row["trial"]), *_run_name(results, row)]
        cells += [status(row["status"]), value(row[BEST_EPOCH])]
        cells += [told[name][place] for name in measured]
        rows.append([*cells, *(value(row[name]) for name in drawn)])
    return Table(
        "leaderboard", f"The best {plural(len(best), 'trial')}, by {said(metric)}", columns, rows
    )


def _run_title(results: Results) -> list[tuple[str, bool]]:
    """Return the column of runs' names, which a sweep's trials do not have."""
    return [("run", False)] if results.record is None else []


def _run_name(results: Results, row: pd.Series[Any]) -> list[Cell]:
    return [value(str(row["name"]))] if results.record is None else []


def all_trials(results: Results) -> Table:
    """Return every trial, failed and never-started ones too, with what became of it."""
    metric = results.metric
    columns = [("trial", True), *_run_title(results), ("status", False), ("why", False)]
    columns += [("epochs", True)]
    columns += [(said(metric), True), ("seconds", True), ("starts", True), ("latents", False)]
    absent = pd.Series(math.nan, results.table.index)
    told = fixed(results.table.get(best_of(metric), absent))
    seconds = [value(None if pd.isna(one) else round(one)) for one in results.table["seconds"]]
    rows = []
    for place, (_, row) in enumerate(results.table.iterrows()):
        why = ": ".join(part for part in (row["reason"], row["error"]) if part)
        rows.append(
            [
                value(row["trial"]),
                *_run_name(results, row),
                status(row["status"]),
                value(why),
                value(row["epochs"]),
                told[place],
                seconds[place],
                value(row["starts"]),
                value(row["structure"]),
            ]
        )
    return Table("trials", f"All {plural(len(rows), 'trial')}", columns, rows)


def ends(gains: pd.DataFrame) -> list[int]:
    """Return the numbers of the weakest groups, and of those that lose and gain most."""
    high = str(gains.attrs["measure"]) in BETTER_HIGH
    weak = gains.sort_values("trial", ascending=high, kind="stable")
    weakest = weak[weak["trial"] != (1.0 if high else 0.0)]  # a perfect group is not weak
    by_gain = gains.sort_values("gain", kind="stable")
    chosen = [weakest.head(ENDS), by_gain.head(ENDS), by_gain.tail(ENDS)[::-1]]
    return list(dict.fromkeys(int(gid) for part in chosen for gid in part["gid"]))


def ends_of(last: pd.DataFrame, measure: str) -> list[int]:
    """Return the numbers of the weakest and of the best groups of one epoch's table."""
    ordered = last.sort_values(measure, ascending=measure in BETTER_HIGH, kind="stable")
    chosen = [ordered.head(ENDS), ordered.tail(ENDS)[::-1]]
    return list(dict.fromkeys(int(gid) for part in chosen for gid in part["gid"]))


def _linked(row: pd.Series[Any], links: Mapping[int, str]) -> Cell:
    """Return the cell of a group's name, a link where the page has more of it."""
    return replace(value(str(row["label"])), link=links.get(int(row["gid"]), ""))


def groups_of_best(
    results: Results, last: pd.DataFrame, gids: Sequence[int], links: Mapping[int, str]
) -> Table:
    """Return the weakest and the best groups where there is nothing to compare them with.

    gids: of `ends_of`. links: the id of each group's panel.
    """
    level, measure = str(results.groups.lowest_level), results.groups.main_measure
    shown = last[last["gid"].isin(gids)]
    shown = shown.sort_values(measure, ascending=measure in BETTER_HIGH, kind="stable")
    names = [name for name in (measure, "loss") if name in shown]
    told = {name: fixed(shown[name], 3) for name in names}
    rows = [
        [_linked(row, links), value(row["n"]), *(told[name][place] for name in names)]
        for place, (_, row) in enumerate(shown.iterrows())
    ]
    caption = (
        f"{len(rows)} of {len(last)} groups: the weakest and the best (level {level}), in the last "
        f"epoch of {results.called(results._number(None))}, on validation rows. Where a group has "
        "few rows, being at an end is mostly chance."
    )
    columns = [(level, False), ("validation rows", True), *((WORDS[name], True) for name in names)]
    return Table("groups", caption, columns, rows)


def some_groups(gains: pd.DataFrame, gids: Sequence[int], links: Mapping[int, str]) -> Table:
    """Return the weakest groups, and those that gain and lose most.

    gids: of `ends`. links: the id of each group's panel.
    """
    measure = WORDS[str(gains.attrs["measure"])]
    name = str(gains.attrs["measure"])
    level = str(gains.attrs["level"])
    columns = [(level, False), ("training rows", True), (f"{gains.attrs['split']} rows", True)]
    columns += [(f"{measure}, with latents", True), (f"{measure}, pooled", True), ("gain", True)]
    columns += [("± over its rows", True), ("p", True)]
    weak = gains.sort_values("trial", ascending=name in BETTER_HIGH, kind="stable")
    shown = weak[weak["gid"].isin(gids)]
    both = fixed(pd.concat([shown["trial"], shown["pooled"]]), 3)
    own, pooled = both[: len(shown)], both[len(shown) :]
    gain = fixed(shown["gain"], 3, sign="+")
    errors = fixed(shown["error"], 3)
    rows = [
        [
            _linked(row, links),
            value(row["rows"]),
            value(row["n"]),
            own[place],
            pooled[place],
            gain[place],
            errors[place],
            value(None if pd.isna(row["p"]) else float(f"{row['p']:.2g}")),
        ]
        for place, (_, row) in enumerate(shown.iterrows())
    ]
    fair = gains.attrs["fair"]
    caption = (
        f"{len(rows)} of {len(gains)} groups: the weakest, and those that gain and lose most "
        f"(level {level}), at epochs {fair.epochs[0]} and {fair.epochs[1]}; a gain is positive "
        "where the group is better off with latents. Where a group has few "
        f"{SPLITS[str(gains.attrs['split'])]} rows, being at an end is mostly chance."
    )
    return Table("groups", caption, columns, rows)


@dataclass(frozen=True)
class Failure:
    """A trial in which something went wrong, in its own words."""

    trial: int
    status: str
    said: str
    trace: str
    command: str


def failures(results: Results) -> list[Failure]:
    """Return the trials in which something went wrong, with the end of their tracebacks."""
    found = []
    ill = results.table[results.table["status"].isin(ILL)]
    for _, row in ill.iterrows():
        folder = results.path / str(row["name"])
        has_settings = (folder / HYPERPARAMS).exists()
        found.append(
            Failure(
                int(row["trial"]),
                str(row["status"]),
                str(row["error"] or row["reason"]),
                _trace(folder / ERROR),
                f"python train_one.py --from-trial {shlex.quote(shown_path(folder))} --debug"
                if has_settings
                else "",
            )
        )
    return found


def _trace(path: Path) -> str:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").rstrip().splitlines()
    except OSError:
        return ""
    return "\n".join(lines[-TRACE_LINES:])


def facts(results: Results) -> list[tuple[str, str]]:
    """Return what a sweep was, as pairs of a word and what it is."""
    trials, record = results.table, results.record
    state = "running now" if results.alive else "over"
    known = [
        ("folder", shown_path(results.path)),
        ("state", f"{state}, as of when this page was written"),
        ("selected on", f"{said(results.metric)} ({results.metric}, {results.mode})"),
    ]
    if record is not None:
        known.append(("search space", record.space))
        if record.starts:
            versions = record.starts[-1].get("versions", {})
            listed = ", ".join(f"{name} {version}" for name, version in versions.items())
            times = [str(start.get("time", ""))[:16].replace("T", " ") for start in record.starts]
            known += [("started", ", again ".join(times)), ("versions", listed)]
    hashes = trials[DATA_HASH].dropna().unique()
    known.append(("data hash", ", ".join(map(str, hashes)) or "not known"))
    return known
