"""Which parameters mattered: Optuna's own plots, of the best metric of the trials with a place."""

from __future__ import annotations

import warnings

import numpy as np
import optuna
import pandas as pd
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from hlvnn.analysis.figures import style
from hlvnn.errors import RunError

FEWEST = 4
"""Trials below which the plots say nothing."""
MOST = 5
"""Parameters of the parallel coordinates; more cannot be read on a phone."""
OVERHANG = 0.7
"""Inches that labels of the parallel coordinates take outside their axes."""
LETTERS = 12
"""Of a name below its axis."""


def shared_parameters(study: optuna.Study) -> list[str]:
    """Return the parameters that every trial has; others (of an `if`) cannot be compared."""
    trials = study.get_trials(deepcopy=False)
    if len(trials) < FEWEST:
        raise RunError(
            f"{len(trials) or 'none'} of the trials with a result drew parameters; at least "
            f"{FEWEST} are needed"
        )
    names = [name for name in trials[0].params if all(name in trial.params for trial in trials)]
    varied = [name for name in names if len({str(trial.params[name]) for trial in trials}) > 1]
    if not varied:
        raise RunError("no parameter was drawn in all trials and differs between them")
    return varied


def parallel_coordinates(
    study: optuna.Study, metric: str, table: pd.DataFrame | None = None
) -> Figure:
    """Draw a line a trial through its parameters, coloured by the metric.

    table: of `shares`, by which the most important parameters are taken; else the first ones.
    """
    names = shared_parameters(study)
    if table is not None:
        names = [name for name in table["parameter"] if name in names]
    names = names[:MOST]
    with _optuna_style():
        axes = optuna.visualization.matplotlib.plot_parallel_coordinate(
            study, params=names, target_name=metric
        )
        made = _taken(axes.figure)  # type: ignore[arg-type]
    made.set_size_inches(style.SIZE[0] - OVERHANG, 3.7)
    first = made.axes[0]
    first.set_title("")
    first.set_ylabel(style.said(metric), fontsize=9)
    first.set_xticks(
        first.get_xticks(),
        [style.short(one.get_text(), LETTERS) for one in first.get_xticklabels()],
        rotation=35,
        ha="right",
        fontsize=9,
    )
    _darken_by_rank(made.axes[0], study.direction)
    for one in list(made.axes):
        if one.get_label() == "<colorbar>":
            one.remove()  # the first axis says it, and the last one's names need the room
            continue
        if one.get_yscale() == "log":
            style.plain_log(one)
        one.tick_params(labelsize=style.SMALL)
        if isinstance(one.yaxis.get_major_locator(), FixedLocator):  # choices
            words = [style.short(label.get_text(), LETTERS) for label in one.get_yticklabels()]
            one.set_yticks(one.get_yticks(), words)
        for label in one.get_yticklabels():  # lines run behind them
            label.set_bbox({"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5})
    return made


def _darken_by_rank(axes: Axes, direction: optuna.study.StudyDirection) -> None:
    """Colour the lines by the rank of their trial, the best darkest and on top of the others.

    By the metric itself, a few bad trials would make all others look alike.
    """
    (lines,) = axes.collections
    assert isinstance(lines, LineCollection)
    values = np.asarray(lines.get_array(), float)
    worst_first = np.argsort(values, kind="stable")
    if direction == optuna.study.StudyDirection.MINIMIZE:
        worst_first = worst_first[::-1]
    segments = lines.get_segments()
    lines.set_segments([segments[i] for i in worst_first])
    lines.set_array(np.arange(len(values)))
    blues = pyplot.get_cmap("Blues")(np.linspace(0.2, 1, 64))
    lines.set_cmap(ListedColormap(blues))
    lines.set_clim(0, max(1, len(values) - 1))


def shares(study: optuna.Study) -> pd.DataFrame:
    """Return how much of the metric's variance each parameter explains: parameter, share (fANOVA).

    Only of the parameters that all trials drew; the largest first.
    """
    names = shared_parameters(study)
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    with _optuna_style():
        found = optuna.importance.get_param_importances(study, evaluator=evaluator, params=names)
    return pd.DataFrame({"parameter": list(found), "share": list(found.values())})


def importances(study: optuna.Study, metric: str, table: pd.DataFrame | None = None) -> Figure:
    """Draw how much of the metric's variance each parameter explains; table: of `shares`."""
    table = shares(study) if table is None else table
    made, axes = style.figure((style.SIZE[0], 1.0 + 0.3 * len(table)))
    rising = table[::-1]
    bars = axes.barh(rising["parameter"], rising["share"], color=style.BLUE)
    axes.bar_label(bars, [f"{one:.2f}" for one in rising["share"]], padding=3, fontsize=9)
    axes.set_xlabel(f"share of the variance of\n{style.said(metric)}")
    axes.margins(x=0.12)
    axes.grid(visible=False, axis="y")
    return made


class _optuna_style:
    """Optuna draws with pyplot in a style of its own: keep both away from the caller."""

    def __enter__(self) -> None:
        self.context = pyplot.rc_context({"figure.max_open_warning": 0})
        self.context.__enter__()
        self.warnings = warnings.catch_warnings()
        self.warnings.__enter__()
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)

    def __exit__(self, *error: object) -> None:
        self.warnings.__exit__(*error)  # type: ignore[arg-type]
        self.context.__exit__(*error)  # type: ignore[arg-type]


def _taken(made: Figure) -> Figure:
    """Return a figure that pyplot no longer holds."""
    pyplot.close(made)
    return made
