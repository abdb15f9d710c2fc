"""A sweep's tables for other programs: CSV files, or the sheets of a workbook."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from hlvnn.analysis.opened import ABOUT, CHOSEN, FINALS, SETTINGS, TRIALS
from hlvnn.errors import ConfigError, RunError
from hlvnn.files import replacing

if TYPE_CHECKING:
    from hlvnn.analysis.results import Results

TABLES = (TRIALS, SETTINGS, CHOSEN, FINALS, ABOUT)
"""Tables with a row per trial, by the names that `Results` gives them."""
EPOCHS, EXPLAINED = "epochs", "columns"
"""What the table of epochs, and the one that explains all columns, are called when written."""


def tables(results: Results) -> dict[str, pd.DataFrame]:
    """Return the tables of a sweep by name; those with a row per trial begin with its index."""
    found: dict[str, pd.DataFrame] = {}
    for name in TABLES:
        frame = pd.DataFrame(getattr(results, name))
        index = results.table["trial"] if results.record is not None else results.table["name"]
        frame = frame.drop(columns=str(index.name), errors="ignore")
        frame.insert(0, str(index.name), index.to_numpy())
        found[name] = frame
    return found | {EPOCHS: results.epochs, EXPLAINED: results.describe()}


def to_csv(results: Results, folder: Path | str) -> None:
    """Write each table as a CSV file of its name; the folder is made. See `Results.to_csv`."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, frame in tables(results).items():
            with replacing(folder / f"{name}.csv") as temporary:
                frame.to_csv(temporary, index=False)
    except OSError as error:
        raise RunError(f"{folder}: cannot be written ({error.strerror}); say another") from error


def to_excel(results: Results, path: Path | str) -> None:
    """Write the tables as the sheets of a workbook. See `Results.to_excel`."""
    path = Path(path)
    if path.suffix != ".xlsx":
        raise ConfigError(f"{path}: a workbook's name ends in .xlsx")
    try:
        with (
            replacing(path) as temporary,
            temporary.open("wb") as file,
            pd.ExcelWriter(file, engine="openpyxl") as writer,
        ):
            for name, frame in tables(results).items():
                frame.to_excel(writer, sheet_name=name, index=False)
    except ModuleNotFoundError as error:
        raise ConfigError("a workbook needs openpyxl: pip install openpyxl") from error
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror}); say another") from error
