"""Reading results: tables, figures and reports. Trains nothing, needs no Ray.

    sweep = hlvnn.analysis.load_sweep("results/handwriting/SWEEP")
    sweep.trials, sweep.epochs, sweep.groups.read(trials=[3]), sweep.latents(), sweep.best(10)
    sweep.describe(), sweep.group("HAMLET").figure()

`python -m hlvnn.analysis PATH` writes the report of a sweep.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hlvnn.analysis.comparison import compare
from hlvnn.analysis.difference import Difference, diff
from hlvnn.analysis.listing import listing
from hlvnn.analysis.loading import load_runs, load_sweep
from hlvnn.analysis.results import Results

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = [
    "Difference",
    "Results",
    "compare",
    "diff",
    "listing",
    "load_runs",
    "load_sweep",
    "lr_figure",
]


def lr_figure(table: pd.DataFrame, suggestion: float) -> Figure:
    """Draw a search for the learning rate (`hlvnn.find_lr`): its table, and what it suggests."""
    from hlvnn.analysis.figures import learning_rates  # reading alone needs no matplotlib

    return learning_rates.lr_figure(table, suggestion)
