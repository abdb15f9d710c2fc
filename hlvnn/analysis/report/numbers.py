"""The numbers behind a report's figures, as tables to copy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from hlvnn.analysis.figures.curves import use_tables
from hlvnn.analysis.figures.parameters import shared_parameters
from hlvnn.analysis.figures.search import history_table
from hlvnn.analysis.figures.uncertainty import share_table
from hlvnn.columns import BETTER_HIGH, EPOCH, PARAMETER, best_of
from hlvnn.records.run_folder import BEST, METRICS, STATS
from hlvnn.records.trials_table import TRIALS

if TYPE_CHECKING:
    from hlvnn.analysis.report.sections import Measured
    from hlvnn.analysis.results import Results

ROWS = 200
"""Rows of a table; files have the rest."""
CELLS = 3000
"""Cells of a table: one with many columns has fewer rows."""
DIGITS = 6
LETTERS = 60
"""Of a word in a cell."""


@dataclass(frozen=True)
class Numbers:
    """A table of numbers: the first rows, and a sentence that says where all are."""

    caption: str
    columns: list[str]
    rows: list[list[str]]


def table(frame: pd.DataFrame, caption: str, order: str, file: str) -> Numbers:
    """Return a frame as a table of at most ROWS rows.

    order: which rows come first; file: which holds all of them.
    """
    most = min(ROWS, max(1, CELLS // max(1, frame.shape[1])))
    cut = frame.head(most)
    if len(cut) < len(frame):
        caption += f": the first {len(cut)} of {len(frame):,} rows, {order}"
    rows = [[shown(one) for one in row] for row in cut.itertuples(index=False)]
    return Numbers(f"{caption}; all are in {file}", [str(name) for name in frame], rows)


def shown(value: object) -> str:
    """Return a cell: a number with DIGITS digits, nothing for what there is not."""
    if isinstance(value, float | np.floating):
        return "" if np.isnan(value) else f"{value:.{DIGITS}g}"
    said = "" if value is None or value is pd.NaT or value is pd.NA else str(value)
    return said if len(said) <= LETTERS else said[: LETTERS - 1] + "…"


def of_figure(measured: Measured, name: str) -> list[Numbers]:
    """Return the tables behind a figure that was drawn, by its id."""
    known: dict[str, Callable[[Measured], list[Numbers]]] = {
        "curves": _curves,
        "history": _history,
        "importances": _importances,
        "parallel": _parallel,
        "slices": _slices,
        "spread": _spread,
        "gain": _gain,
        "shrinkage": _shrinkage,
        "kl": _kl,
        "calibration": _calibration,
        "use": _use,
    }
    return known[name](measured) if name in known else []


def _curves(measured: Measured) -> list[Numbers]:
    results = measured.results
    first = [one for one in (results.best_trial, results.pooled_trial) if one is not None]
    order = [*dict.fromkeys([*first, *results.ranked["trial"].astype(int)])]
    place = pd.Series(range(len(order)), order)
    frame = results.epochs[["trial", EPOCH, results.metric]]
    frame = frame.assign(_place=frame["trial"].map(place))
    frame = frame.sort_values(["_place", EPOCH], kind="stable").drop(columns="_place")
    best_first = "the best, the best without latents, then the others by their place"
    return [table(frame, "Each trial over epochs", best_first, _each(results, METRICS))]


def _history(measured: Measured) -> list[Numbers]:
    results = measured.results
    frame = history_table(results.table, results.metric, results.mode)
    return [table(frame, "What each trial reached", "by the trial's number", _trials(results))]


def _importances(measured: Measured) -> list[Numbers]:
    frame = measured.frame("shares")
    return [table(frame, "Share of the variance", "the largest first", "this table")]


def _parallel(measured: Measured) -> list[Numbers]:
    names = [PARAMETER + name for name in shared_parameters(measured.results.study)]
    return _drawn(measured.results, names, "The parameters that all trials drew")


def _slices(measured: Measured) -> list[Numbers]:
    placed = measured.results.placed
    names = [str(n) for n in placed if str(n).startswith(PARAMETER) and placed[n].notna().any()]
    return _drawn(measured.results, names, "What was drawn")


def _drawn(results: Results, names: list[str], caption: str) -> list[Numbers]:
    column = best_of(results.metric)
    frame = results.placed[["trial", column, *(n for n in names if n in results.placed)]]
    frame = frame.rename(columns={name: name.removeprefix(PARAMETER) for name in names})
    frame = frame.rename(columns={column: results.metric})
    return [table(frame, caption, "the best trials first", _trials(results))]


def _spread(measured: Measured) -> list[Numbers]:
    return of_spread(measured.results, measured.frame("spread"), measured.frame("last"))


def of_spread(results: Results, spread: pd.DataFrame, last: pd.DataFrame) -> list[Numbers]:
    """Return how a level's groups fare over epochs, and each of them in the last."""
    frame = spread.drop(columns="trial")
    measure = results.groups.main_measure
    last = last.sort_values(measure, ascending=measure in BETTER_HIGH, kind="stable")
    file = f"{_folder(results, results.best_trial)}{STATS}/"
    own = last[["label", "n", *(n for n in last if n in results.groups.measures)]]
    return [
        table(frame, "All groups, over epochs", "by epoch", file),
        table(own, "Each group in the last epoch", "the weakest first", file),
    ]


def _gain(measured: Measured) -> list[Numbers]:
    return of_gains(measured.results, measured.frame("gain"))


def of_gains(results: Results, gains: pd.DataFrame) -> list[Numbers]:
    """Return what each group of a level gains."""
    columns = ["label", "rows", "n", "trial", "pooled", "gain", "error", "p"]
    frame = gains.sort_values("gain", kind="stable")[columns]
    own, pooled = gains.attrs["trials"]
    file = f"{STATS}/ of {results.called(own)} and of {results.called(pooled)}"
    return [table(frame, "Gain of each group", "those that lose most first", file)]


def _shrinkage(measured: Measured) -> list[Numbers]:
    return of_latents(measured.results, measured.frame("latents"))


def of_latents(results: Results, latents: pd.DataFrame) -> list[Numbers]:
    """Return how much is known of each group."""
    frame = share_table(latents).sort_values("rows", kind="stable")
    file = f"{_folder(results, results.latent_trial)}{BEST} (`sweep.latents()`)"
    return [table(frame, "What is known of each group", "those with the fewest rows first", file)]


def _kl(measured: Measured) -> list[Numbers]:
    results, trial = measured.results, measured.results.latent_trial
    own = results.epochs[results.epochs["trial"] == trial]
    names = {n: one for n, one in results.latent_columns.items() if own[n].notna().any()}
    frame = pd.DataFrame({EPOCH: own[EPOCH]})
    for name, one in names.items():
        frame[one.latent] = own[name] / one.groups
    file = f"{_folder(results, trial)}{METRICS}, as nats over all groups"
    return [table(frame, "KL, nats a group", "by epoch", file)]


def _calibration(measured: Measured) -> list[Numbers]:
    frame = measured.frame("calibration").drop(columns=["trial", EPOCH, "split"])
    return [table(frame, "Bins of rows", "by the bin", "`sweep.calibration()`")]


def _use(measured: Measured) -> list[Numbers]:
    results = measured.results
    running, speeds = use_tables(results.table, results.epochs)
    each = _each(results, METRICS)
    return [
        table(running, "Trials at a time", "by the minute", f"{each} and {_trials(results)}"),
        table(speeds, "Each epoch", "by the minute", each),
    ]


def _trials(results: Results) -> str:
    return TRIALS if results.record is not None else _each(results, METRICS)


def _each(results: Results, file: str) -> str:
    return f"{'trial_*' if results.record is not None else '*'}/{file}"


def _folder(results: Results, trial: int | None) -> str:
    return "" if trial is None else f"{results.row(trial)['name']}/"
