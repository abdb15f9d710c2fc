"""`predictions.parquet`: a run's validation and test rows as predicted at its chosen epoch.

From it two runs are compared row by row, without their weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hlvnn.errors import RunError
from hlvnn.files import replacing

PREDICTIONS = "predictions.parquet"
"""In a run's folder: split, row (place in the split), <levels> (gid; lowest first), y, prediction
(class indices, or values in y's units), log_prob (of y)."""
FIXED = ("split", "row", "y", "prediction", "log_prob")
AT, ALL_ROWS = b"hlvnn_epoch", b"hlvnn_rows_"
"""What the file says of itself: its epoch, and how many rows each split has in all."""


@dataclass(frozen=True)
class Predictions:
    """What was read: the epoch, the table (columns of the file), the rows of each split in all."""

    epoch: int
    table: pd.DataFrame
    all_rows: Mapping[str, int]


def level_columns(levels: Sequence[str]) -> list[str]:
    """Return the column of each level: its name, after "level " where that would be taken."""
    return [f"level {name}" if name in FIXED else name for name in levels]


def write_predictions(
    folder: Path, epoch: int, tables: Mapping[str, pd.DataFrame], limit: int
) -> str:
    """Write the rows of each split, at most `limit`; return a sentence where some are cut."""
    parts, notes, cut = [], {AT: str(epoch).encode()}, []
    for split, table in tables.items():
        notes[ALL_ROWS + split.encode()] = str(len(table)).encode()
        kept = table.iloc[kept_rows(len(table), limit)]
        kept.insert(0, "split", split)
        parts.append(kept)
        if len(kept) < len(table):
            cut.append(f"{len(kept):,} of {len(table):,} {split} rows")
    whole = pa.Table.from_pandas(pd.concat(parts, ignore_index=True), preserve_index=False)
    whole = whole.replace_schema_metadata({**(whole.schema.metadata or {}), **notes})
    with replacing(folder / PREDICTIONS) as temporary:
        pq.write_table(whole, temporary)
    if not cut:
        return ""
    return (
        f"{PREDICTIONS} keeps {' and '.join(cut)}, chosen at random, the same in every run on "
        "these data; --keep-predictions ROWS for more"
    )


def kept_rows(rows: int, limit: int) -> NDArray[np.int64]:
    """Return the places of the rows that are kept: a random choice that depends on nothing else."""
    if rows <= limit:
        return np.arange(rows)
    return np.sort(np.random.default_rng(0).permutation(rows)[:limit])


def read_predictions(folder: Path) -> Predictions | None:
    """Read a run's rows; None where it keeps none, `RunError` where they cannot be read."""
    path = folder / PREDICTIONS
    if not path.exists():
        return None
    try:
        whole = pq.read_table(path)
        notes = whole.schema.metadata or {}
        counts = {
            key.removeprefix(ALL_ROWS).decode(): int(value)
            for key, value in notes.items()
            if key.startswith(ALL_ROWS)
        }
        found = Predictions(int(notes[AT]), whole.to_pandas(), counts)
        lacking = {*FIXED} - {*found.table}
        if lacking:
            raise ValueError(f"no column {min(lacking)!r} in it")
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        first = str(error).splitlines()[0].replace(str(path), path.name)
        raise RunError(
            f"{folder.name}/{PREDICTIONS} cannot be read: {first}; restore it from a copy"
        ) from error
    return found
