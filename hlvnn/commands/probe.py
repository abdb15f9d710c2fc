"""What is predicted for the same rows as a group's z moves.

python -m hlvnn.analysis probe RUN --group LABEL
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydantic import Field
from rich.table import Table
from torch import Tensor

from hlvnn.analysis import canvas, places
from hlvnn.analysis.latent_space import Space, space_of
from hlvnn.analysis.places import find_group, level_with_latents
from hlvnn.analysis.probe import (
    CANDIDATES,
    POINTS,
    Move,
    draw_responses,
    most_moved,
    move_along,
    response_table,
    responses,
)
from hlvnn.commands.run_options import RunOptions
from hlvnn.data.grouped import Schema, Split
from hlvnn.errors import ConfigError, DataError
from hlvnn.terminal import text_of

if TYPE_CHECKING:
    pass

logger = logging.getLogger("hlvnn")


class ProbeOptions(RunOptions):
    """Show what the model reads in the same rows as their group's z moves."""

    group: str
    """The group, by its label or an unmistakable part of it."""
    level: str | None = None
    """Its level; none given = the lowest one with a latent."""
    direction: int = Field(0, ge=0)
    """Number of the principal direction of the groups, from 0; or, with --axes coordinates, of the
    coordinate of z."""
    axes: Literal["principal", "coordinates"] = "principal"
    """What --direction counts."""
    towards: str | None = None
    """Another group of that level: move straight to it instead."""
    reach: float = Field(3.0, gt=0)
    """How far z moves to both sides, in prior SDs."""
    split: Literal["train", "val", "test"] = "test"
    """Rows to choose from."""
    row: tuple[int, ...] = ()
    """Numbers of rows of that split, from 0; none given = those of the group that react most."""
    count: int = Field(3, gt=0)
    """How many rows are chosen, where none is given."""


def probe(options: ProbeOptions) -> None:
    """Write the figure and its table, and print the classes on the way."""
    run = options.open()
    level = level_with_latents(run.model, options.level)
    described = run.schema.levels[level]
    group = find_group(described, options.group)
    label = str(places.labels_of(described)[group])
    data = places.data_of(run)
    split = _split(data.splits(), options)
    space = space_of(run.model, level)
    move = _move(space, group, options)
    rows = _rows(split, level, group, label, options)
    x = split.x.take(torch.tensor(rows))
    place = places.whereabouts(data.train, run.schema, level)[group].tolist()
    upper = [None if i < level or found < 0 else found for i, found in enumerate(place)]
    answers = responses(run.model, space, places.mean_z(run.model, upper), move, x)
    if not options.row:
        chosen = most_moved(answers, options.count)
        rows, x, answers = [rows[i] for i in chosen], x[chosen], answers[:, chosen]
    table = response_table(answers, move, rows, run.schema)
    truth = [_truth(run.schema, split.y[row]) for row in rows]
    out = options.target(f"probe_{described.name}_{places.plain(label)}_{places.plain(move.name)}")
    canvas.save(draw_responses(table, move, x, truth, run.schema), table, out)
    logger.info(
        "%s %s, z moved along %s\n%s", described.name, label, move.name, _ways(table, truth)
    )
    logger.info(canvas.written(out))


def _split(splits: dict[str, Split], options: ProbeOptions) -> Split:
    if options.split not in splits:
        raise DataError(
            f"{options.run}: its data have no {options.split} rows; there are: {', '.join(splits)}"
        )
    return splits[options.split]


def _move(space: Space, group: int, options: ProbeOptions) -> Move:
    if options.towards is not None:
        described = space.model.schema.levels[space.level]
        other = find_group(described, options.towards)
        if other == group:
            raise ConfigError(f"--towards {options.towards}: that is the group itself")
        ends = [space.means[space.groups == one][0] for one in (group, other)]
        way = ends[1] - ends[0]
        if float(way.norm()) == 0:
            raise ConfigError(f"--towards {options.towards}: both groups lie at the same point")
        name = f"the way to {places.labels_of(described)[other]}"
        return move_along(space, group, way, name, max(options.reach, 1.2 * float(way.norm())))
    width = space.means.shape[1]
    directions, _ = space.principal()
    axes = directions if options.axes == "principal" else torch.eye(width, dtype=torch.float64)
    if options.direction >= len(axes):
        raise ConfigError(
            f"--direction {options.direction}: the space has {len(axes)}, give 0 to {len(axes) - 1}"
        )
    kind = "principal direction" if options.axes == "principal" else "coordinate"
    name = f"{kind} {options.direction}"
    return move_along(space, group, axes[options.direction], name, options.reach)


def _rows(split: Split, level: int, group: int, label: str, options: ProbeOptions) -> list[int]:
    """Return the rows asked for, or candidates of the group."""
    for row in options.row:
        if not 0 <= row < len(split):
            raise DataError(
                f"--row {row}: the {options.split} rows count from 0 to {len(split) - 1}"
            )
    if options.row:
        return list(options.row)
    own: list[int] = (split.groups[:, level] == group).nonzero().squeeze(1).tolist()
    if not own:
        raise DataError(f"{label!r} has no {options.split} rows; choose another --split, or --row")
    return own[:CANDIDATES]


def _truth(schema: Schema, y: Tensor) -> object:
    target = schema.target
    if target.kind == "class":
        return target.labels[int(y)] if target.labels is not None else int(y)
    return " of ".join(f"{value:g}" for value in y.reshape(-1).tolist())


def _ways(table: pd.DataFrame, truth: Sequence[object]) -> str:
    """Return a table for the terminal: what each row is read as at some points of the way."""
    columns = [str(name) for name in table.columns[2:]]
    shown = Table(box=None)
    shown.add_column("row", justify="right")
    shown.add_column("target")
    points: NDArray[np.int64] = np.linspace(0, POINTS - 1, 7).round().astype(int)
    for value in table["at"].iloc[points]:
        shown.add_column(f"{value:+.1f}")
    for (row, part), true in zip(table.groupby("row", sort=False), truth, strict=True):
        cells = []
        for point in points:
            values = part[columns].iloc[point]
            best = str(values.idxmax())
            cells.append(
                f"{best.removeprefix('prob_')} {values[best]:.2f}"
                if best.startswith("prob_")
                else f"{values[best]:.4g}"
            )
        shown.add_row(str(row), str(true), *cells)
    return text_of(shown)
