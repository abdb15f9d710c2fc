"""An epoch in one line."""

from __future__ import annotations

from hlvnn.columns import (
    AUC,
    EXACT,
    GPU_PERCENT,
    GROUP_P10,
    GROUP_WORST,
    KNOWN,
    NEW,
    ROWS_PER_SECOND,
    SCORED,
    TRAIN_LOSS,
    of_split,
)

GPU_BUSY = 50
"""Per cent of the time in which a GPU should be busy."""


def epoch_line(row: dict[str, float], num_epochs: int) -> str:
    """Return an epoch's metrics in one line."""
    last = 1 if row.get(EXACT) else num_epochs
    parts = [f"epoch {int(row['epoch'])}/{last}", f"train {row[TRAIN_LOSS]:.4f}"]
    for split in SCORED:
        if of_split(split, "loss") not in row:
            continue
        words = [f"{split} {row[of_split(split, 'loss')]:.4f}"]
        known = [metric for metric in ("acc", "f1", AUC, "mse") if of_split(split, metric) in row]
        words += [f"{metric} {row[of_split(split, metric)]:.4f}" for metric in known]
        words += _known_and_new(row, split)
        weak, worst = of_split(split, GROUP_P10), of_split(split, GROUP_WORST)
        if weak in row:
            words.append(f"p10 {row[weak]:.3f} worst {row[worst]:.3f}")
        parts.append("  ".join(words))
    parts.append(f"{row['seconds']:.1f} s, {row[ROWS_PER_SECOND]:,.0f} rows/s")
    if GPU_PERCENT in row:
        busy = row[GPU_PERCENT]
        hint = " (below half: try a larger --batch-size)" if busy < GPU_BUSY else ""
        parts.append(f"GPU {busy:.0f} %{hint}")
    return " | ".join(parts)


def _known_and_new(row: dict[str, float], split: str) -> list[str]:
    """Return the accuracy (or error) of known groups and of new ones, where rows are of both."""
    for measure in ("acc", "mse"):
        both = [row.get(of_split(split, f"{which}{measure}")) for which in (KNOWN, NEW)]
        if both[0] is not None and both[1] is not None:
            return [f"(known groups {both[0]:.4f}, new {both[1]:.4f})"]
    return []


def step_line(epoch: int, step: int, steps: int, loss: float, pace: float) -> str:
    """Return the line of a step; steps: of the epoch; pace: rows a second."""
    return f"epoch {epoch}  step {step}/{steps}  loss {loss:.4f}  {pace:,.0f} rows/s"
