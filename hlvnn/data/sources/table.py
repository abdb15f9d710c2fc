"""Any table: a CSV or Parquet file with a target, feature columns and one or more group columns.

    python train_one.py --dataset table --table patients.parquet --target died \
        --features age sofa ventilated --groups hospital region

A row is one example. Text, truth values and two different whole numbers are classes, other numbers
real, or what `--target-kind` says. Feature columns that are not numeric are treatment-coded; those
of `--dates` become days. With `--trials COLUMN` the target counts the successes out of that many
trials.
"""

from __future__ import annotations

import encodings
import shlex
from pathlib import Path

import pandas as pd

from hlvnn.config import DataConfig
from hlvnn.data import frames
from hlvnn.data.grouped import Loaded
from hlvnn.errors import ConfigError, DataError

CSV = (".csv", ".tsv")
PARQUET = (".parquet", ".pq")
SETTINGS = (
    *("table", "target", "target_kind", "trials", "features", "groups", "categories", "dates"),
    *("sep", "decimal", "encoding"),
)


def load(config: DataConfig) -> Loaded:
    """Read the table and code its columns.

    Raises `ConfigError` for missing settings, `DataError` for what is wrong with the file.
    """
    if config.table is None or config.target is None or not config.groups:
        values = {"table": config.table, "target": config.target, "groups": config.groups}
        missing = ", ".join(f"--{name}" for name, value in values.items() if not value)
        raise ConfigError(f"the data set 'table' needs {missing} as well")
    frame = read_table(config.table, config)
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


def read_table(path: Path, config: DataConfig) -> pd.DataFrame:
    """Read a CSV (.csv, .tsv, also compressed) or Parquet file.

    In a CSV, group columns keep leading zeros: they are whole numbers only if all are written so
    (338 and 338.0 are the same one).
    """
    kinds = [suffix for suffix in path.suffixes if suffix in CSV + PARQUET]
    if not kinds:
        raise DataError(
            f"{path}: expected a file called .csv, .tsv (also .gz, …) or .parquet, "
            f"got {path.name!r}"
        )
    if not path.is_file():
        raise DataError(f"{path}: no such file; give the table's path with --table")
    # Python's own encodings only: packages register some that take any name
    if encodings.search_function(config.encoding.lower()) is None:
        raise ConfigError(
            f"--encoding {config.encoding}: no such encoding; for example utf-8, latin-1, utf-16"
        )
    try:
        if kinds[-1] in PARQUET:
            _check_no_text_settings(config)
            return pd.read_parquet(path)
        frame = pd.read_csv(
            path,
            sep=config.sep or ("\t" if kinds[-1] == ".tsv" else ","),
            decimal=config.decimal,
            encoding=config.encoding,
            dtype=dict.fromkeys(config.groups, str),
            low_memory=False,
        )
    except UnicodeError as error:
        raise DataError(
            f"{path}: not a text in {config.encoding} ({error}); say which encoding it has, "
            "for example --encoding latin-1"
        ) from error
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{path}: cannot be read as a table ({error})") from error
    if frame.shape[1] == 1 and config.sep is None:
        other = [mark for mark in (";", "\t", "|") if mark in str(frame.columns[0])]
        if other:
            raise DataError(
                f"{path}: one column, {frame.columns[0]!r}; its columns seem to be parted by "
                f"{other[0]!r}: --sep {shlex.quote(other[0])}"
            )
    for name in config.groups:
        if name in frame.columns:
            frame[name] = frames.labels_from_text(frame[name])
    return frame


def _check_no_text_settings(config: DataConfig) -> None:
    for name in ("sep", "decimal", "encoding"):
        if getattr(config, name) != DataConfig.model_fields[name].default:
            raise ConfigError(f"--{name} is for text files, {config.table} is none; leave it out")
