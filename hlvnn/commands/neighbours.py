"""The groups most like one.

python -m hlvnn.analysis neighbours RUN --group LABEL
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pydantic import Field
from rich.table import Table

from hlvnn.analysis import canvas
from hlvnn.analysis.latent_space import draw_neighbours, usual_distance
from hlvnn.analysis.places import (
    find_group,
    labels_of,
    level_with_latents,
    plain,
)
from hlvnn.commands.run_options import RunOptions
from hlvnn.terminal import text_of

if TYPE_CHECKING:
    pass

logger = logging.getLogger("hlvnn")


class NeighbourOptions(RunOptions):
    """Name the groups nearest to one in the latent space."""

    group: str
    """The group, by its label or an unmistakable part of it."""
    level: str | None = None
    """Its level; none given = the lowest one with a latent."""
    k: int = Field(10, gt=0)
    """How many neighbours."""


def neighbours(options: NeighbourOptions) -> None:
    """Write the figure and its table, and print it."""
    run = options.open()
    level = level_with_latents(run.model, options.level)
    described = run.schema.levels[level]
    label = labels_of(described)[find_group(described, options.group)]
    table = run.model.nearest(described.name, label, options.k)
    out = options.target(f"neighbours_{described.name}_{plain(label)}")
    far = usual_distance(run.model, level)
    canvas.save(draw_neighbours(table, str(label), far), table, out)
    shown = Table(box=None)
    shown.add_column(described.name)
    for column in ("rows", "distance", "of the means"):
        shown.add_column(column, justify="right")
    for row in table.itertuples(index=False):
        shown.add_row(str(row[0]), f"{row[1]:,}", f"{row[2]:.2f}", f"{row[3]:.2f}")
    far_text = f"two groups drawn from the prior are {far:.2f} apart"
    logger.info("nearest to %s, in prior SDs (%s)\n%s", label, far_text, text_of(shown))
    logger.info(canvas.written(out))
