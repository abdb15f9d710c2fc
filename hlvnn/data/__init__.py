"""Data sets with groups: loading, checking, splitting, batching.

`load_data` returns the `GroupedDataset` that a configuration names. A new data set is a file in
`sources/` with one `load` function, or a folder of arrays.
"""

from __future__ import annotations

from functools import lru_cache

from hlvnn import errors
from hlvnn.config import DataConfig
from hlvnn.data.folder import load_folder
from hlvnn.data.grouped import GroupedDataset
from hlvnn.errors import DataError
from hlvnn.families import member_module, members

__all__ = ["GroupedDataset", "data_of", "load_data"]

SOURCES = "data.sources"
"""The family of data sources, one file each."""


def load_data(config: DataConfig) -> GroupedDataset:
    """Load the data set: the source of that name, else the folder of arrays below `data_dir`.

    Raises `DataError` for an unknown name (it lists what there is) and for data that are not what
    they must be.
    """
    if config.dataset in members(SOURCES):
        data: GroupedDataset = member_module(SOURCES, config.dataset, "data set").load(config)
        return data
    if config.dataset and (config.data_dir / config.dataset).is_dir():
        return load_folder(config)
    folders = (
        [path.name for path in config.data_dir.iterdir() if path.is_dir()]
        if config.data_dir.is_dir()
        else []
    )
    known = errors.unknown("data set", config.dataset, [*members(SOURCES), *folders])
    place = config.data_dir / (config.dataset or "DATASET") / config.data_size
    raise DataError(
        f"{known} Name one with --dataset, or put a folder of arrays at {place} "
        "(--data-dir moves the root)."
    )


@lru_cache(maxsize=2)
def _loaded(config: DataConfig) -> GroupedDataset:
    return load_data(config)


def data_of(config: DataConfig) -> GroupedDataset:
    """Return the data set of a configuration; a process keeps the last two it loaded."""
    return _loaded(config)
