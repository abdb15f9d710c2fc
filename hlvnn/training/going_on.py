"""What a run that goes on must find, and what becomes of what it measures a second time."""

from __future__ import annotations

import shlex
import shutil
from contextlib import suppress
from pathlib import Path

from hlvnn.columns import DIVERGED, EPOCH, STOPPED_EARLY
from hlvnn.config import RunConfig, TrainConfig
from hlvnn.errors import RunError
from hlvnn.files import read_json
from hlvnn.records.predictions import PREDICTIONS
from hlvnn.records.run_folder import (
    CHECKPOINT,
    METRICS,
    RESULT,
    STATS,
    read_metrics,
    stats_files,
    stats_name,
)

SUPERSEDED = "superseded"
"""Folder in a run's folder: what was measured of epochs that had to be trained again."""


def check_beginning(folder: Path, config: RunConfig) -> None:
    """Raise `RunError` where a run that has no checkpoint must have had one.

    It may begin again only where it was ended before its first checkpoint.
    """
    measured = epochs_measured(folder)
    ended = (folder / RESULT).exists() and not read_json(folder / RESULT).get(DIVERGED)
    if ended or len(measured) > config.train.checkpoint_every:
        so_far = f"{measured[-1]} epochs of it were measured" if measured else "it has ended"
        how = f"{so_far} ({RESULT})" if ended else so_far
        raise RunError(
            f"{folder}: nothing to go on from: {how}, and {CHECKPOINT} is missing (pruned, or not "
            "copied); nothing was changed. Bring it back from a copy, or train anew in a folder of "
            f"its own: python train_one.py --from-trial {shlex.quote(str(folder))}"
        )


ENDED_AT = "ended_at"
LONGER = ("num_epochs", ENDED_AT, "longer")
"""Settings that change when a finished run is trained longer."""


def longer(config: RunConfig, before: RunConfig, folder: Path) -> RunConfig:
    """Return the configuration of a run that goes on, trained longer if it has ended and is to be.

    before: what the folder has. Raises `RunError` where more epochs could change nothing.
    """
    train, was = config.train, before.train
    if train.num_epochs <= was.num_epochs or not (folder / RESULT).exists():
        return config
    result = read_json(folder / RESULT)
    if result.get(DIVERGED):
        return config
    if result.get(STOPPED_EARLY):
        raise RunError(
            f"{folder} stopped early, after {result['epochs']} epochs (--patience "
            f"{was.patience}): more --num-epochs would change nothing; start a new run from its "
            f"weights: python train_one.py --from-weights {shlex.quote(str(folder))}"
        )
    if result["epochs"] < was.num_epochs:
        raise RunError(f"{folder} was fitted exactly: its fit is at the maximum, and ends there")
    changed = train.model_copy(update={"ended_at": was.num_epochs})
    return config.model_copy(update={"train": changed})


def told_longer(train: TrainConfig) -> str:
    """Return what is told of a run that is trained longer."""
    how = {
        "constant": "stays at that of nine tenths of its schedule",
        "restart": "has its schedule anew, from its largest down",
    }
    begun = f"trained longer: it had ended after {train.ended_at} epochs"
    if train.lr_schedule == "constant":
        return f"{begun}; its learning rate stays constant"
    return (
        f"{begun}, its learning rate at the schedule's end; to epoch {train.num_epochs} that "
        f"{how[train.longer]} (--longer {' or '.join(how)})"
    )


def epochs_measured(folder: Path) -> list[int]:
    """Return the epochs of which a run's folder holds measures, in order."""
    epochs = set(stats_files(folder))
    with suppress(RunError):  # none yet, or a damaged file, which is written anew
        epochs |= {int(epoch) for epoch in read_metrics(folder)[EPOCH]}
    return sorted(epochs)


def set_aside(folder: Path, epoch: int) -> list[int]:
    """Move what was measured after `epoch` out of the way; return the epochs.

    They will be trained again. What was measured is moved, never deleted.
    """
    again = [measured for measured in epochs_measured(folder) if measured > epoch]
    if not again:
        return again
    aside = folder / SUPERSEDED
    (aside / STATS).mkdir(parents=True, exist_ok=True)
    for number in again:
        table = folder / STATS / stats_name(number)
        if table.exists():
            table.replace(aside / STATS / table.name)
    for name in (METRICS, PREDICTIONS):
        if (folder / name).exists():
            shutil.copyfile(folder / name, aside / name)
    return again
