"""Any table: a CSV or Parquet file with a target, feature columns and one or more group columns.

    python train_one.py --dataset table --table patients.parquet --target died \
        --features age sofa ventilated --groups hospital region

A row is one example. Text, truth values and two different whole numbers are classes, other numbers
real, or what `--target-kind` says. Feature columns that are not numeric are treatment-coded; those
of `--dates` become days. With `--trials COLUMN` the target counts the successes out of that many
trials.
"""

from __future__ import annotations

from pathlib import Path

from hlvnn.config import DataConfig
from hlvnn.data.grouped import Loaded
from hlvnn.data.tables import TEXT_SETTINGS, read_table
from hlvnn.errors import ConfigError

SETTINGS = (
    *("table", "target", "target_kind", "trials", "features", "groups", "categories", "dates"),
    *TEXT_SETTINGS,
)


def load(config: DataConfig) -> Loaded:
    """Read the table and code its columns.

    Raises `ConfigError` for missing settings, `DataError` for what is wrong with the file.
    """
    if config.table is None or config.target is None or not config.groups:
        values = {"table": config.table, "target": config.target, "groups": config.groups}
        missing = ", ".join(f"--{name}" for name, value in values.items() if not value)
        raise ConfigError(f"the data set 'table' needs {missing} as well")
    frame = read_table(config.table, config, config.groups)
    spoken_for = (config.target, config.trials, *config.groups)
    others = [str(name) for name in frame.columns if name not in spoken_for]
    return Loaded.from_frame(
        frame,
        target=config.target,
        features=config.features or others,
        groups=config.groups,
        trials=config.trials,
        target_kind=config.target_kind,
        categories=config.categories,
        dates=config.dates,
        name=str(config.table),
    )


def files(config: DataConfig) -> list[Path]:
    """Return the files that the data come from."""
    return [] if config.table is None else [config.table]
