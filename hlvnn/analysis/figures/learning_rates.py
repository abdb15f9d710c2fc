"""The loss at rising learning rates."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from hlvnn.analysis.canvas import new_figure


def lr_figure(table: pd.DataFrame, suggestion: float) -> Figure:
    """Draw the loss of a search for the learning rate (`hlvnn.find_lr`), and what it suggests.

    table: columns lr, loss and smoothed.
    """
    figure = new_figure(6, 4)
    axes = figure.add_subplot()
    axes.plot(table["lr"], table["loss"], color="0.8", linewidth=1, label="a batch")
    axes.plot(table["lr"], table["smoothed"], color="C0", label="smoothed")
    axes.axvline(suggestion, color="C1", linestyle="--", label=f"lr {suggestion:.1e}")
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss, nats/row")
    axes.legend(frameon=False)
    return figure
