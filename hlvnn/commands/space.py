"""Groups in two dimensions, with their uncertainty.

python -m hlvnn.analysis space RUN
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from hlvnn.analysis import canvas
from hlvnn.analysis.latent_space import above_of, draw_positions, positions, space_of
from hlvnn.analysis.places import (
    data_or_none,
    level_with_latents,
    whereabouts,
)
from hlvnn.commands.run_options import RunOptions

if TYPE_CHECKING:
    pass

logger = logging.getLogger("hlvnn")


class SpaceOptions(RunOptions):
    """Draw the groups of a level in two dimensions, with what is not known of them."""

    level: str | None = None
    """Group level; none given = the lowest one with a latent."""


def space(options: SpaceOptions) -> None:
    """Write the figure and its table."""
    run = options.open()
    level = level_with_latents(run.model, options.level)
    found = space_of(run.model, level)
    schema = run.schema
    above, name = None, ""
    if level + 1 < len(schema.levels):
        data, problem = data_or_none(run)
        if data is None:
            logger.info("not coloured by the level above, the data cannot be used: %s", problem)
        else:
            name = schema.levels[level + 1].name
            above = above_of(found, whereabouts(data.train, schema, level), schema)
    table = positions(found, above)
    out = options.target(f"space_{found.name}")
    canvas.save(draw_positions(table, found, name), table, out)
    _, variances = found.principal()
    spread = ", ".join(f"{float(value) ** 0.5:.2f}" for value in variances[:6])
    logger.info(
        "%d groups of %s; SD of their means along the principal directions, in prior SDs: %s",
        *(len(table), found.name, spread),
    )
    logger.info(canvas.written(out))
