"""Reading a folder into `Results`: of a sweep that runs, has ended or was killed, or of runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
from optuna.trial import FrozenTrial

from hlvnn import columns, files, gone
from hlvnn.analysis import damage
from hlvnn.analysis.group_tables import GroupTables
from hlvnn.analysis.reading import Schemas, guessed, outcome_of, read_metrics
from hlvnn.analysis.results import POOLED, Results
from hlvnn.analysis.structures import structures
from hlvnn.columns import (
    BEST_EPOCH,
    DATA_HASH,
    PARAMETER,
    VAL_LOSS,
)
from hlvnn.errors import ConfigError, HlvnnError, RunError
from hlvnn.records import (
    journal,
    outcomes,
    perturbations,
    references,
    run_folder,
    sweep_folder,
    trials_table,
)
from hlvnn.records.journal import Draw, Drawn
from hlvnn.records.outcomes import OVER, Outcome, Status
from hlvnn.records.run_folder import HYPERPARAMS, METRICS
from hlvnn.records.sweep_folder import Record
from hlvnn.selection import MIN, Selection
from hlvnn.storage import readable, shown_path
from hlvnn.words import Settings, text


def load_sweep(
    path: Path | str,
    *,
    alive: bool | None = None,
    data_dir: Path | None = None,
    table: Path | None = None,
) -> Results:
    """Read a sweep's folder, whether it runs, has ended or was killed; nothing in it is changed.

    path: the folder, or its address (s3://…), of which a copy is read and kept while this process
    lives; whether a driver works on it cannot be seen from there.
    alive: whether a driver works on it, so that trials that have not ended are running; None = see
    whether one holds the sweep's lock.
    data_dir, table: where its data are now, if they have moved (they are loaded for a calibration,
    and to see a group's rows). Files that are damaged are left out, and told in `problems`.
    Raises `RunError` for a folder that is no sweep.
    """
    sweep = readable(path).resolve()
    record = sweep_folder.read_record(sweep)
    alive = sweep_folder.has_driver(sweep) if alive is None else alive
    problems: list[str] = []
    drawn = journal.read_journal(sweep, problems)
    on_disk = outcomes.trial_folders(sweep)
    count = max(record.num_trials, *(n + 1 for n in {*drawn.draws, *on_disk}), 1)
    selection = _Ranking(record.objectives)
    problems += damage.of_journal(drawn, on_disk)
    reading = _Reading(sweep, selection, drawn, _recorded(sweep), alive, problems)
    rows = [reading.row(number) for number in range(count)]
    results = _results(sweep, selection, rows, alive, record, problems, drawn, reading.latents)
    results = replace(results, places={"data_dir": data_dir, "table": table})
    return _with_references(results, problems)


def _with_references(results: Results, problems: list[str]) -> Results:
    """Add a sweep's pooled references, numbered from −1 downwards so that they are no trials."""
    rows = []
    ranking = _Ranking(results.objectives)
    for number, (folder, one) in enumerate(references.read_all(results.path, problems).items(), 1):
        about = _About(folder, problems)
        outcome = Outcome(trial=-number, status=Status.COMPLETED, reason=one.said)
        frame = read_metrics(folder, problems)
        row = trials_table.row_of(outcome, folder, about.settings, frame, ranking)
        problems += damage.of_folder(folder, row)
        rows.append(row | about.columns | {"winner": one.winner, "source": one.source})
        results.groups.add(-number, folder)
    if not rows:
        return results
    frame = trials_table.arranged(rows, ranking)
    results.groups.sweep = replace(results, references=frame.assign(structure=POOLED, pooled=True))
    return results.groups.sweep


@dataclass
class _Reading:
    """Makes a sweep's rows of all that is left of its trials."""

    sweep: Path
    ranking: _Ranking
    drawn: Drawn
    recorded: dict[int, dict[str, Any]]
    alive: bool
    problems: list[str]
    latents: list[str] = field(default_factory=list)

    def row(self, number: int) -> dict[str, Any]:
        """Return a trial's row; what is damaged of it is told."""
        folder = outcomes.trial_folder(self.sweep, number)
        about = _About(folder, self.problems)
        self.latents += about.latents
        known = self.drawn.optuna.get(number)
        params = {f"{PARAMETER}{k}": v for k, v in _params(known, folder).items()}
        row = self._known(number, folder)
        if row is None:
            row = self._read(number, folder, about.settings)
        self.problems += damage.of_folder(folder, row)
        return row | about.columns | params

    def _known(self, number: int, folder: Path) -> dict[str, Any] | None:
        """Return the row that is known without the folder's files, or None."""
        recorded = self.recorded.get(number)
        if recorded is not None:
            if not folder.is_dir():
                self.problems.append(damage.gone(self.sweep, number, trials_table.TRIALS))
                return recorded | {"folder": None}
            if not (folder / outcomes.OUTCOME).exists():
                self.problems.append(damage.without_outcome(number))
            return recorded | {"folder": str(folder)}
        known, draw = self.drawn.optuna.get(number), self.drawn.draws.get(number)
        if folder.is_dir() or known is None:
            return None
        settings = trials_table.cells(draw.settings) if draw is not None else {}
        row = damage.from_journal(known, number, settings, self.ranking)
        if row is not None:
            self.problems.append(damage.gone(self.sweep, number, journal.JOURNAL))
        return row

    def _read(self, number: int, folder: Path, own: Settings) -> dict[str, Any]:
        draw = self.drawn.draws.get(number)
        if draw is None and folder.is_dir():
            draw = Draw(number, own)
        settings = (draw.settings if draw is not None else {}) or own
        frame = read_metrics(folder, self.problems)
        try:
            outcome = outcomes.read(self.sweep, number)
        except HlvnnError as error:
            self.problems.append(str(error).replace(f"{self.sweep}/", ""))
            outcome = guessed(folder, number, settings, frame)
        outcome = outcome or trials_table.without_outcome(folder, draw, number, self.alive)
        return trials_table.row_of(outcome, folder, settings, frame, self.ranking)


def _params(known: FrozenTrial | None, folder: Path) -> dict[str, Any]:
    """Return the parameters that a trial was drawn with, or was given last."""
    changes = perturbations.read(folder)
    return changes[-1].params if changes else known.params if known else {}


def load_runs(
    path: Path | str,
    metric: str | None = None,
    mode: str | None = None,
    *,
    data_dir: Path | None = None,
    table: Path | None = None,
) -> Results:
    """Read a folder of single runs, such as `train_one.py` leaves; each is a trial, by its name.

    path: the folder, or its address, as for `load_sweep`.
    metric, mode: what runs are ranked by, each at its own chosen epoch (its --select-on); None =
    that --select-on where all runs have the same, else the validation loss.
    data_dir, table: as for `load_sweep`.
    Raises `RunError` when no run is in it, or it is a sweep (then `load_sweep` is right).
    """
    parent = readable(path).resolve()
    if (parent / sweep_folder.SWEEP).exists():
        raise RunError(
            f"{shown_path(parent)} is a sweep, with a metric of its own and trials that its "
            "scheduler stopped: read it with load_sweep"
        )
    folders = sorted(file.parent for file in parent.glob(f"*/{HYPERPARAMS}"))
    if not folders:
        raise RunError(f"{parent}: no run is in it (no folder with a {HYPERPARAMS})")
    results = _of_runs(parent, folders, metric, mode)
    return replace(results, places={"data_dir": data_dir, "table": table})


def load_these(*places: Path | str) -> Results:
    """Read some runs, or trials of any sweeps, as trials 0, 1, …; otherwise as `load_runs`.

    Raises `RunError` where one of the folders is no run.
    """
    folders = [readable(place).resolve() for place in places]
    for place, folder in zip(places, folders, strict=True):
        if not (folder / HYPERPARAMS).exists():
            is_sweep = (folder / sweep_folder.SWEEP).exists()
            what = "it is a sweep; give one of its trials" if is_sweep else "give a run's folder"
            raise RunError(f"{place} is no run: {HYPERPARAMS} is missing; {what}")
    return _of_runs(folders[0].parent, folders, None, None)


def _of_runs(
    parent: Path, folders: Sequence[Path], metric: str | None, mode: str | None
) -> Results:
    problems: list[str] = []
    if (metric is None) != (mode is None):
        raise ConfigError('metric and mode belong together: load_runs(path, "val_acc", "max")')
    rows = []
    latents: list[str] = []
    selections = []
    for number, folder in enumerate(folders):
        about = _About(folder, problems)
        latents += about.latents
        outcome = outcome_of(folder, number, problems)
        frame = read_metrics(folder, problems)
        own = _selection_of_run(about.settings, frame)
        selections += [own] if frame is not None else []
        row = trials_table.row_of(outcome, folder, about.settings, frame, _Ranking.of(own))
        problems += damage.of_folder(folder, row)
        rows.append(row | about.columns)
    problems += damage.of_other_data(rows)
    if metric is not None and mode is not None:
        common = Selection(metric, mode)
    elif len({*selections}) == 1:
        common = selections[0]
    else:
        common = Selection(VAL_LOSS, MIN)
        if selections:
            told = ", ".join(sorted({one.metric for one in selections}))
            problems.append(
                f"the epochs of these runs are chosen by different measures ({told}); they are "
                f"ranked by {VAL_LOSS}, each at its own chosen epoch"
            )
    return _results(parent, _Ranking.of(common), rows, False, None, problems, Drawn(), latents)


def _selection_of_run(settings: Settings, frame: pd.DataFrame | None) -> Selection:
    select_on = str(settings.get("select_on", VAL_LOSS))  # older runs know no other
    mode = str(settings.get("select_mode", "auto"))
    return run_folder.chosen_by(select_on, mode, pd.DataFrame() if frame is None else frame)


@dataclass(frozen=True)
class _Ranking:
    objectives: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, selection: Selection) -> _Ranking:
        return cls(((selection.metric, selection.mode),))

    @property
    def metric(self) -> str:
        return self.objectives[0][0]

    @property
    def mode(self) -> str:
        return self.objectives[0][1]


class _About:
    """What a trial's own `hyperparams.json` says of it; nothing where it has none yet."""

    def __init__(self, folder: Path, problems: list[str]) -> None:
        record: dict[str, Any] = {}
        if (folder / HYPERPARAMS).exists():
            try:
                read = files.read_json(folder / HYPERPARAMS)
                record = read if isinstance(read, dict) else {}
                if not isinstance(record.get("config"), dict):
                    problems.append(f"{folder.name}/{HYPERPARAMS} holds no configuration")
            except RunError:
                problems.append(f"{folder.name}/{HYPERPARAMS} cannot be read as JSON")
        config = record.get("config")
        self.settings: Settings = gone.to_show(config) if isinstance(config, dict) else {}
        named = record.get("latents")
        self.latents = [str(name) for name in named] if isinstance(named, list) else []
        self.columns = {
            "name": folder.name,
            "model": record.get("model"),
            "parameters": record.get("parameters"),
            "started": record.get("started"),
            DATA_HASH: record.get(DATA_HASH),
        }


def _results(
    path: Path,
    selection: _Ranking,
    rows: list[dict[str, Any]],
    alive: bool,
    record: Record | None,
    problems: list[str],
    drawn: Drawn,
    latents: list[str],
) -> Results:
    frame = trials_table.arranged(rows, selection)
    frame["structure"] = structures(frame)
    frame["pooled"] = frame["structure"].eq(POOLED)
    frame = frame[_order([str(name) for name in frame])]
    _tell_gone(path, frame)
    started = pd.to_datetime(frame["started"], format="ISO8601", errors="coerce", utc=True)
    frame["started"] = started.dt.tz_localize(None)  # spreadsheets know no time zones
    folders = {
        int(number): Path(folder)
        for number, folder in zip(frame["trial"], frame["folder"], strict=True)
        if not pd.isna(folder)
    }
    groups = GroupTables(folders, {}, others=frame["trial"].astype(int), tell=problems.append)
    groups.schemas = Schemas(groups.folders)
    metric, mode = selection.metric, selection.mode
    results = Results(
        *(path, metric, mode, frame, groups, alive, record, problems, drawn),
        latent_names=tuple(dict.fromkeys(latents)),
    )
    groups.sweep = results
    return results


def _tell_gone(path: Path, frame: pd.DataFrame) -> None:
    """Say which settings that are gone were set, and to what."""
    values = {name: frame[name].dropna().sort_values() for name in gone.GONE if name in frame}
    told = {}
    for name, column in values.items():
        some = list(dict.fromkeys(text(one) for one in column))
        if some:
            told[name] = " or ".join(some) if len(some) <= 3 else f"{some[0]} … {some[-1]}"
    count = max((len(column) for column in values.values()), default=0)
    gone.tell(path, f"{count} of {len(frame)} runs in {shown_path(path)}", told)


def _order(names: list[str]) -> list[str]:
    """Return the columns in their order, whichever trial has which."""
    about = ["name", "structure", "pooled", "model", "parameters", "started", DATA_HASH]
    begins = (columns.FINAL, columns.BEST, columns.PARAMETER)
    measured = [n for n in names if n.startswith(begins[:2]) and n != BEST_EPOCH]
    first = [n for n in names if n not in {*about, *measured} and not n.startswith(PARAMETER)]
    after = first.index("folder") + 1
    drawn = sorted(n for n in names if n.startswith(PARAMETER))
    ordered = sorted(measured, key=lambda n: (n.startswith(columns.BEST), n))
    return [*first[:after], *about, *first[after:], *drawn, *ordered]


def _recorded(sweep: Path) -> dict[int, dict[str, Any]]:
    """Return the rows of trials.parquet that are still true, by the trial's number.

    Those of trials that have ended, and whose files have not changed since the table was written,
    by today's rule for the chosen epoch; and those of which nothing else is left.
    """
    path = sweep / trials_table.TRIALS
    try:
        frame = pd.read_parquet(path)
        written = path.stat().st_mtime_ns
        ended = frame[~frame["unfinished"] & frame["status"].isin(OVER)]
        records = ended.to_dict("records")
        named = [{str(k): v for k, v in row.items()} for row in records]
        rows = {int(row["trial"]): gone.to_show(row) for row in named}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    is_todays = frame.attrs.get(trials_table.RULE) == trials_table.CHOSEN_BY
    folders = {number: outcomes.trial_folder(sweep, number) for number in rows}
    return {
        number: rows[number]
        for number, folder in folders.items()
        if not (folder / outcomes.OUTCOME).exists()  # it is gone, or its folder is
        or (is_todays and _is_unchanged(folder, written))
    }


def _is_unchanged(folder: Path, since: int) -> bool:
    """Whether no file of a trial that ended is newer than the table; one that is gone is not."""
    try:
        files = [folder / name for name in (outcomes.OUTCOME, METRICS)]
        return all(not file.exists() or file.stat().st_mtime_ns <= since for file in files)
    except OSError:
        return False
