"""Data sets with groups: loading, checking, splitting, batching.

`load_data` returns the `GroupedDataset` that a configuration names. A new data set is a file in
`sources/` with one `load` function, or a folder of arrays.

A source's file holds `load(config) -> Loaded`; where it has them, the names of the settings that
are its own (`SETTINGS`), and `files(config)`, the files that it reads.
"""

from __future__ import annotations

from functools import lru_cache
from types import ModuleType

from hlvnn import errors
from hlvnn.config import DataConfig
from hlvnn.data import folder
from hlvnn.data.assemble import assemble, check_hold_out
from hlvnn.data.frames import Measure
from hlvnn.data.grouped import GroupedDataset, Loaded
from hlvnn.data.tables import TEXT_SETTINGS
from hlvnn.errors import ConfigError, DataError
from hlvnn.families import member_module, members

__all__ = ["GroupedDataset", "Loaded", "data_of", "load_data", "why_changed"]

SOURCES = "data.sources"
"""The family of data sources, one file each."""
OF_ALL = (
    *("dataset", "data_dir", "val_fraction", "split", "unseen", "hold_out", "split_seed"),
    *("test_fraction", "limit_rows", "only_groups", "overfit", "group_table", "stratify"),
)
"""Settings that mean the same for every data set; the others are some sources' own."""

Stamp = tuple[tuple[str, int, int], ...]


def load_data(config: DataConfig, *, recorded: bool = False) -> GroupedDataset:
    """Load the data set: the source of that name, else the folder of arrays below `data_dir`.

    recorded: the configuration is that of a run which has begun; in older ones settings may stand
    that change nothing.

    Raises `DataError` for an unknown name (it lists what there is) and for data that are not what
    they must be, `ConfigError` for settings of another source.
    """
    return assemble(config, _loaded(config, recorded), recorded=recorded)


def why_changed(config: DataConfig, digest: str) -> str:
    """Say why data that are as they were have another hash than `digest`; "" where none is known.

    Runs are as old as the rules by which their rows were split.
    """
    loaded = _loaded(config, recorded=True)
    far = [
        name
        for name, kind in (loaded.schema.coding or {}).items()
        if isinstance(kind, Measure) and kind.offset and not kind.date
    ]
    if far:
        return (
            f"columns far from zero ({', '.join(far)}) are kept less their mean now, so that "
            "32-bit floats do not lose their digits: data of older runs with such columns have "
            "another hash, and it cannot tell whether they changed"
        )
    if assemble(config, loaded, across=False, recorded=True).digest() == digest:
        return (
            "the table is the same, but the rule of the split is new: groups too small for a "
            "validation or test row of their own now give some together, which changes the rows "
            "of such groups and no others"
        )
    return ""


def _loaded(config: DataConfig, recorded: bool) -> Loaded:
    check_hold_out(config)
    source = _source(config)
    if not recorded:
        _check_own(config, source)
    loaded = source.load(config)
    if not isinstance(loaded, Loaded):
        raise DataError(
            f"{source.__file__}: load returned {type(loaded).__name__}, expected Loaded: rows and "
            "their schema, for example Loaded.from_frame(…); they are split outside"
        )
    return loaded


def _check_own(config: DataConfig, source: ModuleType) -> None:
    """Raise `ConfigError` for settings of another data set, which this one would pass over."""
    own = getattr(source, "SETTINGS", ())
    own = (*own, *(TEXT_SETTINGS if config.group_table is not None else ()))
    for name, field in DataConfig.model_fields.items():
        if name not in (*OF_ALL, *own) and getattr(config, name) != field.default:
            value = getattr(config, name)
            shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
            raise ConfigError(
                f"--{name.replace('_', '-')} {shown} does not belong to the data set "
                f"{config.dataset}"
                + (f" (its own are {_flags(own)})" if own else "")
                + "; leave it out, or name another with --dataset"
            )


def _flags(names: tuple[str, ...]) -> str:
    return ", ".join(f"--{name.replace('_', '-')}" for name in names)


def _source(config: DataConfig) -> ModuleType:
    """Return the module that loads the data set."""
    if config.dataset in members(SOURCES):
        return member_module(SOURCES, config.dataset, "data set")
    if config.dataset and (config.data_dir / config.dataset).is_dir():
        return folder
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


def _stamp(config: DataConfig) -> Stamp:
    """Return the data's files with their size and time of change in nanoseconds."""
    files = getattr(_source(config), "files", None)
    found = []
    for path in [] if files is None else sorted(files(config)):
        if path.is_file():
            status = path.stat()
            found.append((str(path.resolve()), status.st_size, status.st_mtime_ns))
    return tuple(found)


@lru_cache(maxsize=2)
def _kept(config: DataConfig, stamp: Stamp, recorded: bool) -> GroupedDataset:
    return load_data(config, recorded=recorded)


def data_of(config: DataConfig, *, recorded: bool = False) -> GroupedDataset:
    """Return the data set of a configuration; a process keeps the last two it loaded.

    They are loaded again where one of their files has another size or time of change. recorded: as
    in `load_data`.
    """
    return _kept(config, _stamp(config), recorded)
