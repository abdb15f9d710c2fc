"""`--keep-checkpoints`: free the disk of a finished sweep's weights, all but the best trials'."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from hlvnn.records import run_folder
from hlvnn.records.outcomes import open_ones, trial_folder
from hlvnn.storage import Remote

WEIGHTS = (run_folder.CHECKPOINT, run_folder.PREVIOUS, run_folder.BEST)
"""What is deleted in a trial's folder."""


@dataclass
class Freed:
    """What was deleted."""

    trials: int = 0
    bytes: int = 0


def prune(sweep: Path | Remote, ranked: pd.DataFrame, keep: int) -> Freed:
    """Delete the weights of all but the first `keep` trials of a ranked table.

    Nothing is deleted while any trial has not ended, for it may have to go on.
    """
    freed = Freed()
    if open_ones(ranked).any():
        return freed
    for number in ranked["trial"].iloc[keep:]:
        folder = sweep / trial_folder(Path(), int(number)).name
        sizes = [size for name in WEIGHTS if (size := _delete(folder, name)) is not None]
        freed.trials += bool(sizes)
        freed.bytes += sum(sizes)
    return freed


def _delete(folder: Path | Remote, name: str) -> int | None:
    """Delete a file; return how many bytes it had, or None where there is none."""
    if isinstance(folder, Remote):
        size = folder.size(name)
        folder.remove(name)
        return size
    file = folder / name
    if not file.is_file():
        return None
    size = file.stat().st_size
    file.unlink()
    return size
