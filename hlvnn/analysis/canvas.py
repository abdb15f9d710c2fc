"""Figures without a screen: made, and written whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from hlvnn.errors import ConfigError
from hlvnn.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
PALETTE = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c564b", "#7f3c8d"),
    *("#3969ac", "#80ba5a", "#e73f74", "#f2b701"),
)
"""Colours that most colour-blind readers can tell apart, the best ones first."""
GREY = "#9a9a9a"


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of that many inches.

    Raises `ConfigError` where matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        from hlvnn.analysis.plain_figure import PlainFigure
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"figures need {error.name}: install it with pip install 'hlvnn[analysis]'"
        ) from error
    figure = PlainFigure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, table: pd.DataFrame, out: Path) -> None:
    """Write OUT.png and what it shows as OUT.csv."""
    with replacing(_with_suffix(out, ".csv")) as temporary:
        table.to_csv(temporary, index=False)
    with replacing(_with_suffix(out, ".png")) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)


def written(out: Path) -> str:
    """Return the line that tells what `save` wrote."""
    return f"written: {_with_suffix(out, '.png')} and .csv"


def _with_suffix(out: Path, suffix: str) -> Path:
    plain = out.with_suffix("") if out.suffix in (".png", ".csv") else out
    return plain.with_name(plain.name + suffix)


def hide_overlapping_labels(axes: Axes) -> int:
    """Hide each text of the axes that would cover an earlier one; return how many are left."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    kept: list[object] = []
    for text in axes.texts:
        box = text.get_window_extent()
        if any(box.overlaps(other) for other in kept):  # type: ignore[arg-type]
            text.set_visible(False)
        else:
            kept.append(box)
    return len(kept)
