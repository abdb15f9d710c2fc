"""What the tests of analysis share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hlvnn.analysis import Results, load_sweep
from hlvnn.records.predictions import read_predictions, write_predictions
from hlvnn.records.run_folder import stats_files
from hlvnn.records.sweep_folder import locking

FIGURES = (
    *("curves", "history", "importances", "parallel", "slices", "spread", "gain"),
    *("attributes", "shrinkage", "kl", "calibration"),
)
"""Ids of a report's figures, besides that of the machine's use."""
BAD, LOG_PROB = 3, -9.25
"""The writer that is planted as the worst, and what its worst row was given."""


@pytest.fixture(scope="module")
def swept(small_sweep: Path) -> Results:
    return load_sweep(small_sweep)


@pytest.fixture
def copy(small_sweep: Path, tmp_path: Path) -> Path:
    """Return a copy of the sweep, to be damaged."""
    return Path(shutil.copytree(small_sweep, tmp_path / "damaged"))


@pytest.fixture(scope="session")
def planted(small_sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the small sweep whose best trial does badly by one writer."""
    copy = Path(shutil.copytree(small_sweep, tmp_path_factory.mktemp("planted") / "small"))
    best = copy / f"trial_{load_sweep(copy).best_trial:04d}"
    for path in stats_files(best).values():
        whole = pq.read_table(path)
        frame = whole.to_pandas()
        frame.loc[frame["gid"] == BAD, "acc"] = 0.125
        pq.write_table(pa.Table.from_pandas(frame, whole.schema, preserve_index=False), path)
    kept = read_predictions(best)
    assert kept is not None
    table = kept.table
    row = table.index[(table["split"] == "test") & (table["writer"] == BAD)][2]
    table.loc[row, ["prediction", "log_prob"]] = (table.loc[row, "y"] + 1) % 10, LOG_PROB
    tables = {str(name): part.drop(columns="split") for name, part in table.groupby("split")}
    write_predictions(best, kept.epoch, tables, len(table))
    return copy


@pytest.fixture(scope="session")
def planted_results(planted: Path) -> Results:
    """Load the planted sweep while a driver holds it."""
    with locking(planted):
        return load_sweep(planted)


@pytest.fixture(scope="session")
def report(planted_results: Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the report of the planted sweep."""
    from hlvnn.analysis.report import write_report

    return write_report(
        planted_results, tmp_path_factory.mktemp("report") / "a.html", num_samples=4
    )
