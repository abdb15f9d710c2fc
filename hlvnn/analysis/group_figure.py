"""The figure of one group: worst rows, confusion matrix, curve, posterior on its prior."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hlvnn.analysis import canvas
from hlvnn.columns import EPOCH, MEASURES, PRIOR_SD, WORST_DECILE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

    from hlvnn.analysis.one_group import OneGroup

SHOWN = 10
"""Worst rows that are drawn, and shown in a notebook."""
LETTERS = 80
"""Last characters of a row's text that are drawn."""


def draw(one: OneGroup) -> Figure:
    """Draw a group as `OneGroup.figure` does."""
    made = canvas.new_figure(10.5, 7.5)
    made.suptitle(f"{one.level} {one.label}, trial {one.trial}, {one.split} rows")
    grid: Any = made.subfigures(2, 2)
    rows, confusion, curve, posterior = grid.flat
    _draw_rows(rows, one)
    for part, draw_part in ((confusion, _draw_confusion), (curve, _draw_curve)):
        draw_part(part.subplots(), one)
    _draw_posterior(posterior.subplots(), one)
    return made


def _draw_rows(part: SubFigure, one: OneGroup) -> None:
    if one.pictures is not None:
        grid = list(part.subplots(2, SHOWN // 2, squeeze=False).flat)
        for ax in grid:
            ax.axis("off")
        for ax, picture, row in zip(grid, one.pictures, one.worst.itertuples(), strict=False):
            ax.imshow(picture, cmap="gray_r")
            ax.set_title(f"{row.y} as {row.prediction}\n{row.loss:.2f} nats", fontsize=7)
        part.suptitle("worst rows: what it is as what was predicted", fontsize=9)
        return
    axes = part.subplots()
    axes.axis("off")
    axes.set_title("worst rows: nats, what it is as what was predicted", fontsize=9)
    for place, row in enumerate(one.worst.itertuples()):
        text = str(getattr(row, "input", ""))[-LETTERS:].replace("\n", "⏎")
        line = f"{row.loss:.2f}  {row.y!s:.9} as {row.prediction!s:.9}  {text}"
        axes.text(0, 1 - place / SHOWN, line, fontsize=6, family="monospace", va="top")


def _draw_confusion(axes: Axes, one: OneGroup) -> None:
    axes.set_title("confusion" if len(one.confusion) else "", fontsize=9)
    if not len(one.confusion):
        axes.axis("off")
        return
    counts = one.confusion.to_numpy()
    axes.imshow(counts, cmap="Blues")
    axes.set_xticks(range(counts.shape[1]), [str(c) for c in one.confusion.columns], fontsize=6)
    axes.set_yticks(range(counts.shape[0]), [str(c) for c in one.confusion.index], fontsize=6)
    for y, x in zip(*np.nonzero(counts), strict=True):
        dark = counts[y, x] > counts.max() / 2
        colour = "white" if dark else "black"
        at = {"ha": "center", "va": "center"}
        axes.annotate(str(counts[y, x]), (x, y), color=colour, fontsize=6, **at)  # type: ignore[arg-type]
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")


def _draw_curve(axes: Axes, one: OneGroup) -> None:
    own = one.curve[one.curve["split"] == one.split]
    if len(one.everyone):
        x = one.everyone[EPOCH]
        axes.fill_between(
            x, one.everyone["p10"], one.everyone["p90"], color=canvas.GREY, alpha=0.3, linewidth=0
        )
        axes.plot(x, one.everyone["p50"], color=canvas.GREY, label="median group, 10 to 90 %")
        weak = one.everyone[WORST_DECILE]
        axes.plot(x, weak, color=canvas.GREY, linestyle="--", label="weakest tenth")
    if len(own):
        axes.plot(
            own[EPOCH], own[one.measure], color=canvas.PALETTE[1], marker="o", label=one.label
        )
    axes.set_xlabel("epoch")
    axes.set_ylabel(MEASURES[one.measure].title)
    axes.legend(fontsize=7)


def _draw_posterior(axes: Axes, one: OneGroup) -> None:
    if not len(one.posterior):
        axes.axis("off")
        return
    table = one.posterior
    x = np.arange(len(table))
    centre = table["prior_mean"].fillna(0.0)
    axes.bar(
        x, 2 * table[PRIOR_SD], bottom=centre - table[PRIOR_SD], color=canvas.GREY, alpha=0.35,
        label="prior ± SD",
    )  # fmt: skip
    axes.errorbar(
        x, table["mean"], table["sd"], fmt="o", color=canvas.PALETTE[0], label="posterior ± SD"
    )
    names = [f"{row.latent} {row.coordinate}" for row in table.itertuples()]
    axes.set_xticks(x, names, rotation=90, fontsize=6)
    axes.legend(fontsize=7)
