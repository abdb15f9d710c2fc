"""How a command is told which run to look into, with which weights, and where to write."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import tyro

from hlvnn.config import DATA_PLACES, in_place
from hlvnn.errors import RunError
from hlvnn.records.run_folder import Run, load_run
from hlvnn.storage import Place, is_address
from hlvnn.strict import Config

FIGURES = "figures"
"""Folder in a run's folder for what these commands write."""


class PlacesOptions(Config):
    """Where data are that have moved."""

    data_dir: Path | None = None
    """Where the folder of arrays is now, if it has moved; none given = where it was."""
    table: Path | None = None
    """Where the table is now, if it has moved; none given = where it was."""

    def check_places(self) -> None:
        """Raise `RunError` where one of them is not there."""
        for name in DATA_PLACES:
            place: Path | None = getattr(self, name)
            if place is not None and not place.exists():
                raise RunError(
                    f"--{name.replace('_', '-')} {place}: there is nothing; say where the data are "
                    "now, or leave it out"
                )


class RunOptions(PlacesOptions):
    """What every command that opens a run can be told."""

    run: tyro.conf.Positional[Place]
    """Folder of a run or of a sweep's trial, or its address (s3://…)."""
    weights: Literal["best", "last"] = "best"
    """Weights of the chosen epoch (by a sweep's METRIC, a run's --select-on), or of the last."""
    out: Path | None = None
    """Where to write: OUT.png and OUT.csv; none given = figures/ in the run's folder, or here for
    an address."""

    def open(self) -> Run:
        """Read the run back."""
        run = load_run(self.run, self.weights)
        self.check_places()
        places = {name: getattr(self, name) for name in DATA_PLACES}
        return replace(run, config=in_place(run.config, places))

    def target(self, name: str) -> Path:
        """Return OUT, or a path made of `name`; its folder is made.

        Raises `RunError` where that folder cannot be written.
        """
        path = self.out or Path("" if is_address(self.run) else self.run) / FIGURES / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(
                f"{path.parent}: cannot be made ({error.strerror}); say --out elsewhere"
            ) from error
        return path
