"""What groups are like: a table of attributes (site, age, anything), a row per group.

Nothing is trained on it; results are read by it. Its groups are known by their labels, as text:
7 and "7" are the same group, "007" is another.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.api import types

from hlvnn import errors
from hlvnn.columns import EPOCH, MEASURES
from hlvnn.config import DataConfig
from hlvnn.data import frames, text
from hlvnn.data.describe import listed
from hlvnn.data.schema import Schema
from hlvnn.data.tables import read_table
from hlvnn.errors import DataError
from hlvnn.words import number

LEVEL, LABEL, ROWS = "level", "label", "rows"
"""Columns that say which group a row is; its number of training rows, an attribute of every
group."""
TAKEN = (
    *(ROWS, "trial", EPOCH, LEVEL, "gid", LABEL, "split", "n", *MEASURES),
    *("pooled", "gain", "error", "p"),
)
"""Columns of the tables that attributes join, whose names no attribute can have."""
NUMBER, CATEGORIES, TEXT, NOTHING = "a number", "categories", "text", "nothing"
"""Kinds of attributes. Of `TEXT`, which is of (nearly) each group's own, and of `NOTHING`, which is
the same for all, no comparison is made."""
SHOWN = 4
"""Labels that are shown of a list."""


@dataclass(frozen=True)
class Attributes:
    """What groups are like.

    table: a row per group: level, label (text), then a column per attribute, numbers or text,
        empty where it is not known.
    name: the file, or what it was given as. by: how it tells the level, in words.
    """

    table: pd.DataFrame
    name: str
    by: str

    @property
    def names(self) -> list[str]:
        """The attributes."""
        return [str(name) for name in self.table if name not in (LEVEL, LABEL)]

    def told(self, schema: Schema) -> list[str]:
        """Return in sentences what it was taken for, and where it and the data differ."""
        where = f"attributes of groups: {self.name} ({self.by})"
        parts = []
        for level in schema.levels:
            own = set(self.table.loc[self.table[LEVEL] == level.name, LABEL])
            if not own:
                continue
            labels = labels_of(schema, level.name)
            without = [label for label in labels if label not in own]
            strange = sorted(own - set(labels))
            said = f"{len(labels) - len(without):,} of {len(labels):,} {level.name} have a row"
            if without:
                said += f", {len(without):,} have none ({listed(without, SHOWN)})"
            if strange:
                of_it = "1 row is" if len(strange) == 1 else f"{len(strange):,} rows are"
                said += f"; {of_it} of no group here ({listed(strange, SHOWN)})"
            parts.append(said)
        kinds = [f"{name}: {kind_of(self.table[name]).said}" for name in self.names]
        return [f"{where}: {'; '.join(parts)}", f"attributes: {'; '.join(kinds)}"]

    def check(self, schema: Schema) -> None:
        """Raise `DataError` where none of its rows is of a group of the data."""
        for level in schema.levels:
            own = self.table.loc[self.table[LEVEL] == level.name, LABEL]
            if len(own) and own.isin(labels_of(schema, level.name)).any():
                return
        levels = [level for level in schema.levels if (self.table[LEVEL] == level.name).any()]
        first = levels[0].name if levels else schema.levels[0].name
        mine, theirs = list(self.table[LABEL]), labels_of(schema, first)
        raise DataError(
            f"{self.name}: none of its {len(mine)} labels ({listed(mine, SHOWN)}) is one of the "
            f"{len(theirs)} groups of level {first!r} ({listed(theirs, SHOWN)}); write them as in "
            "the data"
        )


@dataclass(frozen=True)
class Kind:
    """What an attribute was taken for; said: in words, with what there is of it."""

    name: str
    said: str

    @property
    def is_compared(self) -> bool:
        """Whether groups can be compared by it."""
        return self.name in (NUMBER, CATEGORIES)


def labels_of(schema: Schema, level: str) -> list[str]:
    """Return what the groups of a level are called, as text, by their number; new ones at last."""
    found = schema.levels[schema.level_index(level)]
    return [str(found.label(gid)) for gid in range(found.size + len(found.new))]


def read_attributes(
    path: Path, config: DataConfig, levels: Sequence[str], flag: str = "--group-table"
) -> Attributes:
    """Read a table of attributes, as tables of data are read; levels: their names, lowest first.

    Raises `DataError` as `attributes_of` does, and where the file cannot be read.
    """
    frame = read_table(path, config, [*levels, LABEL], flag)
    return attributes_of(frame, levels, str(path))


def attributes_of(frame: pd.DataFrame, levels: Sequence[str], name: str) -> Attributes:
    """Take a dataframe for attributes of groups.

    The column that is called as a level holds the labels; of several the lowest does, and the
    others are attributes. Columns `level` and `label` serve where rows are of several levels.
    Raises `DataError` where no column holds labels, where one is missing or there twice, and for
    attributes that cannot be told from columns of other tables.
    """
    found = next((level for level in levels if level in frame.columns), None)
    if found is None and {LEVEL, LABEL} <= set(frame.columns):
        by = f"by its columns {LEVEL!r} and {LABEL!r}"
        names = frames.column(frame, LEVEL, name).map(str)
        for row, level in enumerate(names):
            if level not in levels:
                told = errors.unknown("group level", level, levels)
                raise DataError(f"{name}: row {row} (rows count from 0): {told}")
        labels = _labels(frame, LABEL, name)
        others = [column for column in frame.columns if column not in (LEVEL, LABEL)]
    elif found is not None:
        by = f"by its column {found!r}"
        labels = _labels(frame, found, name)
        names = pd.Series(found, index=frame.index)
        others = [column for column in frame.columns if column != found]
    else:
        known = ", ".join(map(repr, levels))
        raise DataError(
            f"{name}: no column holds the labels of groups: none is called as a group level "
            f"({known}); its columns are {listed([str(column) for column in frame.columns])}; "
            f"rename the column of labels to {levels[0]!r}, or write the columns {LEVEL!r} and "
            f"{LABEL!r}"
        )
    keys = pd.DataFrame({LEVEL: names.to_numpy(), LABEL: labels})
    _check_once(keys, name)
    if not others:
        raise DataError(
            f"{name}: it has no column beside the labels; expected attributes of groups"
        )
    parts = {str(column): _values(frame, str(column), name) for column in others}
    table = pd.concat([keys, pd.DataFrame(parts)], axis=1)
    return Attributes(table, name, by)


def _labels(frame: pd.DataFrame, column: str, where: str) -> list[str]:
    return list(map(str, frames.group_labels(frames.column(frame, column, where), where)))


def _check_once(keys: pd.DataFrame, where: str) -> None:
    again = keys.duplicated().to_numpy()
    if again.any():
        row = int(again.argmax())
        level, label = keys.iloc[row]
        first = int(((keys[LEVEL] == level) & (keys[LABEL] == label)).to_numpy().argmax())
        raise DataError(
            f"{where}: {level} {label!r} is there twice, in rows {first} and {row} (rows count "
            f"from 0; {int(again.sum())} rows too many in all); a group has one row: leave one"
        )


def _values(frame: pd.DataFrame, name: str, where: str) -> pd.Series[Any]:
    """Return an attribute as numbers (dates as days since 1970), else as text."""
    if name in TAKEN:
        raise DataError(
            f"{where}: an attribute cannot be called {name!r}, as a column of the tables of "
            "results is; rename it"
        )
    if frames.UNNAMED.fullmatch(name):
        raise DataError(
            f"{where}: column {name!r} has no name: it is the index that pandas wrote; write the "
            "file with to_csv(…, index=False)"
        )
    values = frame[name].reset_index(drop=True)
    if isinstance(values, pd.DataFrame):
        raise DataError(
            f"{where}: {values.shape[1]} columns are called {name!r}; rename all but one"
        )
    values = values.infer_objects()
    known = values.dropna()
    if types.is_datetime64_any_dtype(values.dtype):
        days = pd.Series(np.nan, values.index)
        days[known.index] = frames.days(known, where)
        return days
    is_decimal = values.dtype == object and known.map(types.is_number).all() and len(known)
    if frames.is_number(values) or is_decimal:
        numbers = values.astype(np.float64)
        is_infinite = np.isinf(numbers.to_numpy())
        if is_infinite.any():
            row = int(is_infinite.argmax())
            raise DataError(
                f"{where}: column {name!r}, row {row} (rows count from 0) is {numbers[row]}, "
                "expected a finite number or nothing; mend it"
            )
        return numbers
    return values.astype(object).map(str, na_action="ignore").where(values.notna(), None)


def kind_of(values: pd.Series[Any]) -> Kind:
    """Return what an attribute is taken for, as `Attributes.table` has it."""
    known = values.dropna()
    lacking = f", {len(values) - len(known):,} without" if len(known) < len(values) else ""
    if known.nunique() < 2:
        said = "no value at all" if not len(known) else f"{_shown(known.iloc[0])} for all"
        return Kind(NOTHING, f"{said}{lacking} (not compared)")
    if frames.is_number(values):
        low, high = number(float(known.min())), number(float(known.max()))
        return Kind(NUMBER, f"{NUMBER}, {low} to {high}{lacking}")
    if known.nunique() > max(2, text.NEAR_UNIQUE * len(known)):
        few = f"{known.nunique():,} different texts for {len(known):,} groups"
        return Kind(TEXT, f"{TEXT}, kept and not compared: {few}{lacking}")
    if (why := text.doubt(known)) is not None:
        return Kind(TEXT, f"{TEXT}, kept and not compared: it {why.partition(';')[0]}{lacking}")
    labels = sorted(map(str, known.unique()))
    return Kind(CATEGORIES, f"{CATEGORIES} {listed(labels, SHOWN)}{lacking}")


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else number(float(value))


def joined(parts: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Join tables by level and label: what an earlier one says of an attribute stands."""
    whole: pd.DataFrame | None = None
    for part in parts:
        if whole is None:
            whole = part
            continue
        new = [name for name in part if name in (LEVEL, LABEL) or name not in whole]
        whole = whole.merge(part[new], on=[LEVEL, LABEL], how="left")
    return pd.DataFrame(columns=[LEVEL, LABEL]) if whole is None else whole
