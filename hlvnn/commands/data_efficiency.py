"""How much the rows that a new group brings are worth.

python -m hlvnn.analysis data-efficiency POOLED RUN …
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import tyro
from pydantic import Field

from hlvnn.analysis import data_efficiency as efficiency
from hlvnn.data.grouped import Split
from hlvnn.errors import ConfigError, DataError
from hlvnn.inference.adapt import STEPS
from hlvnn.models.model import HierarchicalModel
from hlvnn.records.run_folder import load_run
from hlvnn.strict import Config

logger = logging.getLogger("hlvnn")


class DataEfficiencyOptions(Config):
    """Measure what the rows that a new group brings are worth, and how much less without them."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs with the same groups held out; the first is what the others are compared
    with, a pooled model best."""
    sizes: tuple[int, ...] = efficiency.SIZES
    """Rows that a new group brings."""
    repeats: int = Field(3, gt=0)
    """Random draws of these rows."""
    steps: int = Field(STEPS, gt=0)
    """Steps of `adapt` where it optimises."""
    refine: int = Field(0, ge=0)
    """Steps that refine what an encoder read."""
    num_samples: int = Field(20, gt=0)
    """Draws of z averaged in a prediction."""
    seed: int = 0
    """Seed of the rows drawn and of z."""
    out: Path | None = None
    """Where to write OUT.parquet, OUT.csv and OUT.png; None = data_efficiency beside the first."""


def load(folders: Sequence[Path]) -> tuple[dict[str, HierarchicalModel], Split]:
    """Return the models of runs by folder name, and the test rows of their data.

    Raises `ConfigError` unless the same groups are known and new to all of them.
    """
    runs = [load_run(folder) for folder in folders]
    if not runs:
        raise ConfigError("no run was given; name one or more run folders")
    for run in runs[1:]:
        if run.schema.levels != runs[0].schema.levels:
            raise ConfigError(
                f"{run.folder}: its known and new groups are not those of {runs[0].folder}; train "
                "both with the same data, --hold-out and --split-seed"
            )
    models = {run.folder.name: run.model for run in runs}
    if len(models) < len(runs):
        raise ConfigError("two run folders have the same name, by which lines are told apart")
    test = runs[0].data.test
    if test is None:
        raise DataError(f"{runs[0].folder}: its data have no test rows")
    return models, test


def data_efficiency(options: DataEfficiencyOptions) -> None:
    """Measure, write and print."""
    models, rows = load(options.runs)
    table = efficiency.data_efficiency(
        models,
        rows,
        sizes=options.sizes,
        repeats=options.repeats,
        steps=options.steps,
        refine=options.refine,
        num_samples=options.num_samples,
        seed=options.seed,
    )
    out = options.out or options.runs[0].parent / "data_efficiency"
    logger.info(efficiency.as_text(efficiency.write(table, out)))
    logger.info("written: %s, .csv and .png", out.with_suffix(".parquet"))
