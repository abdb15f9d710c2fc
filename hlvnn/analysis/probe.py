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
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hlvnn.analysis import canvas
from hlvnn.analysis.latent_space import Space
from hlvnn.data.grouped import Schema
from hlvnn.models.model import HierarchicalModel

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
