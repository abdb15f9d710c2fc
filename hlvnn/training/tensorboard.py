"""TensorBoard's view of a run: its metrics as curves, its groups as histograms.

The files (`events.out.tfevents.…`) are written by tensorboardX, which comes with ray[tune] and is
imported only when asked for; TensorBoard itself is needed to look at them.
"""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import pandas as pd

from hlvnn.columns import SPLITS
from hlvnn.errors import ConfigError

MEASURES = ("acc", "mse", "loss")
"""Columns of the per-group tables that become histograms."""
BINS = 30


def check_installed() -> None:
    """Raise `ConfigError` where tensorboardX is not installed."""
    if importlib.util.find_spec("tensorboardX") is None:
        raise ConfigError(
            "--tensorboard needs tensorboardX: install it with pip install tensorboardX"
        )


class Events:
    """Writes each evaluated epoch of a run into event files in its folder.

    Scalars are named `train/loss`, `val/acc`, `val/group_worst`, `kl/writer_concat_output`; the
    histograms `groups/val/writer/acc`: one value for each group.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, row: dict[str, float], groups: pd.DataFrame) -> None:
        """Write one epoch, so that a viewer sees it at once."""
        from tensorboardX import SummaryWriter

        epoch = int(row["epoch"])
        with SummaryWriter(str(self.folder), filename_suffix=f".{epoch:04d}") as writer:
            for name, value in row.items():
                if name != "epoch" and math.isfinite(value):
                    writer.add_scalar(_tag(name), value, epoch)
            if not len(groups):
                return
            for (split, level), part in groups.groupby(["split", "level"], sort=False):
                for measure in MEASURES:
                    if measure in part and len(values := part[measure].dropna()):
                        tag = f"groups/{split}/{level}/{measure}"
                        writer.add_histogram(tag, values.to_numpy(), epoch, bins=BINS)


def _tag(column: str) -> str:
    """Return a column of metrics.csv as a tag: what comes before the first _ is its section."""
    part, _, rest = column.partition("_")
    return f"{part}/{rest}" if part in (*SPLITS, "kl") and rest else f"run/{column}"
