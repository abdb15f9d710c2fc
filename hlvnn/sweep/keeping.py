"""`--keep-checkpoints`: free the disk of a finished sweep's weights, all but the best trials'."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from hlvnn import runs
from hlvnn.sweep.outcomes import Status, trial_folder

WEIGHTS = (runs.CHECKPOINT, runs.BEST)
"""What is deleted in a trial's folder."""


@dataclass
class Freed:
    """What was deleted."""

    trials: int = 0
    bytes: int = 0


def prune(sweep: Path, ranked: pd.DataFrame, keep: int) -> Freed:
    """Delete the weights of all but the first `keep` trials of a ranked table.

    Nothing is deleted while any trial has not ended, for it may have to go on.
    """
    freed = Freed()
    going_on = ranked["status"].isin([Status.NOT_STARTED, Status.RUNNING]) | ranked["unfinished"]
    if going_on.any():
        return freed
    for number in ranked["trial"].iloc[keep:]:
        files = [trial_folder(sweep, int(number)) / name for name in WEIGHTS]
        there = [file for file in files if file.is_file()]
        freed.trials += bool(there)
        for file in there:
            freed.bytes += file.stat().st_size
            file.unlink()
    return freed
