"""What all figures share: size, colours that colour-blind readers tell apart, words for columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hlvnn.analysis.plain_figure import PlainFigure
from hlvnn.columns import MEASURES, TEST, TRAIN, TWO_CLASSES, VAL, over_groups
from hlvnn.records.outcomes import Status

SIZE = (4.6, 3.3)
"""Inches. A phone shows as much at about 1.1 of its size, so letters there are as large as here."""
SMALL = 8.5
"""Points of the smallest letters: 9 pixels on a phone."""
BLUE, ORANGE, GREEN, RED = "#0072B2", "#D55E00", "#009E73", "#B22222"
PURPLE, GREY, LIGHT, BROWN = "#8A4F7D", "#6B6B6B", "#B8B8B8", "#A6761D"
CYCLE = (BLUE, ORANGE, GREEN, PURPLE, "#56B4E9", BROWN, "#1B1B1B")
"""Okabe and Ito's colours, the darker ones first."""
HUES = {
    "blue": BLUE,
    "light": LIGHT,
    "purple": PURPLE,
    "brown": BROWN,
    "red": RED,
    "green": GREEN,
    "grey": GREY,
}
"""The colours of statuses, by the names that `outcomes.Facts` gives them."""
Look = dict[str, Any]
"""Keywords of a matplotlib call."""
WORDS = {name: measure.title for name, measure in MEASURES.items() if name != "nll"}
WORDS |= {over_groups(name): f"{MEASURES[name].title}, mean over groups" for name in TWO_CLASSES}
SPLITS = {VAL: "validation", TEST: "test", TRAIN: "training"}


def of_status(status: Status) -> str:
    """Return the colour of a status."""
    return HUES[status.facts.hue]


def figure(size: tuple[float, float] = SIZE) -> tuple[Figure, Axes]:
    """Return a figure with one pair of axes."""
    (axes,) = figures(1, 1, size)[1]
    return axes.figure, axes  # type: ignore[return-value]


def figures(
    rows: int, columns: int, size: tuple[float, float] = SIZE, *, sharex: bool = False
) -> tuple[Figure, list[Axes]]:
    """Return a figure with several axes, row by row."""
    made = PlainFigure(figsize=size, layout="constrained")
    FigureCanvasAgg(made)
    axes = made.subplots(rows, columns, squeeze=False, sharex=sharex)
    for one in axes.flat:
        one.grid(alpha=0.3, linewidth=0.6)
        one.set_axisbelow(True)
        one.spines[["top", "right"]].set_visible(False)
    return made, list(axes.flat)


def said(column: str) -> str:
    """Return a column of metrics.csv in words: `val_loss` is "validation, nats a row"."""
    split, _, measure = column.partition("_")
    if split not in SPLITS:
        return WORDS.get(column, column)
    return f"{SPLITS[split]} {WORDS.get(measure, measure)}"


def short(word: object, letters: int) -> str:
    """Return a word, cut where it has more letters than there is room for."""
    said = str(word)
    return said if len(said) <= letters else said[: letters - 1] + "…"


def whole_ticks(axes: Axes, values: Sequence[float] | NDArray[np.generic]) -> None:
    """Put ticks at whole epochs only."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=min(9, max(2, len(values)))))


def plain_log(axes: Axes, which: Literal["x", "y"] = "y") -> None:
    """Make an axis logarithmic, with as many ticks as its range needs, as plain numbers."""
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    is_y = which == "y"
    (axes.set_yscale if is_y else axes.set_xscale)("log")
    low, high = axes.get_ylim() if is_y else axes.get_xlim()
    between: tuple[float, ...] = (1.5, 2, 3, 4, 5, 7) if is_y else (2, 5)
    if high >= 10 * low:
        between = (2, 5) if is_y and high < 100 * low else ()
    axis = axes.yaxis if is_y else axes.xaxis
    axis.set_major_locator(LogLocator(subs=(1, *between)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_locator(NullLocator())


def legend_above(axes: Axes, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """Put the legend above the axes, where it hides nothing."""
    place: Look = {"loc": "lower left", "bbox_to_anchor": (-0.12, 1.0)}
    axes.legend(handles, labels, fontsize=SMALL, ncols=2, frameon=False, **place)


def focus(axes: Axes, values: NDArray[np.float64], mode: str) -> int:
    """Cut the bad end of the y axis where a few values are far off; return how many are cut."""
    finite = values[np.isfinite(values)]
    if len(finite) < 8:
        return 0
    low, high = np.quantile(finite, [0.02, 0.98] if mode == "both" else [0.0, 0.9])
    if mode == "max":
        low, high = np.quantile(finite, [0.1, 1.0])
    room = 0.25 * (high - low) if high > low else 1.0
    bottom, top = axes.get_ylim()
    if mode in ("min", "both") and top > high + 4 * room:
        axes.set_ylim(top=high + room)
    if mode in ("max", "both") and bottom < low - 4 * room:
        axes.set_ylim(bottom=low - room)
    bottom, top = axes.get_ylim()
    return int(((finite < bottom) | (finite > top)).sum())
