"""Figures of a sweep, drawn from its frames alone. Each returns a matplotlib `Figure`."""

from hlvnn.analysis.figures.curves import kl_over_epochs, learning_curves, use_over_time
from hlvnn.analysis.figures.groups import gain_by_rows, group_spread
from hlvnn.analysis.figures.parameters import importances, parallel_coordinates
from hlvnn.analysis.figures.uncertainty import calibration, shrinkage

__all__ = [
    "calibration",
    "gain_by_rows",
    "group_spread",
    "importances",
    "kl_over_epochs",
    "learning_curves",
    "parallel_coordinates",
    "shrinkage",
    "use_over_time",
]
