"""What `--profile` has measured: where the time of a fit goes, as a table and as a trace."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table

from hlvnn.terminal import text_of
from hlvnn.training.stage_times import STEP

SHOWN = 0.005
"""Share of its part from which a row is shown; the others are added up."""
BUSY = 0.5
"""Share of a step from which a GPU that is busy is what it waits for."""


@dataclass(frozen=True)
class Profile:
    """Where the time of a fit goes.

    table: a row per part (step, evaluation), stage and pass (forward, backward): calls in the
    recording, cpu_ms (own time, of a step; of the evaluation's rows) and cpu_share, with a GPU also
    gpu_ms and gpu_share; the slowest first. The backward pass is that of the stage's operations.
    steps: that were recorded; seconds: of an epoch as it was: training, evaluation, report.
    """

    table: pd.DataFrame
    steps: int
    rows: int
    """Rows of the evaluation that was recorded."""
    epoch: int
    seconds: Mapping[str, float]
    trace: dict[str, Any]

    @property
    def slowest(self) -> str:
        """The stage of which a step takes most, forward and backward together."""
        own = self.table[self.table["part"] == STEP]
        by = "gpu_ms" if "gpu_ms" in own else "cpu_ms"
        return str(own.groupby("stage")[by].sum().idxmax())

    def save_trace(self, path: Path | str) -> None:
        """Write the trace as JSON, which ui.perfetto.dev and chrome://tracing open."""
        Path(path).write_text(json.dumps(self.trace), encoding="utf-8")

    def __str__(self) -> str:
        return "\n".join([*self._told(), *map(self._shown, self.table["part"].unique())])

    def _told(self) -> list[str]:
        own = self.table[self.table["part"] == STEP]
        cpu, gpu = own["cpu_ms"].sum(), own["gpu_ms"].sum() if "gpu_ms" in own else None
        most = own[own["stage"] == self.slowest]
        share = most["cpu_share" if gpu is None else "gpu_share"].sum()
        first = f"profile of {self.steps} steps after the first few, {cpu:.2f} ms each as recorded"
        lines = [f"{first}; slowest: {self.slowest} ({share:.0%})"]
        if gpu is not None:
            what = "the GPU" if gpu > BUSY * cpu else "Python, which launches its kernels"
            lines.append(
                f"the GPU was busy {min(gpu / cpu, 1.0):.0%} of a step: it waits for {what}"
            )
        whole = sum(self.seconds.values())
        told = ", ".join(f"{name} {s:.2f} s ({s / whole:.0%})" for name, s in self.seconds.items())
        return [*lines, f"epoch {self.epoch}: {told}"]

    def _shown(self, part: str) -> str:
        own = self.table[self.table["part"] == part]
        units = [unit for unit in ("cpu", "gpu") if f"{unit}_ms" in own]
        table = Table(box=None, pad_edge=False)
        what = f"ms a {STEP}" if part == STEP else f"ms for {self.rows:,} rows"
        table.add_column(f"{part} ({what})")
        table.add_column("pass")
        for name in ("calls", *(f"{unit} {x}" for unit in units for x in ("self", "share"))):
            table.add_column(name, justify="right")
        shown = own[own[[f"{unit}_share" for unit in units]].max(axis=1) >= SHOWN]
        rest = own.drop(index=shown.index)
        for _, row in shown.iterrows():
            table.add_row(row["stage"], row["pass"], *_cells(row, units))
        if len(rest):
            table.add_row(f"{len(rest)} others", "", *_cells(rest.sum(numeric_only=True), units))
        return text_of(table)


def _cells(row: pd.Series, units: list[str]) -> list[str]:
    cells = [str(int(row["calls"]))]
    for unit in units:
        cells += [f"{row[f'{unit}_ms']:.3f}", f"{row[f'{unit}_share']:.1%}"]
    return cells
