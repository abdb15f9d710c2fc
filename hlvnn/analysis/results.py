"""A sweep, or a folder of single runs, as dataframes."""

from __future__ import annotations

import html
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd

from hlvnn import columns
from hlvnn.analysis import described, export, searched
from hlvnn.analysis.group_tables import GroupTables
from hlvnn.analysis.latent_tables import best_run, calibration_table, check_data, latent_table
from hlvnn.analysis.one_group import OneGroup, one_group
from hlvnn.analysis.opened import (
    ABOUT,
    CHOSEN,
    FINALS,
    OVER_GROUPS,
    SETTINGS,
    TRIALS,
    Opened,
    opened,
    part,
)
from hlvnn.analysis.reading import read_metrics
from hlvnn.columns import BEST_EPOCH, DATA_HASH, best_of, measure_of
from hlvnn.config import in_place
from hlvnn.errors import RunError
from hlvnn.records import trials_table
from hlvnn.records.journal import Drawn
from hlvnn.records.outcomes import PLACED, Status
from hlvnn.records.run_folder import Run
from hlvnn.records.schedulers import SCHEDULERS, Halving, Scheduler
from hlvnn.records.sweep_folder import Record
from hlvnn.selection import Selection

SHOWN = 5
"""Trials that a notebook shows of a sweep."""
POOLED = "none"
"""Structure of a trial without latents."""


@dataclass(frozen=True)
class LatentColumn:
    """Whose KL a column of metrics.csv holds.

    latent: the latent's name; level: its group level; groups: how many groups that has, 1 where
    it is not known.
    """

    latent: str
    level: str | None
    groups: int


@dataclass(frozen=True, repr=False)
class Results:
    """The trials of a sweep (or of a folder of runs), read when they were loaded.

    metric, mode: what the best trial is chosen by. problems: what could not be read, in words.
    alive: whether a driver worked on the sweep then. record: what `sweep.json` says; None for runs.
    """

    path: Path
    metric: str
    mode: str
    table: pd.DataFrame
    """The whole table, as `trials.parquet` has it: a row per trial, whatever became of it.

    `trials`, `settings`, `final`, `chosen` and `about` are its parts:

    - `trial` its number, `status` (see `outcomes.Status`),
      `reason`, `epochs` (evaluated last), `best_epoch`, `seconds` (training and evaluation),
      `wall_seconds`, `starts`, `cpus`, `gpus`, `node`, `ran_on` (its device), `error`,
      `unfinished`, `folder`;
    - `name` of its folder, `structure` (its latents as they are typed; `none` = pooled), `pooled`
      (no latents), `model`, `parameters` (their number), `started` (UTC), `data_hash`;
    - a column per setting of the run (`lr`, `latent_config`, …), and `param_…` as Optuna drew it;
    - `pareto`, where the study has several objectives: whether the trial is on their front;
    - `final_…`: the last row of metrics.csv; `best_…`: its row at `best_epoch`, the epoch with the
      best validation metric, so that `best_test_…` was never selected on.
    """
    groups: GroupTables
    """Per-group tables, lazily: `groups.read(columns, trials=, epochs=, level=, split=)`."""
    alive: bool = False
    record: Record | None = None
    problems: list[str] = field(default_factory=list)
    drawn: Drawn = field(default_factory=Drawn)
    latent_names: tuple[str, ...] = ()
    """The names of all latents of all trials."""
    references: pd.DataFrame = field(default_factory=pd.DataFrame)
    """The pooled references (`--pooled-reference`), a row each in the columns of `table` with
    `winner`, the trial each is compared with, and `source`, whose settings it has. They are no
    trials: their numbers are −1, −2, …, and no ranking has them."""

    places: dict[str, Path | None] = field(default_factory=dict)
    """Where the data are now, of those that have moved: by the setting's name."""

    def __repr__(self) -> str:
        counts = self.table["status"].value_counts().items()
        told = ", ".join(f"{count} {status}" for status, count in counts)
        best = f"; best is trial {self.best_trial}" if self.best_trial is not None else ""
        damaged = f"; {len(self.problems)} problems" if self.problems else ""
        return (
            f"Results({self.name}: {len(self.table)} trials by {self.metric} ({self.mode}): "
            f"{told}{best}{damaged})"
        )

    def _repr_html_(self) -> str:
        """Return what a notebook shows: a line, and the best trials."""
        shown = ["trial", "status", BEST_EPOCH, best_of(self.metric), "structure"]
        table = self.placed.head(SHOWN)[shown].to_html(index=False, border=0)
        return f"<p>{html.escape(repr(self))}</p>{table}"

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def objectives(self) -> tuple[tuple[str, str], ...]:
        """Each metric of the study with its mode ("max" or "min"), `metric` first."""
        return self.record.objectives if self.record is not None else ((self.metric, self.mode),)

    @property
    def index(self) -> pd.Index[Any]:
        """The index of all tables of trials: their numbers, or single runs' names."""
        if self.record is None:
            return pd.Index(self.table["name"], name="name")
        return pd.Index(self.table["trial"].to_numpy(np.int64))

    @cached_property
    def trials(self) -> Opened:
        """The table to begin with: a row per trial, whatever became of it.

        Columns trial (its number), status (`outcomes.Status`), reason, structure (its latents as
        they are typed; `none` = pooled), `param_…` as Optuna drew it, best_epoch (the chosen one),
        `best_…` of the metric then, and of that metric over the lowest level's groups group_mean,
        worst_decile (mean of the weakest tenth) and group_worst; epochs (evaluated last), seconds,
        and pareto where there are several objectives. All else: `settings`, `final`, `chosen`,
        `about`, with the same index; `describe()` says what each column is.
        """
        names = [metric for metric, _ in self.objectives]
        at = self.table.get(BEST_EPOCH, pd.Series(np.nan, self.table.index))
        chosen = {
            int(trial): int(epoch)
            for trial, epoch in zip(self.table["trial"], at, strict=True)
            if not pd.isna(epoch)
        }
        measure = measure_of(self.metric)
        measure = measure if measure in self.groups.measures else self.groups.main_measure
        spread = self.groups.at(chosen, measure).reindex(self.table["trial"])
        spread = spread.rename(columns=OVER_GROUPS)
        return opened(self.table, spread, names, self.index, self.record is None)

    @property
    def settings(self) -> pd.DataFrame:
        """Every setting of each trial, as it ran."""
        return self._part(SETTINGS)

    @property
    def final(self) -> pd.DataFrame:
        """What each trial measured in its last epoch, in the columns of metrics.csv."""
        return self._part(FINALS)

    @property
    def chosen(self) -> pd.DataFrame:
        """What each measured in its chosen epoch: `test_…` of it was never selected on."""
        return self._part(CHOSEN)

    @property
    def about(self) -> pd.DataFrame:
        """How each ran: error, folder, model, parameters, data_hash, started, machine and times."""
        return self._part(ABOUT)

    def _part(self, name: str) -> pd.DataFrame:
        return part(self.table, name, self.index, self.record is None)

    def describe(self) -> pd.DataFrame:
        """Return what each column is: columns column, meaning, unit, table (`sweep.TABLE`)."""
        parts: dict[str, list[str]] = {
            name: list(map(str, getattr(self, name)))
            for name in (TRIALS, SETTINGS, CHOSEN, FINALS, ABOUT, "epochs")
        }
        return described.of_tables(parts | {"groups": self.groups.columns})

    def to_csv(self, folder: Path | str) -> None:
        """Write each table as a CSV file: trials.csv, settings.csv, …, columns.csv (`describe`)."""
        export.to_csv(self, folder)

    def to_excel(self, path: Path | str) -> None:
        """Write the tables as the sheets of a workbook (.xlsx)."""
        export.to_excel(self, path)

    @cached_property
    def epochs(self) -> pd.DataFrame:
        """A row per trial and evaluated epoch: `trial`, then the columns of metrics.csv."""
        tables = []
        for number, folder in zip(self.table["trial"], self.table["folder"], strict=True):
            frame = None if pd.isna(folder) else read_metrics(Path(folder), [])
            if frame is not None:
                frame = frame.drop_duplicates("epoch", keep="last")
                frame.insert(0, "trial", number)
                tables.append(frame)
        if not tables:
            return pd.DataFrame(columns=["trial", "epoch", self.metric])
        return pd.concat(tables, ignore_index=True)

    @cached_property
    def latent_columns(self) -> dict[str, LatentColumn]:
        """The columns of `epochs` that hold the KL of a latent, by their names."""
        sizes = self.groups.level_sizes
        found = {}
        for name in self.latent_names:
            level = columns.level_of(name, sizes)
            found[columns.kl(name)] = LatentColumn(name, level, sizes.get(level or "", 1))
        return {column: one for column, one in found.items() if column in self.epochs}

    @cached_property
    def ranked(self) -> pd.DataFrame:
        """`table` with the best first; those without a place last."""
        frame: pd.DataFrame = trials_table.ranked(self.table, self)
        return frame

    @property
    def placed(self) -> pd.DataFrame:
        """The ranked trials that have a place: completed or stopped, with a metric."""
        column = best_of(self.metric)
        if column not in self.ranked:
            return self.ranked.iloc[:0]
        return self.ranked[self.ranked["status"].isin(PLACED) & self.ranked[column].notna()]

    def best(self, k: int = 10) -> pd.DataFrame:
        """Return the best k trials, `rank` 1 first, in the columns of `trials` (and `name`)."""
        order = self.placed["trial"].head(k)
        places = pd.Series(range(len(self.table)), self.table["trial"])
        frame = self.trials.iloc[places[order].to_numpy()].reset_index(drop=self.record is not None)
        frame.insert(0, "rank", np.arange(1, len(frame) + 1))
        return frame

    @property
    def best_trial(self) -> int | None:
        """Number of the best trial; while there is none with a place, of the best that runs."""
        if len(self.placed):
            return int(self.placed["trial"].iloc[0])
        column = best_of(self.metric)
        running = self.table[self.table["status"] == Status.RUNNING]
        if column not in running or not running[column].notna().any():
            return None
        ordered = running.sort_values(column, ascending=self.mode == "min", kind="stable")
        return int(ordered["trial"].iloc[0])

    @property
    def pooled_trial(self) -> int | None:
        """Number of the best trial without latents, the pooled model; None where none has ended."""
        pooled = self.placed[self.placed["pooled"].astype(bool)]
        return int(pooled["trial"].iloc[0]) if len(pooled) else None

    def baselines(self, trial: int) -> list[int]:
        """Return what a trial is compared with, the best first.

        Its pooled references, and the best trial without latents where it trained as long; without
        any reference that one alone, however long it trained.
        """
        pooled = self.pooled_trial
        found: list[int] = []
        if len(self.references):
            own = self.references[self.references["winner"] == trial]
            found = [int(number) for number in own["trial"]]
        if not found:
            return [] if pooled is None or pooled == trial else [pooled]
        if pooled is not None and self.row(pooled)["epochs"] >= self.row(trial)["epochs"]:
            found.append(pooled)
        selection = Selection(self.metric, self.mode)
        rows = {number: selection.chosen_of(self.metrics_of(number)) for number in found}
        orders = {number: selection.order(row) for number, row in rows.items() if row is not None}
        return sorted(orders, key=lambda number: (orders[number] or (np.inf, np.inf), -number))

    def called(self, trial: int) -> str:
        """Return what a trial, or a reference, is called in a sentence; a run has a name, too."""
        if trial < 0:
            return str(self.row(trial)["reason"])
        return f"trial {trial}" + (f" ({self.row(trial)['name']})" if self.record is None else "")

    @property
    def latent_trial(self) -> int | None:
        """Number of the best trial with latents; None where none has ended."""
        others = self.placed[~self.placed["pooled"].astype(bool)]
        return int(others["trial"].iloc[0]) if len(others) else None

    def metrics_of(self, trial: int) -> pd.DataFrame:
        """Return the rows of `epochs` of one trial; `RunError` where it has none."""
        frame = self.epochs[self.epochs["trial"] == trial]
        if trial < 0:  # a reference
            read = read_metrics(Path(self.row(trial)["folder"]), self.problems)
            frame = frame if read is None else read
        if not len(frame):
            raise RunError(f"{self.path}: trial {trial} has no metrics that can be read")
        return frame

    def row(self, trial: int) -> pd.Series[Any]:
        """Return a trial's row of `table`; `RunError` when there is no such trial."""
        frame = self.table if trial >= 0 or not len(self.references) else self.references
        found = frame[frame["trial"] == trial]
        if not len(found):
            raise RunError(f"{self.path}: no trial {trial}; there are {len(self.table)}, from 0")
        return found.iloc[0]

    def run(self, trial: int | None = None) -> Run:
        """Rebuild a trial's model with its best weights; None = the best trial."""
        run = best_run(self._folder(trial))
        return replace(run, config=in_place(run.config, self.places))

    def latents(self, trial: int | None = None) -> pd.DataFrame:
        """Return the posteriors of a trial's groups: a row per group, latent and coordinate.

        Columns trial, epoch (of the weights), level, gid, label (original), rows (in training),
        latent, coordinate, mean and sd (in the user's units where the latent has such), prior_sd,
        shrinkage = 1 − (sd / prior sd)²: the share of the prior variance that the rows explain (NaN
        for points). Groups without rows are left out. trial: None = the best.
        """
        number = self._number(trial)
        return latent_table(number, self.run(number))

    def group(self, label: object, level: str | None = None, trial: int | None = None) -> OneGroup:
        """Return one group with its rows, curve, confusion and posterior (see `OneGroup`).

        label: what the group is called, or an unmistakable part of it. level: None = the lowest one
        that has it. trial: whose rows, curve and posterior; None = the best. Nothing is trained;
        rows come from predictions.parquet, what they look like from the data where they can be
        loaded. Raises `DataError` for no such group (the nearest are named), `RunError` where
        there is no such trial, or none has a result.
        """
        return one_group(self, label, level, trial)

    def calibration(self, trial: int | None = None, num_samples: int = 20) -> pd.DataFrame:
        """Return whether a trial's probabilities come true on its test (else validation) rows.

        For classes a row per bin of confidence: columns trial, epoch, split, low, high, n (rows),
        confidence (mean), accuracy. For real targets a row per bin of the probability integral
        transform: low, high, n, share, which should be the same in all bins. Loads the data:
        `DataError` where they are gone or not those of the run.
        """
        number = self._number(trial)
        run = self.run(number)
        check_data(run, str(self.row(number).get(DATA_HASH) or ""))
        return calibration_table(number, run, num_samples)

    @cached_property
    def study(self) -> optuna.Study:
        """The trials that have a place, as an Optuna study whose value is the best metric."""
        values = self.placed.get(best_of(self.metric), pd.Series(dtype=float))
        return searched.study_of(self.drawn, self.placed["trial"], values, self.mode)

    @property
    def scheduler(self) -> Scheduler | None:
        """What decided which trials ended early; None for runs, or where that is not known."""
        options = self.record.options if self.record is not None else {}
        return SCHEDULERS.get(options.get("scheduler", ""))

    @property
    def rungs(self) -> list[int]:
        """The epochs at which the scheduler compared trials, of which the longest sets the last."""
        lengths = self.table.get("num_epochs", pd.Series(dtype=float)).dropna()
        options = self.record.options if self.record is not None else {}
        known = {"grace_period", "reduction_factor"} <= options.keys()
        if self.scheduler is None or not known or not len(lengths):
            return []
        halving = Halving(int(lengths.max()), options["grace_period"], options["reduction_factor"])
        return self.scheduler.rungs(halving)

    def _number(self, trial: int | None) -> int:
        number = self.best_trial if trial is None else trial
        if number is None:
            raise RunError(f"{self.path}: no trial has a result yet")
        return number

    def _folder(self, trial: int | None) -> Path:
        folder = self.row(self._number(trial))["folder"]
        if pd.isna(folder):
            row = self.row(self._number(trial))
            is_gone = Status(row["status"]).facts.is_over
            why = "'s folder is gone" if is_gone else " never began, so it has no folder"
            raise RunError(f"{self.path}: trial {row['trial']}{why}")
        return Path(folder)
