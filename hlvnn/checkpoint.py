"""Checkpoints: written whole or not at all, read strictly, nothing in them executed."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from hlvnn.errors import CheckpointError
from hlvnn.files import replacing

FORMAT = "hlvnn-checkpoint"
VERSION = 1


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write a checkpoint atomically: a reader sees the old file or the new one, never a part."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        torch.save({"format": FORMAT, "version": VERSION, **state}, file)
        file.flush()
        os.fsync(file.fileno())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint (`weights_only`: tensors and plain values, no code).

    Raises `CheckpointError` when the file is missing, cut short, or not one of ours.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(
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
