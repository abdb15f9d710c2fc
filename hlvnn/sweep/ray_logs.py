"""Ray's own logs, kept in the sweep's folder when it fails: they go with Ray's temporary folder."""

from __future__ import annotations

import zipfile
from contextlib import suppress
from pathlib import Path

import ray

from hlvnn.files import replacing
from hlvnn.records.sweep_folder import RAY_LOGS

MOST_BYTES = 5_000_000
"""Of each file its end is kept."""


def keep(sweep: Path) -> bool:
    """Keep the logs of this machine's Ray in a sweep's folder; return whether there are any.

    The sweep has failed by then, so that nothing here may fail it again.
    """
    folder = logs_folder()
    if folder is None:
        return False
    with suppress(OSError):
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        with (
            replacing(sweep / RAY_LOGS) as temporary,
            zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as kept,
        ):
            for path in files:
                kept.writestr(str(path.relative_to(folder)), _end_of(path))
        return bool(files)
    return False


def logs_folder() -> Path | None:
    """Return where the Ray that this process has joined writes its logs here, or None."""
    node = getattr(ray._private.worker, "_global_node", None)
    if node is None:
        return None
    folder = Path(node.get_logs_dir_path())
    return folder if folder.is_dir() else None


def _end_of(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - MOST_BYTES))
        return file.read()
