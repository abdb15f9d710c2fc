"""What is known of the groups behind per-group tables: their training rows and attributes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hlvnn.config import DataConfig
from hlvnn.data.attributes import (
    LABEL,
    LEVEL,
    ROWS,
    Attributes,
    attributes_of,
    joined,
    labels_of,
    read_attributes,
)
from hlvnn.data.schema import Schema
from hlvnn.data.tables import is_table
from hlvnn.errors import RunError, unknown
from hlvnn.records.group_file import GID, read_groups_file

Table = str | Path | pd.DataFrame
"""A table of attributes: a file, or a dataframe."""


class KnownGroups:
    """What is known of the groups of some trials, read when it is asked for.

    folders, schemas: of each trial by its number; tell: told what cannot be read or is not known.
    """

    def __init__(
        self,
        folders: Mapping[int, Path],
        schemas: Callable[[], Mapping[int, Schema | None]],
        tell: Callable[[str], None],
    ) -> None:
        self.folders, self._schemas, self._tell = folders, schemas, tell
        self._given: Attributes | None = None
        self._known: dict[int, pd.DataFrame] = {}
        self._files: dict[Path, pd.DataFrame | None] = {}
        self._told: set[str] = set()

    def take(self, given: Attributes) -> None:
        """Let a table given after the runs stand over what they keep themselves."""
        self._given = given
        self._known.clear()

    def of(self, trial: int, given: Attributes | None = None) -> pd.DataFrame:
        """Return a trial's groups: columns level, gid, label (text), rows, then attributes.

        rows (in training) are empty where a run of an earlier version does not keep them.
        given: a table that stands over all others.
        """
        if trial not in self._known:
            self._known[trial] = self._read(trial)
        known = self._known[trial]
        if given is None:
            return known
        others = known.drop(columns=[name for name in given.names if name in known])
        return joined([others, given.table])

    def _read(self, trial: int) -> pd.DataFrame:
        folder, schema = self.folders[trial], self._schemas()[trial]
        own = self._file(folder)
        if own is None:
            own = _named(schema)
        own = own[own[GID].notna()]
        first = own[[LEVEL, GID, LABEL, ROWS]].astype({GID: "int64", ROWS: "float64"})
        tables = [] if self._given is None else [self._given.table]
        kept = own.drop(columns=[GID, ROWS])
        of_sweep = self._file(folder.parent)
        sweeps = [] if of_sweep is None else [of_sweep.drop(columns=[GID, ROWS], errors="ignore")]
        return joined([first, *tables, kept, *sweeps])

    def _file(self, folder: Path) -> pd.DataFrame | None:
        if folder not in self._files:
            self._files[folder] = None
            try:
                self._files[folder] = read_groups_file(folder)
            except RunError as error:
                self._say(str(error))
        return self._files[folder]

    def _say(self, sentence: str) -> None:
        if sentence not in self._told:
            self._told.add(sentence)
            self._tell(sentence)

    def labels(self, frame: pd.DataFrame) -> NDArray[np.object_]:
        """Return what each row's group was called; its number where the schema is gone."""
        label = frame["gid"].to_numpy(dtype=object)
        for trial in frame["trial"].unique():
            schema = self._schemas()[int(trial)]
            for level in schema.levels if schema is not None else ():
                known = level.labels if level.labels is not None else range(level.size)
                names = np.array([*known, *level.new], dtype=object)
                rows = ((frame["trial"] == trial) & (frame["level"] == level.name)).to_numpy()
                label[rows] = names[frame["gid"].to_numpy()[rows]]
        return label

    def join(
        self, frame: pd.DataFrame, names: Iterable[str] | None, given: Attributes | None = None
    ) -> pd.DataFrame:
        """Add attributes to a frame with trial, level and gid; names: None = those of the table.

        Raises `RunError` for an attribute that none of the trials' groups has.
        """
        trials = [int(one) for one in frame["trial"].unique()]
        tables = {trial: self.of(trial, given) for trial in trials}
        every = {str(name) for table in tables.values() for name in table}
        known = every - {LEVEL, GID, LABEL}
        of_table = [] if given is None else given.names
        wanted = of_table if names is None else list(names)
        for name in wanted:
            if name not in known and trials:
                hint = " A table of others is given as attributes=FILE or a dataframe."
                told = unknown("attribute", name, known)
                raise RunError(f"group tables: {told}{hint if len(known) < 2 else ''}")
        if ROWS in wanted:
            lacking = [trial for trial in trials if tables[trial][ROWS].isna().all()]
            if lacking:
                self._say(
                    f"{ROWS}: {len(lacking)} trials (the first: {lacking[0]}) ran before rows of "
                    "groups were kept: the column is empty there"
                )
        if not trials:
            return frame.assign(**{name: pd.Series(dtype=object) for name in wanted})
        parts = [
            table.reindex(columns=[LEVEL, GID, *wanted]).assign(trial=trial)
            for trial, table in tables.items()
        ]
        whole = pd.concat(parts, ignore_index=True)
        return frame.merge(whole, on=["trial", LEVEL, GID], how="left", validate="m:1")


def _named(schema: Schema | None) -> pd.DataFrame:
    """Return the groups that a schema names, nothing else known of them."""
    if schema is None:
        return pd.DataFrame(columns=[LEVEL, GID, LABEL, ROWS])
    parts = [
        pd.DataFrame({LEVEL: level.name, LABEL: labels_of(schema, level.name)})
        for level in schema.levels
    ]
    named = pd.concat(parts, ignore_index=True)
    named.insert(1, GID, named.groupby(LEVEL).cumcount())
    return named.assign(**{ROWS: float("nan")})


def read_given(table: Table, levels: list[str], schema: Schema | None) -> Attributes:
    """Read a table of attributes given after the runs: a file, or a dataframe.

    Raises `DataError` where it is not as it must be, as for `--group-table`, and where none of its
    labels is one of the schema's.
    """
    if isinstance(table, pd.DataFrame):
        found = attributes_of(table, levels, "attributes")
    else:
        found = read_attributes(Path(table).expanduser(), DataConfig(), levels)
    if schema is not None:
        found.check(schema)
    return found


def asked_for(
    attributes: Table | Iterable[str], levels: list[str], schema: Schema | None
) -> tuple[list[str] | None, Attributes | None]:
    """Tell names of attributes from a table of them: the names (None = all), and the table.

    A text is a table where it ends as a file of one does.
    """
    if isinstance(attributes, Path | pd.DataFrame):
        return None, read_given(attributes, levels, schema)
    if isinstance(attributes, str):
        if is_table(Path(attributes)):
            return None, read_given(attributes, levels, schema)
        return [attributes], None
    return list(attributes), None
