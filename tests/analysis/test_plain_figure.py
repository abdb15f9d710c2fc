"""Names in figures are shown as they are; powers of ten stay powers."""

from __future__ import annotations

import io

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from hlvnn.analysis import canvas
from hlvnn.analysis.figures import style

NAME = r"price $\frac$ of_$x$"


def test_a_name_with_signs_is_no_formula() -> None:
    for figure in (canvas.new_figure(4, 3), style.figure()[0]):
        axes = figure.axes[0] if figure.axes else figure.subplots()
        axes.plot([1, 2], [1e-3, 10], label=NAME)
        axes.set_yscale("log")
        axes.set_xticks([1, 2], [NAME, "b"])
        axes.set_title(NAME)
        axes.set_xlabel(NAME)
        axes.annotate(NAME, (1, 1))
        figure.suptitle(NAME)
        axes.legend()
        figure.savefig(io.BytesIO(), format="png", bbox_inches="tight")
        texts = [one for one in figure.findobj(Text) if isinstance(one, Text)]
        assert len([one for one in texts if one.get_text() == NAME]) == 7  # a tick has two
        powers = [one for one in texts if "mathdefault" in one.get_text()]
        assert powers
        assert all(one.get_parse_math() for one in powers)


def test_without_it_such_a_name_ends_a_figure() -> None:
    from matplotlib.figure import Figure

    figure = Figure()
    FigureCanvasAgg(figure)
    figure.suptitle(NAME)
    with pytest.raises(ValueError, match="frac"):
        figure.savefig(io.BytesIO(), format="png")
