"""Tables and lines for a terminal, as plain text, so that the log holds what the screen showed."""

from __future__ import annotations

import io

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hlvnn.data.grouped import Level, Schema

AT_EACH_END = 3
"""Groups shown at each end of a level."""
WIDTH = 100
GPU_BUSY = 50
"""Per cent of the time in which a GPU should be busy."""


def text_of(table: Table) -> str:
    """Return a rich table as plain text."""
    buffer = io.StringIO()
    Console(file=buffer, width=WIDTH, color_system=None).print(table)
    return buffer.getvalue().rstrip("\n")


def epoch_line(row: dict[str, float], num_epochs: int) -> str:
    """Return an epoch's metrics in one line."""
    parts = [f"epoch {int(row['epoch'])}/{num_epochs}", f"train {row['train_loss']:.4f}"]
    for split in ("val", "test"):
        if f"{split}_loss" not in row:
            continue
        words = [f"{split} {row[f'{split}_loss']:.4f}"]
        known = [metric for metric in ("acc", "f1", "mse") if f"{split}_{metric}" in row]
        words += [f"{metric} {row[f'{split}_{metric}']:.4f}" for metric in known]
        if f"{split}_group_p10" in row:
            words.append(
                f"p10 {row[f'{split}_group_p10']:.3f} worst {row[f'{split}_group_worst']:.3f}"
            )
        parts.append("  ".join(words))
    parts.append(f"{row['seconds']:.1f} s, {row['rows_per_second']:,.0f} rows/s")
    if "gpu_percent" in row:
        busy = row["gpu_percent"]
        hint = " (below half: try a larger --batch-size)" if busy < GPU_BUSY else ""
        parts.append(f"GPU {busy:.0f} %{hint}")
    return " | ".join(parts)


def groups_at_both_ends(groups: pd.DataFrame, schema: Schema) -> str:
    """Return, for each level, the weakest and the strongest groups of the last split measured.

    groups: an epoch's per-group table (columns of `training_stats`). Validation where there is one,
    else test.
    """
    if not len(groups):
        return ""
    split = "val" if (groups["split"] == "val").any() else "test"
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
        name = escape(str(level.label(int(row["gid"]))))
        table.add_row(name, str(row["n"]), f"{row[measure]:.3f}", f"{row['loss']:.3f}")
    return f"{level.name}: the weakest and the strongest on {split}\n{text_of(table)}"
