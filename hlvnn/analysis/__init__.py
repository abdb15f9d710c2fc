"""Reading results: tables, figures and reports. Trains nothing, needs no Ray.

    sweep = hlvnn.analysis.load_sweep("results/handwriting/SWEEP")
    sweep.trials, sweep.epochs, sweep.groups.read(trials=[3]), sweep.latents(), sweep.best(10)
    sweep.describe(), sweep.group("HAMLET").figure()

`python -m hlvnn.analysis PATH` writes the report of a sweep.
"""

from hlvnn.analysis.comparison import compare
from hlvnn.analysis.difference import Difference, diff
from hlvnn.analysis.figures.learning_rates import lr_figure
from hlvnn.analysis.listing import listing
from hlvnn.analysis.loading import load_runs, load_sweep
from hlvnn.analysis.results import Results

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
