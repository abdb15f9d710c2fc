"""What is tried with a run's configuration and leaves no trace: no folder, no file."""

from __future__ import annotations

import logging
from pathlib import Path

from hlvnn.columns import DATA_HASH
from hlvnn.config import RunConfig
from hlvnn.data import data_of
from hlvnn.errors import DataError, RunError
from hlvnn.files import read_json
from hlvnn.models.build import build_model
from hlvnn.records.checkpoint import load_checkpoint
from hlvnn.records.run_folder import FAILURE, HYPERPARAMS
from hlvnn.training import failure
from hlvnn.training.checks import check
from hlvnn.training.find_lr import LearningRates, find_lr

logger = logging.getLogger("hlvnn")


def learning_rates(config: RunConfig) -> LearningRates:
    """Search for a run's learning rate: see `find_lr`."""
    data = data_of(config.data)
    model = build_model(config.model, data, config.seed)
    check(model, data, config.train)
    return find_lr(model, data, config.train, seed=config.seed)


def replay_failure(config: RunConfig, folder: Path) -> str:
    """Take the step in which a run diverged once more, on the CPU; return that it was finite.

    Raises `NotFiniteError` where it stops being finite, `RunError` where no such step was kept.
    """
    if not (folder / FAILURE).exists():
        raise RunError(
            f"{folder}: no step was kept that was not finite ({FAILURE}); a run keeps one where it "
            "diverges in a step of training"
        )
    kept = load_checkpoint(folder / FAILURE)
    data = data_of(config.data, recorded=True)
    if (was := read_json(folder / HYPERPARAMS).get(DATA_HASH)) != (now := data.digest()):
        raise DataError(
            f"{folder}: the data {config.data.place} are not those that it was trained on (hash "
            f"{now}, was {was}); say where those are with --data-dir or --table"
        )
    model = build_model(config.model, data, config.seed, recorded=True)
    where = f"step {kept[failure.STEP] + 1} on {len(kept[failure.ROWS])} training rows"
    late = failure.LATER in kept
    logger.info("%s, once more%s", where, " (with the weights of some steps later)" * late)
    failure.replay(model, data, config.train, kept)
    return f"{where}: everything was finite this time (a draw that does not come again, or a GPU)"
