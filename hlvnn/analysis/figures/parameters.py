"""Which parameters mattered: Optuna's own plots, of the best metric of the trials with a place."""

from __future__ import annotations

import warnings

import numpy as np
import optuna
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from hlvnn.analysis.figures import style
from hlvnn.errors import RunError

FEWEST = 4
"""Trials below which the plots say nothing."""
MOST = 7
"""Parameters of the parallel coordinates, the most important ones; more cannot be read."""


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


def parallel_coordinates(study: optuna.Study, metric: str) -> Figure:
    """Draw a line a trial through its parameters, coloured by the metric."""
    names = shared_parameters(study)[:MOST]
    with _optuna_style():
        axes = optuna.visualization.matplotlib.plot_parallel_coordinate(
            study, params=names, target_name=metric
        )
        made = _taken(axes.figure)  # type: ignore[arg-type]
    made.set_size_inches(style.SIZE[0] + 0.3 * len(names), 3.9)
    made.axes[0].set_title("")
    made.axes[0].set_ylabel(style.said(metric))
    _darken_by_rank(made.axes[0], study.direction)
    for one in list(made.axes):
        if one.get_label() == "<colorbar>":
            one.remove()  # the first axis says it, and the last one's names need the room
            continue
        if one.get_yscale() == "log":
            style.plain_log(one)
        one.tick_params(labelsize=8)
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


def importances(study: optuna.Study, metric: str) -> Figure:
    """Draw how much of the metric's variance each parameter explains (fANOVA)."""
    names = shared_parameters(study)
    with _optuna_style():
        axes = optuna.visualization.matplotlib.plot_param_importances(
            study,
            evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0),
            params=names,
            target_name=metric,
        )
        made = _taken(axes.figure)  # type: ignore[arg-type]
    made.set_size_inches(style.SIZE[0], 1.3 + 0.35 * len(names))
    axes.set_title("", loc="left")
    axes.set_ylabel("")
    axes.set_xlabel(f"share of the variance of {style.said(metric)}")
    axes.margins(x=0.1)
    axes.set_facecolor("white")
    axes.tick_params(labelsize=9, colors="black")
    axes.xaxis.label.set(fontsize=9, color="black")
    legend = axes.get_legend()
    if legend is not None:
        legend.remove()
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
