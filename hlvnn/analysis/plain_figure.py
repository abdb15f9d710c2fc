"""A figure whose texts are shown as they are: a `$` in a name that a user gave is no formula."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import LogFormatter, LogitFormatter, ScalarFormatter

NUMBERS = (LogFormatter, LogitFormatter, ScalarFormatter)
"""What writes numbers at ticks, powers of ten as formulas; all else writes names."""


class PlainFigure(Figure):
    """matplotlib's `Figure`, which reads no formula out of names."""

    def draw(self, renderer: Any) -> None:
        """Draw, once it is known which texts are names."""
        numbers: set[Text] = set()
        for axes in self.axes:
            for axis in (axes.xaxis, axes.yaxis):
                for ticks, formatter in (
                    (axis.get_major_ticks(), axis.get_major_formatter()),
                    (axis.get_minor_ticks(), axis.get_minor_formatter()),
                ):
                    if isinstance(formatter, NUMBERS):
                        numbers |= {text for tick in ticks for text in (tick.label1, tick.label2)}
        for text in self.findobj(Text):
            if isinstance(text, Text) and text not in numbers:
                text.set_parse_math(False)
        super().draw(renderer)
