"""What a model reads in the same row as the z of its group moves.

    python -m hlvnn.analysis probe RUN --group W --direction 0

The row is an image, a passage or a line of a table. z moves from the group's posterior mean along a
principal direction of the groups (0 is the one along which they differ most), a coordinate, or
towards another group, in prior SDs; everything else stays where it is.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydantic import Field
from rich.table import Table
from torch import Tensor

from hlvnn.analysis import canvas, opened
from hlvnn.analysis.latent_space import Space, space_of
from hlvnn.analysis.opened import RunOptions, find_group, level_with_latents
from hlvnn.data.grouped import Schema, Split
from hlvnn.errors import ConfigError, DataError
from hlvnn.model import HierarchicalModel
from hlvnn.show import text_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

logger = logging.getLogger("hlvnn")

POINTS = 41
"""Values of z along the direction."""
CANDIDATES = 400
"""Rows of the group among which those that react most are looked for."""
CLASSES = 5
"""Most classes that a figure names: those that are likeliest somewhere on the way."""
LIKELY = 0.02
"""Probability that a class has to reach there to be drawn."""


@dataclass(frozen=True)
class Move:
    """A move of a group's z through its latent space.

    at: [T] float64, steps in prior SDs (0 = the posterior mean); direction: [D] of length 1.
    sd: the posterior SD along it; others: [G] where all groups' means lie along it, 0 = this one's.
    """

    at: Tensor
    direction: Tensor
    sd: float
    others: Tensor
    name: str


def move_along(space: Space, group: int, direction: Tensor, name: str, reach: float) -> Move:
    """Return a move of `reach` prior SDs to both sides of a group's mean."""
    direction = direction / direction.norm()
    own = (space.groups == group).nonzero().squeeze(1)
    others = (space.means - space.means[own]) @ direction
    sd = float(space.covariances(direction[None])[own].sqrt())
    at = torch.linspace(-reach, reach, POINTS, dtype=torch.float64)
    return Move(at, direction, sd, others, name)


@torch.no_grad()
def responses(
    model: HierarchicalModel, space: Space, z: Sequence[Tensor], move: Move, x: Tensor
) -> Tensor:
    """Return what the model reads in rows x [B, …] as z moves: [T, B, K], float64.

    z: [Z] per latent, where the move has its 0. Classes: their probabilities; a real target: its
    mean, K = 1, in the user's units.
    """
    moves = move.at[:, None] * move.direction
    draws = [part.unsqueeze(1).expand(-1, len(x), -1) for part in space.moved(list(z), moves)]
    model.eval()
    eta = model(x.to(model.device), draws).expand(len(moves), -1, -1)
    if model.likelihood.target == "class":
        return model.likelihood.probabilities(eta).double().cpu()
    mean: Tensor = model.likelihood(eta).mean.double().cpu()
    return mean if mean.dim() == 3 else mean.unsqueeze(-1)


def most_moved(answers: Tensor, count: int) -> list[int]:
    """Return the rows of answers [T, B, K] that change most on the way, the largest change first.

    The change is the largest total variation distance between two points of the way (of a real
    target: its range).
    """
    changes = []
    for row in range(answers.shape[1]):
        own = answers[:, row]
        changes.append(float(torch.cdist(own, own, p=1).max()) / 2)
    return np.argsort(-np.array(changes), kind="stable")[:count].tolist()


def response_table(
    answers: Tensor, move: Move, rows: Sequence[int], schema: Schema
) -> pd.DataFrame:
    """Return columns row, at (prior SDs), then prob_<label> for each class, or mean."""
    target = schema.target
    if target.kind == "class":
        names = [f"prob_{label}" for label in target.labels or range(answers.shape[-1])]
    else:
        names = ["mean"]
    tables = []
    for k, row in enumerate(rows):
        table = pd.DataFrame(answers[:, k].numpy(), columns=names)
        table.insert(0, "row", row)
        table.insert(1, "at", move.at.numpy())
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def draw_responses(
    table: pd.DataFrame, move: Move, x: Tensor, truth: Sequence[object], schema: Schema
) -> Figure:
    """Draw each row and, beside it, what the model reads in it along the way."""
    rows = list(dict.fromkeys(table["row"]))
    figure = canvas.new_figure(9, 0.8 + 2.6 * len(rows))
    grid = figure.subplots(len(rows), 2, squeeze=False, width_ratios=(1, 2.6))
    for k, row in enumerate(rows):
        shown, axes = grid[k]
        _show_row(shown, x[k], schema)
        shown.set_title(f"row {row}, {schema.target.name}: {truth[k]}", fontsize=9)
        part = table[table["row"] == row]
        columns = [str(name) for name in part.columns[2:]]
        highest = part[columns].max().nlargest(CLASSES)
        likely = highest[highest >= LIKELY].index if len(columns) > 1 else highest.index
        for column in [name for name in columns if name in likely]:
            label = column.removeprefix("prob_") if schema.target.kind == "class" else column
            axes.plot(part["at"], part[column], label=label)
        axes.axvline(0, color="black", lw=0.8)
        axes.axvspan(-move.sd, move.sd, color="black", alpha=0.08)
        inside = move.others[(move.others >= move.at[0]) & (move.others <= move.at[-1])]
        axes.plot(inside, np.zeros(len(inside)), "|", color="black", ms=9, transform=_low(axes))
        axes.set_xlim(float(move.at[0]), float(move.at[-1]))
        if schema.target.kind == "class":
            axes.set_ylim(-0.02, 1.02)
            axes.set_ylabel("probability")
        else:
            axes.set_ylabel(f"mean of {schema.target.name}")
        axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
        axes.grid(alpha=0.25)
    grid[-1][1].set_xlabel(f"z moves along {move.name}, in prior SDs")
    figure.suptitle(
        "line: the group's posterior mean, band: its SD; ticks: where all groups lie", fontsize=9
    )
    return figure


def _low(axes: Axes) -> Any:
    """Return coordinates with the data's x, and y as a share of the axes' height."""
    return axes.get_xaxis_transform()


def _show_row(axes: Axes, x: Tensor, schema: Schema) -> None:
    if schema.x_kind == "image":
        picture = x if x.dim() == 2 else x.movedim(0, -1).squeeze(-1)
        axes.imshow(picture.numpy(), cmap="gray_r" if picture.dim() == 2 else None)
        axes.set_xticks([])
        axes.set_yticks([])
        return
    axes.axis("off")
    if schema.x_kind == "tokens" and schema.vocabulary is not None:
        words = "".join(schema.vocabulary[token] for token in x.tolist())
        lines = [words[i : i + 28] for i in range(0, len(words), 28)]
    else:
        names = schema.columns or tuple(f"x{k}" for k in range(x.numel()))
        lines = [f"{name} = {value:.4g}" for name, value in zip(names, x.tolist(), strict=False)]
        lines = lines if len(lines) <= 12 else [*lines[:11], f"and {len(lines) - 11} more"]
    axes.text(0, 1, "\n".join(lines), va="top", fontsize=7, family="monospace")


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
    label = str(opened.labels_of(described)[group])
    data = opened.data_of(run)
    split = _split(data.splits(), options)
    space = space_of(run.model, level)
    move = _move(space, group, options)
    rows = _rows(split, level, group, label, options)
    x = split.x.take(torch.tensor(rows))
    place = opened.whereabouts(data.train, run.schema, level)[group].tolist()
    upper = [None if i < level or found < 0 else found for i, found in enumerate(place)]
    answers = responses(run.model, space, opened.mean_z(run.model, upper), move, x)
    if not options.row:
        chosen = most_moved(answers, options.count)
        rows, x, answers = [rows[i] for i in chosen], x[chosen], answers[:, chosen]
    table = response_table(answers, move, rows, run.schema)
    truth = [_truth(run.schema, split.y[row]) for row in rows]
    out = options.target(f"probe_{described.name}_{opened.plain(label)}_{opened.plain(move.name)}")
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
        name = f"the way to {opened.labels_of(described)[other]}"
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
