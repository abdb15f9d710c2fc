"""`trials.parquet`: a row for every trial that was asked for, whatever became of it.

Its truth is the sweep's folder (the journal's draws, each trial's metrics.csv and outcome.json), so
it can be made again at any time, of a sweep that runs or was killed as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from hlvnn import files
from hlvnn.columns import BEST_EPOCH, EPOCH, FINAL, PARAMETER, VAL_LOSS, best_of, final_of
from hlvnn.config import LatentConfig, flat_settings, latent_text
from hlvnn.errors import RunError
from hlvnn.gone import GONE
from hlvnn.records import outcomes, perturbations, run_folder
from hlvnn.records.beware import told_of
from hlvnn.records.journal import Draw
from hlvnn.records.outcomes import PLACED, Outcome, Status, trial_folder
from hlvnn.search_space import Space
from hlvnn.selection import Selection
from hlvnn.storage import Remote
from hlvnn.words import Settings, text

TRIALS = "trials.parquet"
LEADING = ("trial", "status", "reason", "epochs", BEST_EPOCH)
"""First columns of the table; the settings, final_… and best_… columns follow."""
PARETO = "pareto"
"""Column of several objectives: whether no other trial is as good in all and better in one."""
CUT_OFF = "the sweep's driver ended before it did; --resume goes on with it"


RULE, CHOSEN_BY = "chosen_epoch", "metric, then loss, then earlier"
"""What the table's file says of its rule for the chosen epoch; older tables say nothing, and took
the first of several best epochs."""


class Ranking(Protocol):
    """By what the best trial is chosen; a `Space` is one."""

    @property
    def metric(self) -> str:
        """Column of metrics.csv."""

    @property
    def mode(self) -> str:
        """Either "max" or "min"."""

    @property
    def objectives(self) -> Sequence[tuple[str, str]]:
        """Every metric and its mode; the first is `metric`."""


class TrialsTable:
    """The table of one sweep. Rows of trials that ended are read once.

    Columns: trial, status (see `Status`), reason, epochs (evaluated last), best_epoch, seconds (in
    training and evaluation), wall_seconds, starts, cpus, gpus, node, ran_on (its device there),
    error, unfinished, folder; a column per setting, as it ran; param_<name>: what Optuna drew,
    empty where it did not; pareto (with several objectives); final_<column>: the last row of
    metrics.csv; best_<column>: the row of the chosen epoch (`hlvnn.selection`), so best_test_… was
    never selected on.
    """

    def __init__(self, sweep: Path, space: Space, remote: Remote | None = None) -> None:
        self.sweep = sweep
        self.remote = remote
        self.space = space
        self._ended: dict[int, dict[str, Any]] = {}

    def collect(self, draws: dict[int, Draw], num_trials: int, alive: bool) -> pd.DataFrame:
        """Return a row for each of `num_trials` trials, by number.

        alive: whether a driver works on the sweep, so that a trial without an outcome is running.
        """
        numbers = range(max(num_trials, *(number + 1 for number in draws), 1))
        rows = [self._row(draws.get(number), number, alive) for number in numbers]
        return arranged(rows, self.space)

    def write(self, draws: dict[int, Draw], num_trials: int, alive: bool) -> pd.DataFrame:
        """Write the table into the sweep's folder, whole or not at all; return it."""
        frame = self.collect(draws, num_trials, alive)
        frame.attrs = {RULE: CHOSEN_BY}
        with files.replacing(self.sweep / TRIALS) as temporary:
            frame.to_parquet(temporary, index=False)
        return frame

    def _row(self, draw: Draw | None, number: int, alive: bool) -> dict[str, Any]:
        if number in self._ended:
            return self._ended[number]
        folder = trial_folder(self.sweep, number)
        seen = outcomes.read(self.sweep, number)
        outcome = seen or without_outcome(folder, draw, number, alive)
        settings = draw.settings if draw is not None else {}
        row = row_of(outcome, folder, settings, metrics(self.sweep, number), self.space)
        drawn = {} if draw is None else draw.drawn
        row |= {f"{PARAMETER}{name}": _cell(value) for name, value in drawn.items()}
        if self.remote is not None and row["folder"] is not None:
            row["folder"] = str(self.remote / folder.name)
        if seen is not None and not seen.unfinished:  # an unfinished one may run again
            self._ended[number] = row
        return row


def row_of(
    outcome: Outcome,
    folder: Path,
    settings: Settings,
    frame: pd.DataFrame | None,
    selection: Ranking,
) -> dict[str, Any]:
    """Return a trial's row of the table.

    frame: its metrics.csv, None where it has no row yet. Of settings that changed as it ran the
    last are told.
    """
    row: dict[str, Any] = outcome.model_dump(mode="json")
    row |= {"folder": str(folder) if folder.is_dir() else None, "epochs": 0}
    if changes := perturbations.read(folder)[1:]:
        settings = settings | changes[-1].settings
        epochs = ", ".join(str(change.epoch) for change in changes)
        told = f"took over other trials after epochs {epochs} ({perturbations.PERTURBATIONS})"
        row["reason"] = "; ".join(filter(None, [row["reason"], told]))
    row |= cells(settings)
    if frame is not None:
        row["epochs"] = int(frame["epoch"].iloc[-1])
        row["seconds"] = float(frame["seconds"].sum())
        row |= _renamed(final_of, frame.iloc[-1].to_dict())
        best = Selection(selection.metric, selection.mode).chosen_of(frame)
        if outcome.status.facts.is_placed:
            row["reason"] = "; ".join(filter(None, [row["reason"], *told_of(folder, frame)]))
        if best is not None:
            row[BEST_EPOCH] = int(best["epoch"])
            row |= _renamed(best_of, best)
    return row


def arranged(rows: list[dict[str, Any]], space: Ranking) -> pd.DataFrame:
    """Return rows as one table, with its columns in their order.

    space: where its objectives are several, the table gets the column `pareto`.
    """
    frame = pd.DataFrame(rows)
    for metric, _ in space.objectives:  # also before the first result
        for name in (final_of(metric), best_of(metric)):
            if name not in frame:
                frame[name] = np.nan
    settings = [name for name in (*flat_settings(), *GONE) if name in frame]
    settings += sorted(str(name) for name in frame if str(name).startswith(PARAMETER))
    if len(space.objectives) > 1:
        frame[PARETO] = on_front(frame, space)
        settings.append(PARETO)
    known = set(settings) | set(Outcome.model_fields) | {*LEADING, "seconds", "folder"}
    measured = sorted(
        (str(name) for name in frame if name not in known),
        key=lambda name: not name.startswith(FINAL),  # stable: the rest keeps its order
    )
    about = [name for name in Outcome.model_fields if name not in LEADING]
    return frame.reindex(columns=[*LEADING, "seconds", *about, "folder", *settings, *measured])


def ranked(frame: pd.DataFrame, space: Ranking) -> pd.DataFrame:
    """Return the rows with the best validation metric first; trials without a place last.

    Among equals (accuracies of few rows often are) the lower validation loss comes first. With
    several objectives the Pareto front comes first, and the first objective orders the rows.
    """
    best = best_of(space.metric)
    if best not in frame:
        return frame
    keys = frame[[best]].where(frame["status"].isin(PLACED))
    keys["loss"] = frame.get(best_of(VAL_LOSS), 0.0)
    keys["behind"] = ~frame[PARETO] if PARETO in frame else False
    order = keys.sort_values(["behind", best, "loss"], ascending=[True, space.mode == "min", True])
    return frame.loc[order.index].reset_index(drop=True)


def on_front(frame: pd.DataFrame, space: Ranking) -> np.ndarray:
    """Return which trials are on the Pareto front, by what their best epochs measured: [N] bool."""
    columns = [best_of(metric) for metric, _ in space.objectives]
    front = np.zeros(len(frame), dtype=bool)
    if not {*columns} <= {*frame}:
        return front
    signs = np.array([1.0 if mode == "max" else -1.0 for _, mode in space.objectives])
    values = frame[columns].to_numpy(dtype=float) * signs  # [N, objectives], more is better
    rows = np.flatnonzero(frame["status"].isin(PLACED) & np.isfinite(values).all(1))
    for row in rows:
        as_good = (values[rows] >= values[row]).all(1)
        front[row] = not (as_good & (values[rows] > values[row]).any(1)).any()
    return front


def metrics(sweep: Path, number: int) -> pd.DataFrame | None:
    """Return a trial's metrics.csv, or None when it has no row yet."""
    try:
        frame = run_folder.read_metrics(trial_folder(sweep, number))
    except RunError:
        return None
    return frame if len(frame) else None


def _renamed(to: Callable[[str], str], row: Mapping[Any, float]) -> dict[str, float]:
    return {to(str(name)): value for name, value in row.items() if name != EPOCH}


def without_outcome(folder: Path, draw: Draw | None, number: int, alive: bool) -> Outcome:
    """Return what is true of a trial whose end nobody saw."""
    if draw is None:
        reason = "not drawn yet" if alive else "the sweep ended before it was drawn"
        return Outcome(trial=number, status=Status.NOT_STARTED, reason=reason, starts=0)
    if not folder.is_dir():
        reason = "waiting" if alive else "the sweep ended before it began"
        unfinished = Outcome(trial=number, status=Status.NOT_STARTED, reason=reason, starts=0)
        return unfinished.model_copy(update={"unfinished": True})
    status = Status.RUNNING if alive else Status.STOPPED
    return Outcome(trial=number, status=status, reason="" if alive else CUT_OFF, unfinished=True)


def cells(settings: Settings) -> dict[str, Any]:
    """Return settings as cells: lists as they are typed, latents in their text form."""
    found = {name: _cell(value) for name, value in settings.items()}
    if isinstance(latents := settings.get("latents"), list):
        found["latents"] = "; ".join(latent_text(LatentConfig(**latent)) for latent in latents)
    return found


def _cell(value: Any) -> Any:
    return text(value) if isinstance(value, list | tuple) else value
