"""How groups fare: their spread over epochs, and what each gains over the pooled model."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hlvnn.analysis.figures import style
from hlvnn.columns import BETTER_HIGH, TEST, VAL, WORST_DECILE
from hlvnn.errors import RunError

NAMED = 6
"""The weakest groups that are named."""
PER_LINE = 2
LETTERS = 16
"""Of a group's name in a line under the figure; tables have the rest."""
BINS = 6
"""Bins of groups, about equally many in each, whose mean gain is drawn."""


def weakest(groups: pd.DataFrame, measure: str, count: int = NAMED) -> pd.DataFrame:
    """Return the weakest groups of one epoch's table, the weakest first.

    A group that is predicted perfectly is none of them.
    """
    perfect = 1.0 if measure in BETTER_HIGH else 0.0
    ordered = groups[groups[measure] != perfect]
    ordered = ordered.sort_values(measure, ascending=measure in BETTER_HIGH, kind="stable")
    return ordered.head(count)


def group_spread(
    spread: pd.DataFrame, last: pd.DataFrame, measure: str, *, split: str = VAL
) -> Figure:
    """Draw the distribution of the groups over epochs, and name the weakest ones at the end.

    spread: `groups.spread(trials=[…])` of one trial. last: the per-group table of its last epoch,
    with labels.
    """
    if not len(spread):
        raise RunError("no per-group table has been written")
    made, axes = style.figure((style.SIZE[0], 4.6))
    x = spread["epoch"]
    for low, high, alpha, label in (
        ("p10", "p90", 0.18, "10th to 90th percentile"),
        ("p25", "p75", 0.32, "middle half of groups"),
    ):
        axes.fill_between(
            x, spread[low], spread[high], color=style.BLUE, alpha=alpha, linewidth=0, label=label
        )
    axes.plot(x, spread["p50"], color=style.BLUE, linewidth=2, label="median group")
    weak: style.Look = {"color": style.ORANGE, "linewidth": 2, "marker": "o", "markersize": 4}
    axes.plot(x, spread["p10"], label="10th percentile (weak end)", **weak)
    dashed: style.Look = {"color": style.ORANGE, "linewidth": 1.2, "linestyle": "--"}
    axes.plot(x, spread[WORST_DECILE], label="mean of the weakest tenth", **dashed)
    fair = int(last["n"].median())
    named = weakest(last[last["n"] >= fair], measure)
    end = float(x.iloc[-1])
    axes.plot([end] * len(named), named[measure], "_", color=style.RED, markersize=9)
    words = [
        f"{style.short(row.label, LETTERS)} {getattr(row, measure):.2f} ({row.n} rows)"
        for row in named.itertuples()
    ]
    lines = [", ".join(words[i : i + PER_LINE]) for i in range(0, len(words), PER_LINE)]
    where = f"at epoch {end:g}, on {style.SPLITS[split]} rows, of those with {fair} or more"
    title = f"weakest {where} (red):" if words else f"no group is weak {where}"
    made.supxlabel("\n".join([title, *lines]), fontsize=style.SMALL, color=style.RED)
    made.legend(loc="outside upper left", fontsize=style.SMALL, ncols=2, frameon=False)
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"{style.WORDS[measure]} of a group,\n{style.SPLITS[split]} rows")
    style.whole_ticks(axes, x.to_numpy())
    return made


def gain_by_rows(gains: pd.DataFrame) -> Figure:
    """Draw each group's gain over the pooled model against its number of rows.

    gains: from `hlvnn.analysis.gains.gains`. The line of no gain is dashed; dots with bars are
    means, ± one standard error, of bins with about equally many groups.
    """
    if not len(gains):
        raise RunError("no group was scored under both models")
    training = gains["rows"].notna().all()
    rows = gains["rows" if training else "n"].to_numpy(np.float64)
    gain = gains["gain"].to_numpy(np.float64)
    made, axes = style.figure()
    axes.axhline(0, color="black", linestyle="--", linewidth=1, label="no gain")
    better = gain > 0
    for chosen, colour, label in (
        (better, style.BLUE, f"{better.sum()} groups gain"),
        (gain < 0, style.ORANGE, f"{(gain < 0).sum()} lose"),
        (gain == 0, style.LIGHT, f"{(gain == 0).sum()} neither"),
    ):
        look: style.Look = {"color": colour, "markersize": 4, "alpha": 0.65, "linestyle": "none"}
        axes.plot(rows[chosen], gain[chosen], marker="o", label=label, zorder=1.5, **look)
    centres, means, errors = _binned(rows, gain)
    axes.errorbar(
        *(centres, means, errors),
        color="black",
        marker="s",
        markersize=4,
        capsize=3,
        linewidth=1.3,
        label="mean ± standard error",
    )
    if rows.max() > 20 * max(1.0, rows.min()):
        axes.set_xscale("log")
    style.focus(axes, gain, "both")
    split = style.SPLITS[gains.attrs.get("split", TEST)]
    measure = style.WORDS[gains.attrs.get("measure", "acc")]
    axes.set_xlabel("training rows of the group" if training else f"{split} rows of the group")
    axes.set_ylabel(f"gain in {split} {measure}\nover the pooled model")
    style.legend_above(axes, *axes.get_legend_handles_labels())
    return made


def _binned(
    x: np.ndarray[tuple[int], np.dtype[np.float64]], y: np.ndarray[tuple[int], np.dtype[np.float64]]
) -> tuple[list[float], list[float], list[float]]:
    """Return centres, means and standard errors of bins with about equally many values.

    Values that are alike in x are in one bin.
    """
    edges = np.quantile(x, np.linspace(0, 1, min(BINS, max(1, len(x) // 5)) + 1)[1:-1])
    at = np.searchsorted(np.unique(edges), x)
    parts = [np.flatnonzero(at == one) for one in np.unique(at)]
    centres = [float(np.median(x[part])) for part in parts]
    means = [float(y[part].mean()) for part in parts]
    errors = [
        float(y[part].std(ddof=1) / np.sqrt(len(part))) if len(part) > 1 else 0.0 for part in parts
    ]
    return centres, means, errors
