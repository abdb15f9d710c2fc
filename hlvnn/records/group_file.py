"""`groups.parquet`: a run's groups with their numbers, labels, training rows and attributes.

In a run's folder it has all groups of all levels. In a sweep's it holds what `--group-table` says,
once for all trials, whichever groups each has; a trial's own then has no attributes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from pandas.api.types import is_integer_dtype

from hlvnn.data.attributes import LABEL, LEVEL, ROWS, Attributes, labels_of
from hlvnn.data.grouped import GroupedDataset
from hlvnn.errors import RunError
from hlvnn.files import replacing

GROUPS = "groups.parquet"
"""In a run's folder: level, gid, label (text), rows (in training), then the attributes of the run's
--group-table (of a label without a group gid and rows are empty); in a sweep's folder: level, label
and its attributes."""
GID = "gid"


def groups_of(data: GroupedDataset, attributes: Attributes | None) -> pd.DataFrame:
    """Return what a run's folder keeps of its groups, in the columns of `GROUPS`."""
    parts = []
    for place, level in enumerate(data.schema.levels):
        labels = labels_of(data.schema, level.name)
        rows = np.zeros(len(labels), np.int64)
        rows[: level.size] = np.bincount(data.train.groups[:, place].numpy(), minlength=level.size)
        parts.append(
            pd.DataFrame(
                {LEVEL: level.name, GID: np.arange(len(labels)), LABEL: labels, ROWS: rows}
            )
        )
    frame = pd.concat(parts, ignore_index=True)
    if attributes is not None:
        frame = frame.merge(attributes.table, on=[LEVEL, LABEL], how="outer", sort=False)
        frame = frame.sort_values([GID], kind="stable", ignore_index=True)
        order = {level.name: place for place, level in enumerate(data.schema.levels)}
        frame = frame.sort_values(LEVEL, key=lambda s: s.map(order), kind="stable")
    return frame.astype({GID: "Int32", ROWS: "Int64"}).reset_index(drop=True)


def write_groups(folder: Path, frame: pd.DataFrame) -> None:
    """Write `GROUPS` into a run's or a sweep's folder, whole or not at all."""
    with replacing(folder / GROUPS) as temporary:
        frame.to_parquet(temporary, index=False)


def read_groups_file(folder: Path) -> pd.DataFrame | None:
    """Read what a folder keeps of its groups, None where it has no such file.

    Raises `RunError` where it cannot be read.
    """
    path = folder / GROUPS
    if not path.exists():
        return None
    try:
        frame = pd.read_parquet(path)
    except Exception as error:  # what damaged bytes make a reader raise has no end
        raise RunError(
            f"{path}: not readable as Parquet ({error!r:.200}); restore it from a copy, or "
            "give the table again with --group-table"
        ) from error
    if (wrong := _damage(frame)) is not None:
        raise RunError(f"{path}: damaged: {wrong}; restore it from a copy")
    return frame


def _damage(frame: pd.DataFrame) -> str | None:
    """Return why a table is not what was written, None where nothing is seen of that."""
    if lacking := {LEVEL, LABEL} - set(frame):
        return f"it has no column {min(lacking)!r}"
    if len({GID, ROWS} & set(frame)) == 1:
        return f"of the columns {GID!r} and {ROWS!r} it has one"
    if frame[[LEVEL, LABEL]].isna().any(axis=None) or frame.duplicated([LEVEL, LABEL]).any():
        return "a label is missing or there twice"
    if GID in frame:
        known = frame[frame[GID].notna()]
        if not all(is_integer_dtype(frame[name]) for name in (GID, ROWS)):
            return f"{GID!r} or {ROWS!r} holds no whole numbers"
        if known.duplicated([LEVEL, GID]).any() or known[ROWS].isna().any():
            return "a group's number is there twice, or its rows are missing"
    return None


def keep_with_copy(copy: Path, trial: Path) -> None:
    """Give a copy of a sweep's trial, kept elsewhere, the attributes that the sweep keeps."""
    own, known = read_groups_file(copy), kept_attributes(trial)
    if own is not None and known is not None:
        new = [name for name in known.table if name in (LEVEL, LABEL) or name not in own]
        write_groups(copy, own.merge(known.table[new], on=[LEVEL, LABEL], how="left"))


def kept_attributes(folder: Path) -> Attributes | None:
    """Return the attributes that a run keeps, or its sweep; None where there are none."""
    for place in (folder, folder.resolve().parent):
        frame = read_groups_file(place)
        if frame is not None:
            table = frame.drop(columns=[GID, ROWS], errors="ignore")
            if len(table.columns) > 2:
                return Attributes(table, str(place / GROUPS), "kept with it")
    return None
