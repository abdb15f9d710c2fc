"""The report of a sweep.

python -m hlvnn.analysis results/digits/SWEEP
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import tyro
from pydantic import Field

from hlvnn.analysis.loading import load_runs, load_sweep
from hlvnn.analysis.report import REPORT, findings, headless, write_report
from hlvnn.analysis.report.comparing import plural
from hlvnn.commands.run_options import PlacesOptions
from hlvnn.errors import RunError
from hlvnn.records.sweep_folder import SWEEP
from hlvnn.storage import Place, is_address, readable, shown_path


class ReportOptions(PlacesOptions):
    """Write the report of a sweep, or of a folder of single runs: one HTML file, to open anywhere.

    A sweep writes it itself when it ends. While it runs, or after it was killed, this does.
    """

    path: tyro.conf.Positional[Place]
    """Folder of a sweep (RESULTS_DIR/DATASET/SWEEP), or one with runs of train_one.py in it; or its
    address (s3://…)."""
    out: Path | None = None
    """File to write; None = report.html in the folder, or here where PATH is an address."""
    metric: str | None = None
    """Column of metrics.csv by which single runs are ranked, each at its chosen epoch; None = the
    --select-on that they have in common. A sweep has its own."""
    mode: Literal["min", "max"] | None = None
    """With --metric: whether it is better when it is low (min) or high (max)."""
    group_table: Path | None = None
    """CSV or Parquet file of what groups are like (site, age, anything), for runs that were told
    none, or another; as --group-table of train_one.py."""
    num_samples: int = Field(20, gt=0)
    """Draws of z averaged in a prediction, for the calibration."""


def main(args: Sequence[str]) -> int:
    """Parse the flags, write the report, say where it is."""
    command = tyro.cli(
        ReportOptions,
        prog="python -m hlvnn.analysis",
        args=list(args),
    )
    folder = readable(command.path)
    if not folder.is_dir():
        raise RunError(f"{command.path}: no such folder; give that of a sweep")
    command.check_places()
    data_dir, table = command.data_dir, command.table
    headless()
    if (folder / SWEEP).exists():
        results = load_sweep(folder, data_dir=data_dir, table=table)
    else:
        by = command.metric, command.mode
        results = load_runs(folder, *by, data_dir=data_dir, table=table)
    if command.group_table is not None:
        taken = results.groups.take_attributes(command.group_table)
        if (schema := results.groups.schema) is not None:
            print("\n".join(taken.told(schema)))
    out = command.out or (Path(REPORT) if is_address(command.path) else None)
    path = write_report(results, out, num_samples=command.num_samples)
    print(f"{plural(len(results.table), 'trial')}: {findings.counts(results)}")
    print(f"report: {shown_path(path)}")
    return 0
