"""What a trial or a run left, read one by one: its metrics, and how it ended."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from hlvnn import files
from hlvnn.columns import DIVERGED, EXACT, STOPPED_EARLY
from hlvnn.config import validated
from hlvnn.data.schema import Schema
from hlvnn.errors import HlvnnError, RunError
from hlvnn.records import outcomes, run_folder
from hlvnn.records.outcomes import Outcome, Status
from hlvnn.records.run_folder import METRICS, RESULT, SCHEMA
from hlvnn.words import Settings


def read_metrics(folder: Path, problems: list[str]) -> pd.DataFrame | None:
    """Return a trial's metrics.csv; None when it has no row yet, or none that can be read."""
    path = folder / METRICS
    if not path.exists():
        return None
    try:
        frame = run_folder.read_metrics(folder)
        if not len(frame):
            return None
        plain = all(pd.api.types.is_numeric_dtype(frame[name]) for name in ("epoch", "seconds"))
        return frame if plain else frame.astype({"epoch": "int64", "seconds": "float64"})
    except (RunError, KeyError, ValueError) as error:
        said = str(error).replace(f"{path}: ", "").splitlines()[0]
        problems.append(f"{folder.name}/{METRICS} cannot be read: {said}")
        return None


def guessed(folder: Path, number: int, settings: Settings, frame: pd.DataFrame | None) -> Outcome:
    """Return how a trial must have ended whose `outcome.json` is damaged: by what else it left."""
    status = Status.STOPPED
    if frame is not None and bool(frame.get(DIVERGED, pd.Series(dtype=float)).any()):
        status = Status.DIVERGED
    elif frame is not None and (
        int(frame["epoch"].iloc[-1]) == settings.get("num_epochs") or EXACT in frame
    ):
        status = Status.COMPLETED
    elif (folder / outcomes.ERROR).exists():
        status = Status.FAILED
    reason = f"{outcomes.OUTCOME} is damaged; taken from what else it left"
    return Outcome(trial=number, status=status, reason=reason)


def outcome_of(folder: Path, number: int, problems: list[str]) -> Outcome:
    """Return how a single run ended, or a trial, of which its sweep's driver wrote it down."""
    if (folder / outcomes.OUTCOME).exists():
        try:
            known = files.read_json(folder / outcomes.OUTCOME)
            outcome = validated(Outcome, known, str(folder / outcomes.OUTCOME))
            return outcome.model_copy(update={"trial": number})
        except HlvnnError as error:
            problems.append(str(error))
    return _outcome_of_run(folder, number, problems)


def _outcome_of_run(folder: Path, number: int, problems: list[str]) -> Outcome:
    """Return how a single run ended, by its `result.json`."""
    if not (folder / RESULT).exists():
        reason = f"no {RESULT}: it still runs, or was cut off; --resume goes on with it"
        return Outcome(trial=number, status=Status.STOPPED, reason=reason, unfinished=True)
    try:
        result = files.read_json(folder / RESULT)
        diverged, early = bool(result[DIVERGED]), bool(result[STOPPED_EARLY])
    except (RunError, KeyError, TypeError):
        problems.append(f"{folder.name}/{RESULT} cannot be read")
        return Outcome(trial=number, status=Status.STOPPED, reason=f"{RESULT} is damaged")
    reason = "ended by its own --patience" if early else ""
    status = Status.DIVERGED if diverged else Status.COMPLETED
    return Outcome(trial=number, status=status, reason=reason)


class Schemas(dict[int, Schema | None]):
    """The schema of each trial, read when it is asked for; None where it cannot be."""

    def __init__(self, folders: dict[int, Path]) -> None:
        super().__init__()
        self.folders = folders

    def __missing__(self, trial: int) -> Schema | None:
        return self.setdefault(trial, self.read(trial))

    def read(self, trial: int) -> Schema | None:
        path = self.folders[trial] / SCHEMA
        try:
            return Schema.from_json(files.read_json(path), str(path))
        except HlvnnError:
            return None
