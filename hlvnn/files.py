"""Small files written whole or not at all, and read back strictly."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from hlvnn.errors import ConfigError, RunError, StorageError


def expanded(path: Path) -> Path:
    """Return a path with ~ (and ~user) as the home folder that it stands for.

    Raises `ConfigError` where it stands for none.
    """
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ConfigError(
            f"{path}: there is no such home folder; write it out, or ./{path} for a folder of "
            "that name"
        ) from error


NAME_BYTES = 200
"""Bytes of the longest name of a run's or a sweep's folder; beside it stand temporary ones."""


def check_name(name: str) -> None:
    """Raise `RunError` unless --name is the plain name of a folder."""
    if name in ("", ".", "..") or set(name) & {"/", "\0"}:
        raise RunError(f"--name {name!r}: a plain name is expected, not a path")
    if (size := len(os.fsencode(name))) > NAME_BYTES:
        raise RunError(
            f"--name {name[:20]}…: {size} bytes are too many for the name of a folder; give at "
            f"most {NAME_BYTES}"
        )


def free_names(name: str) -> Iterator[str]:
    """Yield a name that nobody gave, then others like it, name-2, name-3 and so on."""
    name = os.fsencode(name)[:NAME_BYTES].decode(errors="ignore")
    yield name
    for number in count(2):
        yield f"{name}-{number}"


def is_temporary(path: Path) -> bool:
    """Whether a file is what `replacing` leaves where a process is killed as it writes."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write to, which takes the place of `path` when the block ends well."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        with suppress(OSError):  # the storage may be gone, and its error says more
            temporary.unlink(missing_ok=True)


@contextmanager
def reaching(folder: Path) -> Iterator[None]:
    """Turn an operating system's error about files into a `StorageError` that names the folder."""
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        raise StorageError(
            f"{error.filename or folder}: {why}; nothing was left half written. Free some space or "
            "bring the storage back, then go on with --resume"
        ) from error


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON, whole or not at all."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    with replacing(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def write_rows(path: Path, rows: list[dict[str, float]]) -> None:
    """Write rows as CSV, whole or not at all; a column that a row lacks stays empty."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def read_json(path: Path) -> Any:
    """Read JSON; `RunError` names the file when it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except FileNotFoundError:
        raise RunError(f"{path}: no such file; is {path.parent} the folder of a run?") from None
    except (ValueError, RecursionError, OSError) as error:
        raise RunError(f"{path}: not readable as JSON ({error}); restore it from a copy") from error


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
