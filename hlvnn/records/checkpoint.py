"""Checkpoints: written whole or not at all, the last two kept, nothing in them executed."""

from __future__ import annotations

import io
import logging
import os
import zipfile
from pathlib import Path
from typing import Any

import torch

from hlvnn.errors import CheckpointError, DamagedCheckpointError
from hlvnn.files import replacing

logger = logging.getLogger("hlvnn")

FORMAT = "hlvnn-checkpoint"
VERSION = 1


def save_checkpoint(state: dict[str, Any], path: Path, *, keep_previous: bool = False) -> None:
    """Write a checkpoint atomically: a reader sees the old file or the new one, never a part.

    keep_previous: the one that it replaces stays beside it, at `previous(path)`.
    """
    buffer = io.BytesIO()  # a full disk must not meet torch's writer, which would end the process
    torch.save({"format": FORMAT, "version": VERSION, **state}, buffer)
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(buffer.getbuffer())
        file.flush()
        os.fsync(file.fileno())
        if keep_previous and path.exists():
            path.replace(previous(path))


def previous(path: Path) -> Path:
    """Return where the checkpoint before the one at `path` is kept."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def load_latest(path: Path) -> tuple[dict[str, Any], Path] | None:
    """Read the newest checkpoint that is whole; say so where it is the one before the last.

    Returns it with the file that it is in, or None when there is none at all; raises
    `CheckpointError` when none can be read.
    """
    found = [place for place in (path, previous(path)) if place.exists()]
    problem: DamagedCheckpointError | None = None
    for place in found:
        try:
            state = load_checkpoint(place)
        except DamagedCheckpointError as error:
            problem = problem or error
            continue
        if place != path:
            why = f"could not be read ({problem})" if problem else "is missing"
            logger.warning(
                "%s %s: going on from the one before it, of epoch %s", path, why, state.get("epoch")
            )
        return state, place
    if problem is not None:
        raise problem
    return None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint (`weights_only`: tensors and plain values, no code).

    Raises `CheckpointError` when the file is missing, cut short, or not one of ours.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if (damaged := archive.testzip()) is not None:
                raise ValueError(f"the checksum of {damaged} is wrong")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except Exception as error:  # what damaged bytes make a reader raise has no end
        raise DamagedCheckpointError(
            f"{path}: not a readable checkpoint (cut short, or no checkpoint at all): "
            f"{str(error).splitlines()[0] if str(error) else type(error).__name__}. "
            "Delete it to start afresh, or restore it from a copy."
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: not a checkpoint of this project (no format {FORMAT!r} in it)"
        )
    if state.get("version") != VERSION:
        raise CheckpointError(
            f"{path}: checkpoint version {state.get('version')}, this program reads {VERSION}"
        )
    return state


def load_weights(module: torch.nn.Module, weights: dict[str, Any], path: Path) -> None:
    """Load a checkpoint's weights into a module; `CheckpointError` where they do not fit."""
    try:
        module.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError) as error:
        detail = "; ".join(line.strip() for line in str(error).splitlines()[1:4])
        raise CheckpointError(
            f"{path}: the checkpoint is of another model than the configuration describes: {detail}"
        ) from error
