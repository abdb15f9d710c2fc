"""Tables and lines for a terminal, as plain text, so that the log holds what the screen showed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pandas as pd
from rich.table import Table

from hlvnn.columns import (
    TEST,
    TRAIN_LOSS,
    VAL,
)
from hlvnn.config import RunConfig
from hlvnn.data.describe import told
from hlvnn.data.grouped import GroupedDataset, Level, Schema
from hlvnn.device import described, resolve_device
from hlvnn.models.model import HierarchicalModel, parameter_count
from hlvnn.selection import MIN, Selection
from hlvnn.terminal import text_of
from hlvnn.training.fit_result import FitResult
from hlvnn.training.loop import Checkpoint

logger = logging.getLogger("hlvnn")

AT_EACH_END = 3
"""Groups shown at each end of a level."""


def groups_at_both_ends(groups: pd.DataFrame, schema: Schema) -> str:
    """Return, for each level, the weakest and the strongest groups of the last split measured.

    groups: an epoch's per-group table (columns of `training_stats`). Validation where there is one,
    else test.
    """
    if not len(groups):
        return ""
    split = VAL if (groups["split"] == VAL).any() else TEST
    measure = "acc" if "acc" in groups else "mse"
    texts = []
    for level in schema.levels:
        table = groups[(groups["split"] == split) & (groups["level"] == level.name)]
        ordered = table.sort_values(measure, ascending=measure == "acc", kind="stable")
        texts.append(_ends(ordered, level, split, measure))
    return "\n".join(texts)


def _ends(ordered: pd.DataFrame, level: Level, split: str, measure: str) -> str:
    table = Table(box=None)
    table.add_column(level.name)
    for column in ("rows", measure, "loss"):
        table.add_column(column, justify="right")
    number = len(ordered)
    shown = set(range(min(AT_EACH_END, number))) | set(range(max(0, number - AT_EACH_END), number))
    for position in sorted(shown):
        if position == number - AT_EACH_END and number > 2 * AT_EACH_END:
            table.add_row("…")
        row = ordered.iloc[position]
        name = str(level.label(int(row["gid"])))
        table.add_row(name, str(row["n"]), f"{row[measure]:.3f}", f"{row['loss']:.3f}")
    return f"{level.name}: the weakest and the strongest on {split}\n{text_of(table)}"


def opening(
    config: RunConfig,
    model: HierarchicalModel,
    data: GroupedDataset,
    folder: Path,
    checkpoint: Checkpoint | None,
) -> str:
    """Return what is told when a run begins."""
    levels = ", ".join(f"{level.size} {level.name}" for level in data.schema.levels)
    rows = ", ".join(f"{len(split):,} {name}" for name, split in data.splits().items())
    latents = "; ".join(f"{latent.name} (width {latent.width})" for latent in model.latents)
    lines = [
        f"{model.name} on {config.data.title}: {rows} rows; groups: {levels or 'none'}",
        f"latents: {latents or 'none'}; {parameter_count(model):,} parameters",
        f"trained on: {described(resolve_device(config.train.device))}",
        *told(data),
        f"results in {folder}",
    ]
    if config.description:
        lines.append(f"description: {config.description}")
    if checkpoint is not None:
        lines.append(f"continuing after epoch {checkpoint['epoch']}")
    return "\n".join(lines)


def chosen_by(selection: Selection) -> str:
    """Return what is told of how the epoch of best.pt is chosen."""
    if selection.metric == TRAIN_LOSS:
        return (
            "no validation rows: the training loss chooses the epoch of best.pt, and says nothing "
            "of rows that were not trained on; --val-fraction 0.1 sets some aside"
        )
    better = "lowest" if selection.mode == MIN else "highest"
    return f"the epoch that counts (best.pt): of the {better} {selection.metric}"


def closing(result: FitResult, folder: Path) -> str:
    """Return what is told when a run has ended."""
    if result.diverged:
        return f"the loss is no longer a number: ended as diverged after epoch {result.epochs}"
    error = f" ± {result.elbo_error:.2f}" if result.elbo_error else ""
    kl = "".join(f"  KL {name}: {value:.2f}" for name, value in result.kl.items())
    early = " (stopped early)" if result.stopped_early else ""
    name = "ELBO" if result.objective == "elbo" else "importance-weighted bound"
    return f"{name} {result.elbo:.4f}{error}{kl}  after {result.epochs} epochs{early}; {folder}"


class _LogFile(logging.FileHandler):
    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Pass over a line that cannot be written: the run's own files will tell."""


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Append what the logger tells to a file."""
    handler = _LogFile(path, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
        with suppress(OSError):
            handler.close()
