"""What sweeps and runs there are.

python -m hlvnn.analysis ls results
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pandas as pd
import tyro
from rich.table import Table

from hlvnn.analysis.listing import IN_SWEEP, listing
from hlvnn.strict import Config
from hlvnn.terminal import text_of
from hlvnn.words import age, number, shown_bytes

logger = logging.getLogger("hlvnn")


class LsOptions(Config):
    """List the sweeps and runs below a folder, the youngest first: their status and size."""

    results: tyro.conf.Positional[Path] = Path("results")
    """Root of the results, or a folder in it."""


def ls(options: LsOptions) -> None:
    """Print the table."""
    frame = listing(options.results)
    if not len(frame):
        logger.info("there are no sweeps and no runs in %s", options.results)
        return
    table = Table(box=None)
    for name in ("kind", "name", "status", "best", "done", "size", "age"):
        right = name in ("size", "age")
        table.add_column(name, justify="right" if right else "left", no_wrap=name != "name")
    now = pd.Timestamp.now(tz="UTC")
    for row in frame.to_dict("records"):
        old = "" if pd.isna(row["started"]) else age((now - row["started"]).total_seconds())
        table.add_row(
            *(row["kind"], row["name"], row["status"], _best(row), _done(row)),
            *(shown_bytes(row["bytes"]), old),
        )
    logger.info(text_of(table))
    for row in frame[frame["note"] != ""].to_dict("records"):
        logger.info("%s: %s", row["name"], row["note"])


def _best(row: dict[Any, Any]) -> str:
    return "" if pd.isna(row["best"]) else f"{row['metric']} {number(row['best'])}"


def _done(row: dict[Any, Any]) -> str:
    if pd.isna(row["done"]):
        return ""
    what = "trials" if row["kind"] == IN_SWEEP else "epochs"
    return f"{int(row['done'])} of {int(row['of'])} {what}"
