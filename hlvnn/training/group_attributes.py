"""What a run keeps of its groups: their training rows, and what --group-table says of them."""

from __future__ import annotations

from pathlib import Path

from hlvnn.config import RunConfig
from hlvnn.data.attributes import Attributes, read_attributes
from hlvnn.data.grouped import GroupedDataset
from hlvnn.records.group_file import GROUPS, groups_of, kept_attributes, write_groups
from hlvnn.records.run_folder import HYPERPARAMS, read_config


def attributes_for(
    config: RunConfig, data: GroupedDataset, folder: Path, source: Path | bool
) -> Attributes | None:
    """Return what a run is told its groups are like; None where nothing is, or it is kept already.

    source: as in `execute`. Raises `DataError` for a table that is not as it must be.
    """
    path = config.data.group_table
    if path is None or is_kept(folder, path):
        return None
    if isinstance(source, Path) and (kept := kept_attributes(source)) is not None:
        return kept
    levels = [level.name for level in data.schema.levels]
    found = read_attributes(path, config.data, levels)
    found.check(data.schema)
    return found


def is_kept(folder: Path, path: Path) -> bool:
    """Whether a run that goes on keeps a table already; a file that has gone is not asked for."""
    if not (folder / GROUPS).exists() or not (folder / HYPERPARAMS).exists():
        return False
    return read_config(folder).data.group_table == path


def keep_groups(
    folder: Path, config: RunConfig, data: GroupedDataset, attributes: Attributes | None
) -> None:
    """Write a run's `GROUPS`, before its record says that it is there."""
    path = config.data.group_table
    if attributes is None and (folder / GROUPS).exists():
        is_begun = (folder / HYPERPARAMS).exists()
        if is_begun and read_config(folder).data.group_table == path:
            return
    folder.mkdir(parents=True, exist_ok=True)
    write_groups(folder, groups_of(data, attributes))
