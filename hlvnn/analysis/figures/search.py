"""How a search went: what each trial reached, and at which values of the parameters."""

from __future__ import annotations

import numpy as np
import optuna
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.distributions import FloatDistribution, IntDistribution

from hlvnn.analysis.figures import style
from hlvnn.columns import best_of
from hlvnn.errors import RunError
from hlvnn.records.outcomes import PLACED, Status

PANELS = 8
"""Parameters of the slices; more would be a page of them."""
ACROSS = 2
LETTERS = 12
"""Of a choice's name at its tick."""
CHOICES = 12
"""Choices that are named at an axis; of more, every so many."""


def history_table(trials: pd.DataFrame, metric: str, mode: str) -> pd.DataFrame:
    """Return what each trial reached, and the best until then: trial, status, the metric, best.

    trials: `Results.table`. Trials with no value are left out; of those that failed or diverged
    none is the best. Raises `RunError` where no trial has a value.
    """
    column = best_of(metric)
    if column not in trials or not trials[column].notna().any():
        raise RunError("no trial has finished an epoch yet")
    reached = trials[trials[column].notna()].sort_values("trial", kind="stable")
    ranked = reached[column].where(reached["status"].isin(PLACED)).astype(float)
    best = (ranked.cummin() if mode == "min" else ranked.cummax()).ffill()
    return pd.DataFrame(
        {
            "trial": reached["trial"].astype(int),
            "status": reached["status"],
            metric: reached[column].astype(float),
            "best": best,
        }
    ).reset_index(drop=True)


def history(table: pd.DataFrame, metric: str, mode: str) -> Figure:
    """Draw what each trial reached, in the order of their numbers, and the best until then.

    table: of `history_table`.
    """
    made, axes = style.figure()
    for status in Status:
        part = table[table["status"] == status]
        if not len(part):
            continue
        look: style.Look = {"color": style.of_status(status), "linestyle": "none", "alpha": 0.75}
        look |= {"marker": "x" if status.facts.is_crossed else "o", "markersize": 4}
        axes.plot(part["trial"], part[metric], label=f"{len(part)} {status}", **look)
    step: style.Look = {"color": style.ORANGE, "linewidth": 2, "where": "post", "zorder": 3}
    axes.step(table["trial"], table["best"], label="the best so far", **step)
    cut = style.focus(axes, table[metric].to_numpy(np.float64), mode)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.set_xlabel("trial" + (f" ({cut} far-off values are outside)" if cut else ""))
    axes.set_ylabel(f"{style.said(metric)}\n({'lower' if mode == 'min' else 'higher'} is better)")
    style.legend_above(axes, *axes.get_legend_handles_labels())
    return made


def slices(study: optuna.Study, metric: str) -> Figure:
    """Draw the metric against each parameter, a panel each; the best trial stands out.

    Parameters that only some trials drew are drawn for those.
    """
    trials = study.get_trials(deepcopy=False)
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    varied = [n for n in names if len({str(t.params[n]) for t in trials if n in t.params}) > 1]
    if not varied:
        raise RunError("no parameter was drawn that differs between the trials with a result")
    varied = varied[:PANELS]
    across = min(ACROSS, len(varied))
    down = -(-len(varied) // across)
    made, panels = style.figures(down, across, (style.SIZE[0], 0.3 + 1.75 * down))
    for axes in panels[len(varied) :]:
        axes.set_visible(False)
    for place, (axes, name) in enumerate(zip(panels, varied, strict=False)):
        _slice(axes, [one for one in trials if name in one.params], name, study)
        if place % across:
            axes.tick_params(labelleft=False)
    values = np.array([trial.value for trial in trials], float)
    room = 0.05 * (np.ptp(values) or 1.0)
    panels[0].set_ylim(values.min() - room, values.max() + room)
    is_min = study.direction == optuna.study.StudyDirection.MINIMIZE
    style.focus(panels[0], values, "min" if is_min else "max")
    for axes in panels[1 : len(varied)]:
        axes.set_ylim(panels[0].get_ylim())
    made.supylabel(style.said(metric), fontsize=10)
    return made


def _slice(
    axes: Axes, trials: list[optuna.trial.FrozenTrial], name: str, study: optuna.Study
) -> None:
    law = trials[0].distributions[name]
    values = np.array([trial.value for trial in trials], float)
    look: style.Look = {"color": style.BLUE, "alpha": 0.6, "markersize": 4, "linestyle": "none"}
    drawn = [trial.params[name] for trial in trials]
    at: list[float]
    if isinstance(law, FloatDistribution | IntDistribution):
        at = [float(one) for one in drawn]
        if not law.log:
            axes.xaxis.set_major_locator(
                MaxNLocator(nbins=4, integer=isinstance(law, IntDistribution))
            )
    else:
        known = list(dict.fromkeys(map(str, getattr(law, "choices", drawn))))
        at = [float(known.index(str(one))) for one in drawn]
        every = -(-len(known) // CHOICES)
        shown = range(0, len(known), every)
        axes.set_xticks([*shown], [style.short(known[one], LETTERS) for one in shown])
        axes.set_xlim(-0.5, len(known) - 0.5)
        axes.tick_params(axis="x", rotation=90 if len(shown) > 3 else 0)
    axes.plot(at, values, marker="o", **look)
    if isinstance(law, FloatDistribution | IntDistribution) and law.log:
        style.plain_log(axes, "x")
    best = study.best_trial.number
    for x, y, trial in zip(at, values, trials, strict=True):
        if trial.number == best:
            star: style.Look = {"marker": "*", "markersize": 11, "color": style.ORANGE, "zorder": 4}
            axes.plot([x], [y], label="best", **star)
    axes.set_xlabel(style.short(name, 24), fontsize=9)
    axes.tick_params(labelsize=style.SMALL)
