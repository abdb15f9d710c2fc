"""Where a sweep lies: the folder (or address) of its name, and whether there is one already."""

from __future__ import annotations

import os
import tempfile
import time
from datetime import datetime
from pathlib import Path

from hlvnn import files, search_space
from hlvnn.config import DataConfig
from hlvnn.errors import RunError
from hlvnn.files import check_name, free_names
from hlvnn.records.sweep_folder import FIRST, LOCK, SWEEP
from hlvnn.search_space import Space
from hlvnn.storage import Remote, is_address, shown_path, typed
from hlvnn.sweep.options import SweepConfig


def begun(options: SweepConfig, space: Space) -> str | None:
    """Return the folder or address of the sweep called --name, or None where it is yet to begin."""
    assert options.name is not None
    check_name(options.name)
    title = title_of(options, space)
    if not title:  # the data are drawn
        sample = search_space.check(space, options.seed, options.fixed_settings)
        title = sample[0].data.title
    if is_address(options.root):
        remote = Remote.at(options.root) / title / options.name
        return str(remote) if remote.exists(SWEEP) else None
    folder = Path(options.root) / title / options.name
    return str(folder) if (folder / SWEEP).exists() else None


def is_taken(folder: Path) -> bool:
    """Whether a folder is there, other than one that a driver left which ended as it began."""
    if not folder.is_dir():
        return folder.exists() or folder.is_symlink()
    left = [path.name for path in folder.iterdir() if not files.is_temporary(path)]
    return LOCK not in left or not set(left) <= set(FIRST)


def taken(place: Path | Remote) -> RunError:
    """Return what to raise where a sweep is in the way."""
    where = typed(place if isinstance(place, Path) else str(place))
    return RunError(
        f"{place if isinstance(place, Remote) else shown_path(place)} exists already; nothing was "
        "overwritten. Give another --name, or go on with it: python tune_search.py --resume "
        f"{where}"
    )


def title_of(options: SweepConfig, space: Space) -> str:
    """Return the name of the data, as far as it is known without a valid draw."""
    known = {**space.base, **options.fixed_settings}
    table = known.get("table")
    data = DataConfig.model_construct(
        dataset=str(known.get("dataset", "")), table=Path(table) if table else None
    )
    return data.title


def new_folder(options: SweepConfig, space: Space, title: str) -> tuple[Path, Remote | None]:
    """Return the folder of a new sweep, and its address; raise `RunError` when it exists."""
    if options.name is None:
        names = free_names(f"{space.name}-{datetime.now():%Y%m%d-%H%M%S}")
    else:
        check_name(options.name)
        names = iter([options.name])
    parent = Path(options.root).resolve() / title
    for name in names:
        place: Path | Remote = parent / name
        if not is_address(options.root):
            if not is_taken(parent / name):
                return parent / name, None
        else:
            place = remote = Remote.at(options.root) / title / name
            remote.check_writable()
            if not remote.exists(SWEEP):
                own = f"hlvnn-sweep-{os.getpid()}-{time.time_ns()}"
                return Path(tempfile.gettempdir()) / own / name, remote
    raise taken(place)
