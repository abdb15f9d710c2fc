"""Gains of groups by what they are like."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from hlvnn.analysis.by_attribute import ByAttribute
from hlvnn.analysis.figures import style
from hlvnn.errors import RunError

DRAWN = 4
"""Attributes that are drawn, of those whose gains differ most surely."""
LETTERS = 18
"""Of a value at its tick."""
PART = 0.32
"""Inches of height for each bin or category."""


def gain_by_attribute(found: Sequence[ByAttribute], measure: str, split: str) -> Figure:
    """Draw the mean gain over groups, ± one standard error, by each attribute's values."""
    shown = found[:DRAWN]
    if not shown:
        raise RunError("no attribute tells groups apart")
    heights = [len(one.parts) for one in shown]
    size = (style.SIZE[0], 0.9 + sum(0.5 + PART * height for height in heights))
    made, axes = style.figures(len(shown), 1, size, sharex=True)
    if (grid := axes[0].get_gridspec()) is not None:
        grid.set_height_ratios(heights)
    for one, place in zip(shown, axes, strict=True):
        at = np.arange(len(one.parts))[::-1]
        place.axvline(0, color="black", linestyle="--", linewidth=1)
        look: style.Look = {"fmt": "s", "markersize": 5, "capsize": 3, "color": style.BLUE}
        place.errorbar(one.parts["gain"], at, xerr=one.parts["error"].fillna(0), **look)
        place.set_yticks(
            at, [f"{style.short(row.value, LETTERS)} ({row.groups})" for row in one.each]
        )
        place.set_ylim(-0.6, len(at) - 0.4)
        place.set_title(one.name, fontsize=style.SMALL, loc="left")
    axes[-1].set_xlabel(
        f"mean gain in {style.SPLITS[split]} {style.WORDS[measure]} over the pooled model\n"
        "(in brackets: groups)"
    )
    return made
