"""Damage of a sweep's files that would change an answer: found when it is read, and told."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from hlvnn.columns import BEST_EPOCH, DATA_HASH, best_of, final_of
from hlvnn.data.schema import SCHEMA
from hlvnn.records.journal import JOURNAL, Drawn
from hlvnn.records.outcomes import OUTCOME, Outcome, Status, trial_folder
from hlvnn.records.predictions import PREDICTIONS
from hlvnn.records.run_folder import HYPERPARAMS, METRICS, STATS, stats_files
from hlvnn.records.trials_table import TRIALS, Ranking
from hlvnn.search_space import worst
from hlvnn.words import Settings

MAGIC = b"PAR1"
"""How a Parquet file that is whole ends."""
NAMED = 5
"""Trials that are named in a sentence."""


def of_journal(drawn: Drawn, on_disk: Mapping[int, Path]) -> Iterable[str]:
    """Yield what the journal lacks, by counting it against the trials' folders."""
    ran = [n for n, folder in on_disk.items() if (folder / METRICS).exists()]
    lost = [n for n in ran if n not in drawn.draws or not drawn.draws[n].settings]
    if lost and drawn.draws:
        yield (
            f"{JOURNAL} was cut short: {len(ran)} trials have folders with results, and it does "
            f"not know what {_numbers(lost)} drew; restore it from a copy"
        )


def of_folder(folder: Path, row: Mapping[str, Any]) -> Iterable[str]:
    """Yield which files of a trial's folder are gone or cut, as far as its row depends on them.

    row: of `trials`. Per-group tables are looked at for the chosen and for the last epoch.
    """
    epochs, files = int(row.get("epochs") or 0), stats_files(folder)
    if not folder.is_dir() or not (epochs or files):
        return
    for name, lost in (
        (METRICS, "its curve is not known"),
        (HYPERPARAMS, "its model and its data's hash are not known"),
        (SCHEMA, "its groups are known by their numbers only"),
    ):
        if not (folder / name).exists():
            yield f"{folder.name}/{name} is missing: {lost}; restore it from a copy"
    if (folder / PREDICTIONS).exists() and not is_whole(folder / PREDICTIONS):
        yield (
            f"{folder.name}/{PREDICTIONS} is cut short: whether single groups gain beyond their "
            "own error is not known; restore it from a copy"
        )
    best = row.get(BEST_EPOCH)
    wanted = ({epochs} - {0}) | ({int(best)} if best is not None and not pd.isna(best) else set())
    for epoch in sorted(wanted) if files else ():
        path = files.get(epoch)
        if path is None or not is_whole(path):
            state = "is missing" if path is None else "is cut short"
            yield (
                f"{folder.name}/{STATS}: the table of epoch {epoch} {state}: how its groups fared "
                "then is not known; restore it from a copy"
            )


def of_other_data(rows: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """Yield a sentence where runs that are ranked together were trained on different data."""
    runs: dict[str, list[str]] = {}
    for row in rows:
        if row.get(DATA_HASH):
            runs.setdefault(str(row[DATA_HASH]), []).append(str(row["name"]))
    if len(runs) > 1:
        told = "; ".join(f"{digest}: {', '.join(names)}" for digest, names in runs.items())
        yield (
            f"these runs were trained on different data (by hash, {told}): unless these differ in "
            "their features alone, what was measured on one does not compare with another"
        )


def is_whole(path: Path) -> bool:
    """Whether a Parquet file ends as one does."""
    try:
        with path.open("rb") as file:
            file.seek(-len(MAGIC), 2)
            return file.read() == MAGIC
    except OSError:
        return False


def gone(sweep: Path, number: int, source: str) -> str:
    """Return the sentence on a trial whose folder is gone."""
    name = trial_folder(sweep, number).name
    return (
        f"{name} is gone: its row is taken from {source}, its epochs, groups and weights are not "
        "known; restore the folder from a copy"
    )


def without_outcome(number: int) -> str:
    """Return the sentence on a trial that ended, and whose outcome is gone."""
    folder = trial_folder(Path(), number).name
    return f"{folder}/{OUTCOME} is missing: how it ended is taken from {TRIALS}"


def from_journal(
    known: FrozenTrial, number: int, settings: Settings, ranking: Ranking
) -> dict[str, Any] | None:
    """Return the row of a trial whose folder is gone, as Optuna knows it; None if it never ended.

    Its best metrics are what the searcher was told, its last ones the last that were reported.
    """
    if not known.state.is_finished():
        return None
    reason = f"its folder is gone; from {JOURNAL}"
    if known.state == TrialState.FAIL or not known.values:
        outcome = Outcome(trial=number, status=Status.FAILED, reason=reason)
        return outcome.model_dump(mode="json") | {"epochs": 0, "folder": None} | settings
    lost = known.values == [worst(mode) for _, mode in ranking.objectives]
    status = Status.DIVERGED if lost else Status.STOPPED
    row: dict[str, Any] = Outcome(trial=number, status=status, reason=reason).model_dump(
        mode="json"
    )
    steps = known.intermediate_values
    row |= {"epochs": max(steps, default=0), "folder": None, "seconds": math.nan} | settings
    for (metric, _), value in zip(ranking.objectives, known.values, strict=False):
        row[best_of(metric)] = value
    if steps:
        row[final_of(ranking.metric)] = steps[max(steps)]
        reached = [step for step, value in steps.items() if value == known.values[0]]
        row[BEST_EPOCH] = min(reached, default=max(steps))
    return row


def _numbers(trials: Collection[int]) -> str:
    some = ", ".join(str(number) for number in sorted(trials)[:NAMED])
    return f"{'trial' if len(trials) == 1 else 'trials'} {some}" + (
        " …" if len(trials) > NAMED else ""
    )
