"""Table files as dataframes: CSV and Parquet, with messages that say what to do."""

from __future__ import annotations

import encodings
import shlex
from collections.abc import Collection
from pathlib import Path

import pandas as pd

from hlvnn.config import DataConfig
from hlvnn.data import frames
from hlvnn.errors import ConfigError, DataError

CSV = (".csv", ".tsv")
PARQUET = (".parquet", ".pq")
TEXT_SETTINGS = ("sep", "decimal", "encoding")
"""Settings of a text file."""


def is_table(path: Path) -> bool:
    """Whether a file's name is that of a table."""
    return any(suffix in CSV + PARQUET for suffix in path.suffixes)


def is_text(path: Path) -> bool:
    """Whether a table is a text file by its name."""
    return any(suffix in CSV for suffix in path.suffixes)


def read_table(
    path: Path, config: DataConfig, labels: Collection[str], flag: str = "--table"
) -> pd.DataFrame:
    """Read a CSV (.csv, .tsv, also compressed) or Parquet file; text as the settings say.

    labels: columns of group labels, if they are there. In a CSV they keep leading zeros: they are
    whole numbers only if all are written so (338 and 338.0 are the same one). flag: what the file
    was named by. Raises `DataError` for what is wrong with it, `ConfigError` for settings of it.
    """
    kinds = [suffix for suffix in path.suffixes if suffix in CSV + PARQUET]
    if not kinds:
        raise DataError(
            f"{path}: expected a file called .csv, .tsv (also .gz, …) or .parquet, "
            f"got {path.name!r}"
        )
    if not path.is_file():
        what = "the table's path" if flag == "--table" else "its path"
        raise DataError(f"{path}: no such file; give {what} with {flag}")
    # Python's own encodings only: packages register some that take any name
    if encodings.search_function(config.encoding.lower()) is None:
        raise ConfigError(
            f"--encoding {config.encoding}: no such encoding; for example utf-8, latin-1, utf-16"
        )
    try:
        if kinds[-1] in PARQUET:
            _check_no_text_settings(path, config)
            return pd.read_parquet(path)
        frame = pd.read_csv(
            path,
            sep=config.sep or ("\t" if kinds[-1] == ".tsv" else ","),
            decimal=config.decimal,
            encoding=config.encoding,
            dtype=dict.fromkeys(labels, str),
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
    for name in labels:
        if name in frame.columns:
            frame[name] = frames.labels_from_text(frame[name])
    return frame


def _check_no_text_settings(path: Path, config: DataConfig) -> None:
    """Raise `ConfigError` for settings of text files where no file that is read is one."""
    if any(other is not None and is_text(other) for other in (config.table, config.group_table)):
        return
    for name in TEXT_SETTINGS:
        if getattr(config, name) != DataConfig.model_fields[name].default:
            raise ConfigError(f"--{name} is for text files, {path} is none; leave it out")
