"""`perturbations.json`: how the settings of a trial changed as it ran (`--scheduler pbt`).

It holds all that the trial ever had; `hyperparams.json` holds those that it has now. A run whose
settings never changed has no such file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from hlvnn import files
from hlvnn.config import Config, run_config, validated
from hlvnn.errors import RunError
from hlvnn.gone import without_gone
from hlvnn.words import shown

PERTURBATIONS = "perturbations.json"


class Change(Config):
    """What a trial was given after an epoch; it holds until the next change."""

    epoch: int = Field(ge=0)
    """The epoch after which it came; 0 for what the trial began with."""
    from_trial: int | None = None
    """The trial whose weights, optimisers and random streams it took over."""
    params: dict[str, Any]
    """The parameters of the search space."""
    settings: dict[str, Any]
    """The settings that the search space made of them."""

    def told(self) -> str:
        """Say it in words."""
        now = shown(self.settings)
        return f"after epoch {self.epoch} it took over trial {self.from_trial}, with {now}"


def read(folder: Path) -> list[Change]:
    """Return a trial's changes, the first being what it began with; none where there are none.

    Raises `RunError` or `ConfigError` for a damaged file, which they name.
    """
    path = folder / PERTURBATIONS
    if not path.exists():
        return []
    record = files.read_json(path)
    whole = isinstance(record, list) and all(isinstance(entry, dict) for entry in record)
    if not whole or len(record) < 2:
        raise RunError(f"{path}: damaged: expected a list of changes; restore it from a copy")
    changes = [validated(Change, entry, str(path)) for entry in record]
    for change in changes:
        run_config(without_gone(change.settings), str(path))
    return changes


def write(folder: Path, changes: list[Change]) -> None:
    """Write a trial's changes, whole or not at all."""
    record = [change.model_dump(mode="json") for change in changes]
    files.write_json(folder / PERTURBATIONS, record)


def settings_now(folder: Path) -> dict[str, Any]:
    """Return those settings of a trial that were changed last."""
    changes = read(folder)
    return changes[-1].settings if changes else {}


def params_now(folder: Path) -> dict[str, Any]:
    """Return the parameters of a trial that was changed, as they were given last."""
    changes = read(folder)
    return changes[-1].params if changes else {}
