"""The best runs kept: a copy of each in results/sota/DATASET, and a leaderboard made of them.

    python -m hlvnn.analysis promote results/digits/SWEEP/trial_0007

The leaderboard (README.md to read, leaderboard.csv to load) is made anew from the copies each time.
Only runs on the same data (by hash) that are measured by the same metric are ranked against each
other. The metric is a validation one, at the epoch whose weights are kept; the test rows' beside
it chose nothing.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hlvnn import files
from hlvnn.columns import DATA_HASH, EPOCH, VAL_LOSS, on_test
from hlvnn.config import command_line
from hlvnn.errors import RunError
from hlvnn.records.run_folder import BEST, HYPERPARAMS, read_config, read_metrics
from hlvnn.selection import Selection
from hlvnn.strict import Config, validated
from hlvnn.words import number as number_text

logger = logging.getLogger("hlvnn")

SOTA = "sota"
"""Folder below the results for the best runs."""
PROMOTED = "promoted.json"
"""In a promoted run's folder: where it came from, and the metric it is ranked by."""
LEADERBOARD = "leaderboard.csv"
READABLE = "README.md"
COLUMNS = (
    *("rank", "name", "model", "metric", "value", "test", "epoch", "parameters", "seed"),
    *(DATA_HASH, "description", "source", "promoted", "command"),
)
"""Columns of leaderboard.csv: value is the metric at epoch, test the same measure of test rows."""


class Promoted(Config):
    """What is kept of a promotion."""

    metric: str
    """Column of metrics.csv that ranks it."""
    mode: str
    """max or min."""
    source: str
    """Folder it was copied from."""
    promoted: str
    """Day of the copy."""
    epoch: int | None = None
    """Epoch of the weights that were kept, whose metrics are ranked; None in older copies, of which
    the epoch is chosen by the metric."""


def leaderboard(folder: Path) -> pd.DataFrame:
    """Return a row for each promoted run in a data set's folder, in the columns of `COLUMNS`.

    Ranks count anew for each pair of data hash and metric. Raises `RunError` for a damaged copy.
    """
    rows = [_row(path.parent) for path in sorted(folder.glob(f"[!.]*/{PROMOTED}"))]
    if not rows:
        return pd.DataFrame(columns=[*COLUMNS])
    frame = pd.DataFrame(rows)
    better = np.where(frame.pop("mode") == "max", -frame["value"], frame["value"])
    by = [frame[DATA_HASH], frame["metric"]]
    frame["rank"] = pd.Series(better).groupby(by).rank(method="min").astype(int)
    frame["loss"] = frame["loss"].fillna(np.inf)
    order = [DATA_HASH, "metric", "rank", "loss", "name"]
    return frame.sort_values(order, ignore_index=True)[[*COLUMNS]]


def _row(folder: Path) -> dict[str, Any]:
    kept = validated(Promoted, files.read_json(folder / PROMOTED), str(folder / PROMOTED))
    record, config = files.read_json(folder / HYPERPARAMS), read_config(folder)
    metrics = read_metrics(folder)
    of_weights = metrics if kept.epoch is None else metrics[metrics[EPOCH] == kept.epoch]
    best = Selection(kept.metric, kept.mode).chosen_of(of_weights)
    if best is None:
        raise RunError(f"{folder}: its metrics hold no {kept.metric}; remove it, or restore it")
    return {
        "name": folder.name,
        "model": record.get("model", ""),
        "metric": kept.metric,
        "mode": kept.mode,
        "value": float(best[kept.metric]),
        "test": float(best.get(on_test(kept.metric), np.nan)),
        "loss": float(best.get(VAL_LOSS, np.nan)),
        "epoch": int(best["epoch"]),
        "parameters": record.get("parameters", 0),
        "seed": config.seed,
        DATA_HASH: record.get(DATA_HASH, ""),
        "description": config.description,
        "source": kept.source,
        "promoted": kept.promoted,
        "command": f"python train_one.py {command_line(config)}",
    }


def write_leaderboard(folder: Path) -> pd.DataFrame:
    """Write both forms of a data set's leaderboard; return it."""
    table = leaderboard(folder)
    with files.replacing(folder / LEADERBOARD) as temporary:
        table.to_csv(temporary, index=False)
    with files.replacing(folder / READABLE) as temporary:
        temporary.write_text(readable(table, folder.name), encoding="utf-8")
    return table


def readable(table: pd.DataFrame, dataset: str) -> str:
    """Return the leaderboard as Markdown: a table for each metric and data hash, and commands."""
    lines = [f"# The best of {dataset}", ""]
    for (digest, metric), part in table.groupby([DATA_HASH, "metric"], sort=False):
        lines += [f"## {metric} on data {digest}", ""]
        lines += ["| rank | run | model | validation | test | epoch | description |"]
        lines += ["|---|---|---|---|---|---|---|"]
        for row in part.itertuples():
            values = [number_text(row.value), number_text(row.test)]  # type: ignore[arg-type]
            cells = [row.rank, row.name, row.model, *values, row.epoch, row.description]
            lines.append("| " + " | ".join(_cell(value) for value in cells) + " |")
        lines += ["", "To train them again:", ""]
        lines += [f"    {row.command}" for row in part.itertuples()]
        lines.append("")
    lines.append(
        f"{HYPERPARAMS} and {BEST} in each folder are the run itself; "
        '`hlvnn.load_run(folder, "best")` reads it.'
    )
    return "\n".join(lines) + "\n"


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
