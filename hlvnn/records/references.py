"""Pooled references: what the winner of a sweep is compared with, trained as long as it was.

They lie in folders of their own beside the trials', so that they are in no ranking, in no study and
never pruned.
"""

from __future__ import annotations

from pathlib import Path

from hlvnn import files
from hlvnn.config import Config, validated
from hlvnn.errors import HlvnnError, RunError
from hlvnn.records.run_folder import read_metrics

REFERENCE = "reference.json"
"""In the folder of a reference: whose it is."""
PREFIX = "reference_"
"""What the folder of a reference begins with."""


class Reference(Config):
    """A model without latents that a trial with latents is compared with."""

    winner: int
    """The trial that it is compared with."""
    source: int
    """The trial whose settings it has: the winner, then without its latents, or a pooled trial."""
    epochs: int
    """Epochs that it is trained for: those that the winner has."""

    @property
    def name(self) -> str:
        """Name of its folder."""
        what = "own" if self.source == self.winner else f"pooled_{self.source:04d}"
        return f"{PREFIX}{self.winner:04d}_{what}_{self.epochs}"

    @property
    def said(self) -> str:
        """What it is, in words."""
        if self.source == self.winner:
            return f"trial {self.winner}'s own settings without latents"
        return f"the best pooled trial, {self.source}, trained as long"


def write(folder: Path, reference: Reference) -> None:
    """Mark a folder as a reference's."""
    files.write_json(folder / REFERENCE, reference.model_dump())


def read_all(sweep: Path, problems: list[str]) -> dict[Path, Reference]:
    """Return the references that have ended, by their folders; what cannot be read is told."""
    found = {}
    for path in sorted(sweep.glob(f"{PREFIX}*/{REFERENCE}")):
        try:
            reference = validated(Reference, files.read_json(path), path.parent.name)
        except HlvnnError as error:
            problems.append(f"{path.parent.name}/{REFERENCE}: {error}".replace(f"{sweep}/", ""))
            continue
        if has_ended(path.parent, reference):
            found[path.parent] = reference
    return found


def has_ended(folder: Path, reference: Reference) -> bool:
    """Whether a reference has been trained for all its epochs."""
    try:
        return int(read_metrics(folder)["epoch"].max()) >= reference.epochs
    except (RunError, ValueError):
        return False
