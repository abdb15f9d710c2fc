"""What was begun before the steps in groups' own units: it is read as ever, and does not go on.

Such runs hold a setting that is gone, or their checkpoints lack the state of those steps.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from hlvnn.errors import CheckpointError, RunError
from hlvnn.gone import GONE, STEPS, values_set, why
from hlvnn.records.run_folder import recorded_settings
from hlvnn.storage import typed
from hlvnn.words import shown

logger = logging.getLogger("hlvnn")

GROUPS = "groups"
"""Entry of a checkpoint: the state of the groups' own steps."""


def check_run(folder: Path) -> None:
    """Raise `RunError` where a run was begun before, so that it cannot go on."""
    if is_run(folder):
        raise RunError(
            f"{folder} was begun before {STEPS} and cannot go on by other steps; its weights "
            "load, predict and report as ever, and today's steps train it anew with: "
            f"python train_one.py --from-trial {typed(folder)}"
        )


def check_checkpoint(checkpoint: Mapping[str, Any], what: str) -> None:
    """Raise `CheckpointError` where a fit cannot go on from a checkpoint of before."""
    if GROUPS not in checkpoint:
        raise CheckpointError(
            f"{what} was written before {STEPS} and no fit can go on from it; its weights "
            "load and predict as ever, and a new fit trains by today's steps"
        )


def tell_repeated(place: str, folder: Path) -> None:
    """Warn that a run of before is repeated by other steps than those that trained it."""
    if not is_run(folder):
        return
    values = values_set(recorded_settings(folder))
    left = f", and without its {shown(values)} ({why(values)})" if values else ""
    logger.warning(
        "--from-trial %s was trained before %s: it is repeated by today's steps%s, so that its "
        "bits and its figures will be others",
        *(place, STEPS, left),
    )


def is_run(folder: Path) -> bool:
    """Whether a run was begun before."""
    with suppress(RunError):  # a record that is missing or damaged is told of by who reads it
        return bool(GONE.keys() & recorded_settings(folder).keys())
    return False
