"""Keep a good run.

python -m hlvnn.analysis promote results/digits/SWEEP/trial_0007
"""

from __future__ import annotations

import logging
import os
import shutil
from datetime import date
from pathlib import Path

import tyro

from hlvnn import files
from hlvnn.analysis.promote import PROMOTED, READABLE, SOTA, Promoted, write_leaderboard
from hlvnn.columns import DATA_HASH, validation_of
from hlvnn.errors import ConfigError, RunError, unknown
from hlvnn.files import check_name
from hlvnn.records import outcomes, run_folder, sweep_folder
from hlvnn.records.group_file import keep_with_copy
from hlvnn.records.run_folder import RESULT, load_run, read_config, read_metrics
from hlvnn.records.sweep_folder import SWEEP
from hlvnn.storage import Place, folder_here
from hlvnn.strict import Config
from hlvnn.words import number as number_text

logger = logging.getLogger("hlvnn")


class PromoteOptions(Config):
    """Copy a run or trial into results/sota, and bring its leaderboard up to date."""

    trial: tyro.conf.Positional[Place]
    """Folder of the run, or of the sweep's trial."""
    name: str | None = None
    """Name of the copy; none given = that of the run, after its sweep's."""
    metric: str | None = None
    """Column of metrics.csv to rank by, at the chosen epoch, whose weights are kept; none given =
    the one that chose it: the sweep's METRIC, a single run's --select-on. With --mode."""
    mode: str | None = None
    """max or min, for --metric."""
    into: Path | None = None
    """Folder of the copies, a folder below for each data set; none given = sota beside DATASET."""


def promote(options: PromoteOptions) -> None:
    """Copy the run, and write the leaderboard."""
    trial = folder_here(options.trial, "promoting needs").resolve()
    config = read_config(trial)
    _check_ended(trial)
    kept = _ranked_by(trial, options)
    epoch = load_run(trial, "best").epoch  # read, so that nothing damaged is kept
    kept = kept.model_copy(update={"epoch": epoch})
    in_sweep = _is_trial(trial)
    name = options.name or (f"{trial.parent.name}-{trial.name}" if in_sweep else trial.name)
    root = options.into or (trial.parent.parent.parent if in_sweep else trial.parent.parent) / SOTA
    check_name(name)
    folder = root / config.data.title
    target = folder / name
    if target.exists():
        raise RunError(f"{target} exists already; nothing was overwritten. Give another --name")
    _copy(trial, target, kept)
    table = write_leaderboard(folder)
    row = table[table["name"] == name].iloc[0]
    rivals = table[(table[DATA_HASH] == row[DATA_HASH]) & (table["metric"] == row["metric"])]
    logger.info(
        "promoted to %s: rank %d of %d by %s (%s)",
        *(target, row["rank"], len(rivals), kept.metric, number_text(row["value"])),
    )
    logger.info("leaderboard: %s", folder / READABLE)


def _is_trial(folder: Path) -> bool:
    return (folder.parent / SWEEP).exists()


def _check_ended(trial: Path) -> None:
    if (trial / RESULT).exists():
        return
    if _is_trial(trial):
        ended = trial.name.removeprefix("trial_")
        outcome = outcomes.read(trial.parent, int(ended)) if ended.isdigit() else None
        if outcome is not None and not outcome.unfinished:
            return
    raise RunError(
        f"{trial} has not ended (no {RESULT}); wait for it, or go on with it by --resume"
    )


def _ranked_by(trial: Path, options: PromoteOptions) -> Promoted:
    """Return by what the run is ranked; `ConfigError` where it has not measured that."""
    measured = validation_of(read_metrics(trial))
    if options.mode not in (None, "max", "min"):
        raise ConfigError(f"--mode {options.mode}: expected max or min")
    if (options.metric is None) != (options.mode is None):
        raise ConfigError("--metric and --mode belong together: --metric val_group_p10 --mode max")
    metric, mode = options.metric, options.mode
    if metric is None and _is_trial(trial):
        record = sweep_folder.read_record(trial.parent)
        metric, mode = record.metric, record.mode
    if not measured:
        raise ConfigError(
            f"{trial}: it was trained without validation rows, so that nothing fair can rank it"
        )
    if metric is None:
        selection = run_folder.selection_of(trial)
        metric, mode = selection.metric, selection.mode
    if metric not in measured:
        raise ConfigError(f"--metric: {unknown('validation column', metric, measured)}")
    today = date.today().isoformat()
    return Promoted(metric=metric, mode=mode or "max", source=str(trial), promoted=today)


def _copy(trial: Path, target: Path, kept: Promoted) -> None:
    """Copy a run's folder, whole or not at all."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(trial, temporary, symlinks=True, ignore=shutil.ignore_patterns(".*.tmp"))
        keep_with_copy(temporary, trial)
        files.write_json(temporary / PROMOTED, kept.model_dump())
        temporary.rename(target)
    except OSError as error:
        raise RunError(f"{target}: cannot be written ({error}); nothing was kept") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
