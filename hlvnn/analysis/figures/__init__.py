"""Figures of a sweep, drawn from its frames alone. Each returns a matplotlib `Figure`."""

from hlvnn.analysis.figures.curves import kl_over_epochs, learning_curves, use_over_time
from hlvnn.analysis.figures.groups import gain_by_rows, group_spread
from hlvnn.analysis.figures.parameters import importances, parallel_coordinates, shares
from hlvnn.analysis.figures.search import history, history_table, slices
from hlvnn.analysis.figures.uncertainty import calibration, shrinkage

__all__ = [
    "calibration",
    "gain_by_rows",
    "group_spread",
    "history",
    "history_table",
    "importances",
    "kl_over_epochs",
    "learning_curves",
    "parallel_coordinates",
    "shares",
    "shrinkage",
    "slices",
    "use_over_time",
]
