"""What a model did on each row, as tables: the rows of `predictions.parquet`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from hlvnn.inference.metrics import RowScores
from hlvnn.records.predictions import level_columns


def tables_of(scores: Mapping[str, RowScores], levels: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Return each split's rows: row, a column per level (gid), y, prediction, log_prob."""
    names = level_columns(levels)
    tables = {}
    for split, rows in scores.items():
        known: dict[str, object] = {"row": np.arange(len(rows.loss), dtype=np.int64)}
        known |= {name: rows.groups[:, place] for place, name in enumerate(names)}
        known |= {"y": rows.y, "prediction": rows.prediction, "log_prob": -rows.loss}
        tables[split] = pd.DataFrame(known)
    return tables
