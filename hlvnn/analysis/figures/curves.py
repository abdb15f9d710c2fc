"""What happened over epochs and over time: learning curves, KL, use of the machines."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from hlvnn.analysis.figures import style
from hlvnn.analysis.results import LatentColumn
from hlvnn.columns import ROWS_PER_SECOND
from hlvnn.errors import RunError
from hlvnn.records.outcomes import Status

COLLAPSED = 0.01
"""Nats a group below which a latent tells nothing of its groups."""
WIDE = 3.0
"""A loss that falls by more than this factor is drawn on a logarithmic scale."""
STRETCHES = 60
"""Stretches of time in which the trials that ran are counted."""
USE = re.compile(r"(gpu|cpu)_(use|util\w*|percent)")
"""Columns of metrics.csv that say how busy a device was, in per cent."""


def learning_curves(
    trials: pd.DataFrame,
    epochs: pd.DataFrame,
    metric: str,
    mode: str,
    *,
    rungs: Sequence[int] = (),
    best: int | None = None,
    pooled: int | None = None,
) -> Figure:
    """Draw the metric of every trial over epochs, and the scheduler's rungs.

    trials, epochs: `Results.trials` and `.epochs`. A cross is where a trial was stopped.
    """
    if not len(epochs) or metric not in epochs:
        raise RunError("no trial has finished an epoch yet")
    made, axes = style.figure((style.SIZE[0], 3.9))
    status = dict(zip(trials["trial"], trials["status"], strict=True))
    for number, part in epochs.groupby("trial", sort=False):
        state = Status(status[number])
        plain: style.Look = {
            "color": style.of_status(state),
            "linewidth": 0.9,
            "alpha": 0.75,
            "zorder": 2,
        }
        axes.plot(part["epoch"], part[metric], gid=f"trial {number}", **plain)
        if state.facts.is_crossed:
            axes.plot(
                *(part["epoch"].iloc[-1], part[metric].iloc[-1]),
                marker="x",
                markersize=4,
                color=style.of_status(state) if state.facts.is_ill else style.GREY,
                zorder=3,
            )
    thick = [(best, style.BLUE, "best")]
    if pooled != best:
        thick.insert(0, (pooled, style.ORANGE, "best without latents"))
    for chosen, colour, word in thick:
        part = epochs[epochs["trial"] == chosen]
        if chosen is not None and len(part):
            label = f"{word} (trial {chosen})"
            look: style.Look = {"color": colour, "linewidth": 2.2, "zorder": 4}
            axes.plot(part["epoch"], part[metric], marker="o", markersize=4, label=label, **look)
    for rung in rungs:
        axes.axvline(rung, color=style.GREY, linestyle=":", linewidth=1, zorder=1)
        axes.annotate(
            f"rung {rung}", (rung, 0.01), xycoords=("data", "axes fraction"),
            fontsize=style.SMALL, rotation=90, ha="right", va="bottom", color=style.GREY,
        )  # fmt: skip
    cut = style.focus(axes, epochs[metric].to_numpy(np.float64), mode)
    lowest, top = epochs[metric].min(), axes.get_ylim()[1]
    if mode == "min" and 0 < lowest < top / WIDE:
        axes.set_ylim(bottom=0.95 * lowest)
        style.plain_log(axes)
    axes.set_xlabel("epoch" + (f" ({cut} far-off values are outside)" if cut else ""))
    axes.set_ylabel(f"{style.said(metric)}\n({'lower' if mode == 'min' else 'higher'} is better)")
    style.whole_ticks(axes, epochs["epoch"].unique())
    _statuses(axes, [Status(status[number]) for number in epochs["trial"].unique()])
    return made


def _statuses(axes: Axes, statuses: Sequence[Status]) -> None:
    """Add a legend: lines that have a name, then a line for each status there is."""
    from matplotlib.lines import Line2D

    handles, labels = axes.get_legend_handles_labels()
    for status in Status:
        count = sum(one == status for one in statuses)
        if count:
            marker = "x" if status.facts.is_crossed else None
            handles.append(
                Line2D([], [], color=style.of_status(status), marker=marker, markersize=4)
            )
            labels.append(f"{count} {status}")
    style.legend_above(axes, handles, labels)


def kl_over_epochs(epochs: pd.DataFrame, trial: int, latents: Mapping[str, LatentColumn]) -> Figure:
    """Draw the KL a group of each of a trial's latents over epochs, other trials' in grey.

    epochs, latents: `Results.epochs` and `.latent_columns`. KL is shown in nats a group on a
    logarithmic scale; the dotted line is where a latent tells nothing of its groups (posterior
    collapse).
    """
    own = epochs[epochs["trial"] == trial]
    columns = [name for name in latents if own[name].notna().any()]
    if not columns:
        raise RunError(f"trial {trial} has no latent, and so no KL")
    made, axes = style.figure()
    for name, latent in latents.items():
        for number, part in epochs[epochs[name].notna()].groupby("trial", sort=False):
            if number != trial:
                grey: style.Look = {
                    "color": style.LIGHT,
                    "linewidth": 0.6,
                    "alpha": 0.6,
                    "zorder": 1,
                }
                axes.plot(part["epoch"], part[name].clip(1e-6) / latent.groups, **grey)
    for name, colour in zip(columns, style.CYCLE * len(columns), strict=False):
        values = own[name].clip(1e-6) / latents[name].groups
        look: style.Look = {
            "color": colour,
            "linewidth": 2,
            "marker": "o",
            "markersize": 4,
            "zorder": 3,
        }
        axes.plot(own["epoch"], values, label=latents[name].latent, **look)
    axes.axhline(COLLAPSED, color=style.RED, linestyle=":", linewidth=1.2)
    axes.annotate(
        "collapsed below this line", (0.99, COLLAPSED), xycoords=("axes fraction", "data"),
        ha="right", va="bottom", fontsize=style.SMALL, color=style.RED,
    )  # fmt: skip
    style.plain_log(axes)
    axes.set_xlabel("epoch")
    axes.set_ylabel("KL, nats a group")
    style.whole_ticks(axes, own["epoch"].to_numpy())
    small: style.Look = {"fontsize": style.SMALL, "title_fontsize": style.SMALL}
    made.legend(loc="outside upper left", title=f"trial {trial}", **small)
    return made


def use_tables(trials: pd.DataFrame, epochs: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return how many trials ran at a time, and how fast, over minutes since the first began.

    Columns from_minute, to_minute, at_a_time (the mean in that stretch); and trial, epoch, minute
    (at the epoch's end), and how busy devices were, or the rows a second.
    """
    begun = trials[trials["started"].notna() & (trials["epochs"] > 0)]
    if not len(begun):
        raise RunError("no trial has finished an epoch yet")
    start = begun["started"].min()
    began = {
        int(row["trial"]): (row["started"] - start).total_seconds() / 60
        for _, row in begun.iterrows()
    }
    edges, running = _running(begun, began)
    stretches = {"from_minute": edges[:-1], "to_minute": edges[1:], "at_a_time": running}
    use = [str(name) for name in epochs if USE.fullmatch(str(name))]
    at = epochs[epochs["trial"].isin(began)].copy()
    at["minute"] = at["trial"].map(began) + at.groupby("trial")["seconds"].cumsum() / 60
    speeds = at.sort_values("minute")[["trial", "epoch", "minute", *(use or [ROWS_PER_SECOND])]]
    return pd.DataFrame(stretches), speeds


def use_over_time(trials: pd.DataFrame, epochs: pd.DataFrame) -> Figure:
    """Draw how many trials ran at a time, and how fast, over the time since the first began.

    Where metrics.csv says how busy the devices were, that is drawn in place of the rows a second.
    """
    stretches, at = use_tables(trials, epochs)
    made, (above, below) = style.figures(2, 1, (style.SIZE[0], 4.2), sharex=True)
    running = stretches["at_a_time"].to_numpy()
    edges = np.append(stretches["from_minute"], stretches["to_minute"].iloc[-1])
    above.stairs(running, edges, fill=True, color=style.BLUE, alpha=0.5)
    above.set_ylabel("trials at a time")
    above.set_ylim(0, max(running) * 1.15)
    above.yaxis.set_major_locator(MaxNLocator(integer=True))
    measured = [str(name) for name in at if name not in ("trial", "epoch", "minute")]
    has_use = measured != [ROWS_PER_SECOND]
    for name, colour in zip(measured, style.CYCLE, strict=False):
        below.plot(at["minute"], at[name], ".", color=colour, markersize=5, label=name)
        if len(at) >= 9:
            smooth = at[name].rolling(9, center=True, min_periods=3).median()
            below.plot(at["minute"], smooth, color=colour, linewidth=1)
    below.set_ylim(bottom=0)
    below.set_xlabel("minutes since the first trial began")
    below.set_ylabel("busy, %" if has_use else "training rows a second,\neach trial")
    if has_use:
        below.legend(fontsize=style.SMALL)
    return made


def _running(
    trials: pd.DataFrame, began: dict[int, float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the edges of equal stretches of time (minutes), and the trials that ran in each.

    A trial counts from its start to its last epoch, so that what a slot does in between shows.
    """
    first = np.array([began[int(number)] for number in trials["trial"]])
    last = first + trials["seconds"].to_numpy(np.float64) / 60
    edges = np.linspace(0, last.max(), STRETCHES + 1)
    overlap = np.minimum(last[:, None], edges[1:]) - np.maximum(first[:, None], edges[:-1])
    return edges, overlap.clip(0).sum(0) / np.diff(edges)
