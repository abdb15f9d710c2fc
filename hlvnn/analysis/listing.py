"""What sweeps and runs there are below a folder: how each stands, and what it takes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hlvnn import files
from hlvnn.analysis.loading import load_sweep, load_these
from hlvnn.analysis.results import Results
from hlvnn.columns import best_of
from hlvnn.errors import HlvnnError, RunError
from hlvnn.records.journal import JOURNAL
from hlvnn.records.outcomes import OVER, Status, open_ones
from hlvnn.records.run_folder import HYPERPARAMS, METRICS
from hlvnn.records.sweep_folder import SWEEP

DEPTH = 4
"""How deep below the results a run may lie: DATASET/RUN, sota/DATASET/RUN, SITE/DATASET/SWEEP."""
IN_SWEEP, IN_RUN, UNREADABLE = "sweep", "run", "folder"
DAMAGED = "damaged"
"""The status of what cannot be read."""
COLUMNS = ("kind", "name", "status", "best", "metric", "done", "of", "bytes", "started", "note")


def below(root: Path, depth: int = DEPTH) -> Iterator[tuple[Path, str]]:
    """Yield every sweep and run at and below a folder, with its kind ("sweep" or "run").

    Links are not followed. A sweep's trials are no runs of their own. What has lost the file that
    makes it one is still known by what else it left. A folder that cannot be looked into is of kind
    "folder".
    """
    if (root / SWEEP).exists() or (root / JOURNAL).exists():
        yield root, IN_SWEEP
    elif (root / HYPERPARAMS).exists() or (root / METRICS).exists():
        yield root, IN_RUN
    elif depth:
        try:
            inside = sorted(root.iterdir())
        except OSError:
            yield root, UNREADABLE
            return
        for one in inside:
            if one.is_dir() and not one.is_symlink() and not one.name.startswith("."):
                yield from below(one, depth - 1)


def listing(root: Path | str) -> pd.DataFrame:
    """Return a row for each sweep and run below a folder, the youngest first; nothing is changed.

    Columns kind ("sweep" or "run"), name (its folder below `root`), status (a word of
    `outcomes.Status`; a sweep is stopped where --resume goes on with trials of it; "damaged" where
    it cannot be read), best (value) by metric, done (trials that are over, or epochs) of of, bytes
    on disk, started (UTC; of what does not say so, when its folder was changed last) and note: what
    is damaged, or why it ended so.
    Raises `RunError` where there is no such folder.
    """
    root = Path(root)
    if not root.is_dir():
        raise RunError(f"{root}: no such folder; give the root of the results, or one in it")
    rows = [_row(folder, kind, root) for folder, kind in below(root)]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    frame["started"] = pd.to_datetime(frame["started"], format="ISO8601", utc=True, errors="coerce")
    return frame.sort_values("started", ascending=False, kind="stable", ignore_index=True)


def _row(folder: Path, kind: str, root: Path) -> dict[str, Any]:
    name = str(folder.relative_to(root)) if folder != root else folder.name
    row: dict[str, Any] = {"kind": kind, "name": name, "best": np.nan, "metric": "", "note": ""}
    row |= {"done": np.nan, "of": np.nan, "bytes": size_of(folder)}
    try:
        if kind == UNREADABLE:
            raise RunError("it cannot be looked into (permissions)")
        return row | (_sweep(folder) if kind == IN_SWEEP else _run(folder))
    except (HlvnnError, KeyError, TypeError, ValueError, AttributeError, OSError) as error:
        # what a file that was edited or cut may raise has no end: it is damaged, and said to be
        note = str(error).replace(f"{folder}/", "").splitlines()[0]
        return row | {"status": DAMAGED, "note": note, "started": _changed(folder)}


def _sweep(folder: Path) -> dict[str, Any]:
    results = load_sweep(folder)
    trials, record = results.table, results.record
    assert record is not None
    going_on = bool(open_ones(trials).any())
    state = Status.RUNNING if results.alive else Status.STOPPED if going_on else Status.COMPLETED
    return {
        "status": str(state),
        **_best(results),
        "done": int((trials["status"].isin(OVER) & ~trials["unfinished"].astype(bool)).sum()),
        "of": len(trials),
        "started": _first(record.starts) or _changed(folder),
        "note": _note(results),
    }


def _run(folder: Path) -> dict[str, Any]:
    record = files.read_json(folder / HYPERPARAMS)
    if not isinstance(record, dict) or not isinstance(record.get("config"), dict):
        raise RunError(f"{HYPERPARAMS} holds no configuration; restore it from a copy")
    results = load_these(folder)
    row = results.row(0)
    return {
        "status": str(row["status"]),
        **_best(results),
        "done": int(row["epochs"]),
        "of": int(record["config"].get("num_epochs") or row["epochs"]),
        "started": record.get("started") or _changed(folder),
        "note": _note(results) or str(row["reason"]),
    }


def _best(results: Results) -> dict[str, Any]:
    best = results.best_trial
    value = np.nan if best is None else results.row(best).get(best_of(results.metric), np.nan)
    return {"best": value, "metric": results.metric}


def _note(results: Results) -> str:
    found = list(dict.fromkeys(results.problems))
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return f"{DAMAGED}: {found[0]}{more}" if found else ""


def _first(starts: list[dict[str, Any]]) -> str | None:
    return str(starts[0].get("time", "")) or None if starts else None


def _changed(folder: Path) -> str:
    return datetime.fromtimestamp(folder.stat().st_mtime, UTC).isoformat()


def size_of(folder: Path) -> int:
    """Return the bytes of all files below a folder; links count as links."""
    total = 0
    for file in folder.rglob("*"):
        try:
            total += 0 if file.is_dir() else file.lstat().st_size
        except OSError:  # it went away meanwhile
            continue
    return total
