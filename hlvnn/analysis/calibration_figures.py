"""Whether a run's uncertainty comes true, as a figure.

python -m hlvnn.analysis calibration RUN
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hlvnn.analysis import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

logger = logging.getLogger("hlvnn")

PIT_BINS = 20


def draw_classes(reliability: pd.DataFrame, scores: pd.DataFrame) -> Figure:
    """Draw accuracy against confidence, over bins of all rows and for each group.

    reliability, scores: of `hlvnn.inference.calibration`.
    The bars are 95 % intervals (see `wilson`).
    """
    figure = canvas.new_figure(10, 4.6)
    left, right = figure.subplots(1, 2)
    table = reliability[reliability["n"] > 0]
    low, high = wilson(table["accuracy"].to_numpy(), table["n"].to_numpy())
    error = np.stack([table["accuracy"] - low, high - table["accuracy"]])
    left.errorbar(
        table["confidence"], table["accuracy"], error, fmt="o", capsize=3, color="#0072b2"
    )
    shares = left.twinx()
    shares.bar(
        table["low"],
        table["n"],
        table["high"] - table["low"],
        align="edge",
        color="grey",
        alpha=0.2,
    )
    shares.set_ylabel("rows (bars)")
    _diagonal(left, "mean confidence of a bin of rows", "share predicted rightly")
    left.set_title("below the diagonal: too sure", fontsize=10)
    groups = scores[scores["level"] != ""]
    for number, (level, part) in enumerate(groups.groupby("level", sort=False)):
        size = 8 + 60 * part["n"] / max(1, groups["n"].max())
        colour = canvas.PALETTE[number % len(canvas.PALETTE)]
        right.scatter(
            part["confidence"], part["acc"], s=size, alpha=0.6, color=colour, label=str(level)
        )
    _diagonal(right, "mean confidence of a group", "share predicted rightly")
    lowest = float(groups[["confidence", "acc"]].min().min()) if len(groups) else 0.0
    right.set_xlim(lowest - 0.02, 1.01)
    right.set_ylim(lowest - 0.02, 1.02)
    right.set_title("groups; the larger, the more rows", fontsize=10)
    right.legend(fontsize=8)
    return figure


def wilson(
    share: NDArray[np.float64], n: NDArray[np.int64], z: float = 1.96
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the ends of the interval of a true share, seen as `share` in n rows.

    Source: Wilson (1927); with z = 1.96 it holds the truth in about 95 % of cases.
    """
    scale = 1 + z * z / n
    centre = (share + z * z / (2 * n)) / scale
    half = z / scale * np.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
    return np.minimum(centre - half, share), np.maximum(centre + half, share)


def draw_real(pit: NDArray[np.float64], coverage: pd.DataFrame) -> Figure:
    """Draw where the targets fall in their predictive distributions, and what intervals cover.

    pit, coverage: of `hlvnn.inference.calibration`.
    The band holds 95 % of the bars of a calibrated model.
    """
    figure = canvas.new_figure(10, 4.6)
    left, right = figure.subplots(1, 2)
    left.hist(pit, np.linspace(0, 1, PIT_BINS + 1), density=True, color="#a6cbe3")
    band = 1.96 * np.sqrt((PIT_BINS - 1) / max(1, len(pit)))
    left.axhspan(1 - band, 1 + band, color="grey", alpha=0.2)
    left.axhline(1, color="black", lw=0.8)
    left.set_xlabel("predictive distribution function at y")
    left.set_ylabel("density")
    left.set_title("∪: too sure; ∩: too unsure; a slope: off to one side", fontsize=10)
    columns = [str(name) for name in coverage if str(name).startswith("coverage_")]
    wanted = [float(name.removeprefix("coverage_")) / 100 for name in columns]
    groups = coverage[coverage["level"] != ""]
    for number, (level, part) in enumerate(groups.groupby("level", sort=False)):
        colour = canvas.PALETTE[number % len(canvas.PALETTE)]
        for position, column in zip(wanted, columns, strict=True):
            label = str(level) if column == columns[0] else None
            places = position + 0.012 * (number + 1) * np.ones(len(part))
            right.scatter(places, part[column], s=8, alpha=0.5, color=colour, label=label)
    overall = coverage[coverage["level"] == ""][columns].iloc[0]
    right.plot(wanted, overall, "o-", color="black", label="all rows")
    _diagonal(right, "central interval", "share of rows inside")
    right.legend(fontsize=8)
    return figure


def _diagonal(axes: Axes, x: str, y: str) -> None:
    axes.plot([0, 1], [0, 1], color="black", lw=0.8, ls="--")
    axes.set_xlim(0, 1.02)
    axes.set_ylim(-0.02, 1.04)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.25)
