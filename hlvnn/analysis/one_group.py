"""One group under the glass: in every trial, and in one its rows, curve and posterior."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from hlvnn.analysis import canvas
from hlvnn.analysis.places import find_group
from hlvnn.columns import BEST_EPOCH, EPOCH, MEASURES, PRIOR_SD, TEST, VAL, WORST_DECILE
from hlvnn.config import in_place
from hlvnn.data.grouped import GroupedDataset
from hlvnn.data.schema import Level, Schema
from hlvnn.errors import DataError, HlvnnError, RunError
from hlvnn.records.predictions import PREDICTIONS, level_columns, read_predictions
from hlvnn.records.run_folder import data_of_run, read_config

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

    from hlvnn.analysis.results import Results

SHOWN = 10
"""Worst rows that are drawn, and shown in a notebook."""
COLUMNS = 12
"""Feature columns that a row of a table tells."""
LETTERS = 80
"""Last characters of a row's text that are drawn."""


@dataclass(frozen=True, repr=False)
class OneGroup:
    """A group, with dataframes.

    trials: a row per trial and split at its chosen epoch: trial, status, structure, epoch, split,
    n, and the measures of this group. Of one trial, the best unless another was asked for:

    - curve: a row per epoch and split; everyone: all groups then (`GroupTables.spread`);
    - rows: its rows of `split`, the worst first: index row (place in the split), loss (nats), y and
      prediction (labels where the data have some), log_prob, and input (the row's text, or its
      columns) where the data can be loaded; pictures: of the first rows, where they are images;
    - confusion: counts, a row per true class and a column per predicted one (classes alone);
    - posterior: latent, coordinate, mean, sd, prior_mean, prior_sd, shrinkage.

    notes: what could not be had, and why.
    """

    label: str
    level: str
    gid: int
    trial: int
    split: str
    measure: str
    trials: pd.DataFrame
    curve: pd.DataFrame
    everyone: pd.DataFrame
    rows: pd.DataFrame
    confusion: pd.DataFrame
    posterior: pd.DataFrame
    pictures: NDArray[Any] | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def worst(self) -> pd.DataFrame:
        """The rows that are predicted worst."""
        return self.rows.head(SHOWN)

    def __repr__(self) -> str:
        right = ""
        if len(self.confusion):
            hit = int((self.rows["y"] == self.rows["prediction"]).sum())
            right = f", {hit} of them right"
        return (
            f"{self.level} {self.label} (gid {self.gid}), trial {self.trial}: {len(self.rows)} "
            f"{self.split} rows{right}" + "".join(f"\n{note}" for note in self.notes)
        )

    def _repr_html_(self) -> str:
        parts = [f"<p>{html.escape(repr(self))}</p>"]
        for title, table in (
            ("worst rows", self.worst.reset_index()),
            ("confusion (rows: true)", self.confusion.reset_index()),
            ("posterior", self.posterior),
            ("in every trial", self.trials),
        ):
            if len(table):
                parts.append(f"<p>{title}</p>" + table.to_html(index=False, border=0))
        return "".join(parts)

    def figure(self) -> Figure:
        """Draw the worst rows, the confusion matrix, the curve, and the posterior on its prior."""
        made = canvas.new_figure(10.5, 7.5)
        made.suptitle(f"{self.level} {self.label}, trial {self.trial}, {self.split} rows")
        grid: Any = made.subfigures(2, 2)
        rows, confusion, curve, posterior = grid.flat
        _draw_rows(rows, self)
        for part, draw in ((confusion, _draw_confusion), (curve, _draw_curve)):
            draw(part.subplots(), self)
        _draw_posterior(posterior.subplots(), self)
        return made


def one_group(
    results: Results, label: object, level: str | None = None, trial: int | None = None
) -> OneGroup:
    """See `Results.group`."""
    number = results.best_trial if trial is None else trial
    if number is None:
        raise RunError(f"{results.path}: no trial has a result yet")
    folder = results.row(number)["folder"]
    schema = None if pd.isna(folder) else results.groups.schemas[number]
    if schema is None:
        raise RunError(
            f"what the groups of trial {number} are called is not known (its folder or its "
            "schema.json is gone); restore it from a copy"
        )
    place, gid = _find(schema, str(label), level)
    own = schema.levels[place]
    tables = results.groups.of_group(own.name, gid, _chosen(results))
    about = results.table.set_index("trial")[["status", "structure"]]
    tables = tables.join(about, on="trial")
    first = ["trial", "status", "structure", EPOCH, "split", "n"]
    tables = tables[[*first, *(name for name in tables if name in results.groups.measures)]]
    epochs = dict.fromkeys(results.groups.files_of(number))
    curve = results.groups.of_group(own.name, gid, {}, whole=number)
    notes: list[str] = []
    split, rows = _rows(Path(folder), own.name, gid, notes)
    measure = results.groups.main_measure
    everyone = pd.DataFrame()
    if epochs:
        everyone = results.groups.spread(trials=number, level=own.name, split=split)
    confusion = pd.DataFrame()
    if schema.target.kind == "class" and len(rows):
        rows = _named(rows, schema)
        confusion = pd.crosstab(rows["y"], rows["prediction"])
    rows, pictures = _with_inputs(results, rows, split, Path(folder), schema, notes)
    posterior = _posterior(results, number, own, gid, notes)
    return OneGroup(
        label=str(own.label(gid)),
        level=own.name,
        gid=gid,
        trial=number,
        split=split,
        measure=measure,
        trials=tables,
        curve=curve,
        everyone=everyone,
        rows=rows,
        confusion=confusion,
        posterior=posterior,
        pictures=pictures,
        notes=notes,
    )


def _find(schema: Schema, words: str, level: str | None) -> tuple[int, int]:
    """Return the level and the number of a group; without a level the lowest that has it."""
    if level is not None:
        place = schema.level_index(level)
        return place, _number(schema.levels[place], words)
    first: DataError | None = None
    for place, one in enumerate(schema.levels):
        try:
            return place, _number(one, words)
        except DataError as error:
            first = first or error
    assert first is not None
    raise first


def _number(level: Level, words: str) -> int:
    new = [str(label) for label in level.new]
    return level.size + new.index(words) if words in new else find_group(level, words)


def _chosen(results: Results) -> dict[int, int]:
    at = results.table.get(BEST_EPOCH, pd.Series(np.nan, results.table.index))
    pairs = zip(results.table["trial"], at, strict=True)
    return {int(trial): int(epoch) for trial, epoch in pairs if not pd.isna(epoch)}


def _rows(folder: Path, level: str, gid: int, notes: list[str]) -> tuple[str, pd.DataFrame]:
    """Return the split, and the group's rows in it, the worst first; empty where none are kept."""
    columns = ["loss", "y", "prediction", "log_prob"]
    empty = pd.DataFrame(columns=columns, index=pd.Index([], name="row"))
    try:
        kept = read_predictions(folder)
    except RunError as error:
        notes.append(f"its rows are not known: {error}")
        return VAL, empty
    if kept is None:
        notes.append(f"its rows are not known: the trial keeps no {PREDICTIONS}")
        return VAL, empty
    table = kept.table[kept.table[level_columns([level])[0]] == gid]
    split = TEST if (kept.table["split"] == TEST).any() else VAL
    found = table[table["split"] == split]
    if (there := int((kept.table["split"] == split).sum())) < kept.all_rows.get(split, there):
        notes.append(f"{PREDICTIONS} keeps {there:,} of {kept.all_rows[split]:,} {split} rows")
    rows = found.assign(loss=-found["log_prob"]).set_index("row")[columns]
    return split, rows.sort_values("loss", ascending=False, kind="stable")


def _named(rows: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    labels = schema.target.labels
    if labels is None:
        return rows
    names = {name: rows[name].map(lambda value: labels[int(value)]) for name in ("y", "prediction")}
    return rows.assign(**names)


def _with_inputs(
    results: Results, rows: pd.DataFrame, split: str, folder: Path, schema: Schema, notes: list[str]
) -> tuple[pd.DataFrame, NDArray[Any] | None]:
    """Add what each row is, where the data can be loaded; return pictures of images, too."""
    if not len(rows):
        return rows, None
    try:
        data: GroupedDataset = data_of_run(folder, in_place(read_config(folder), results.places))
    except HlvnnError as error:
        notes.append(f"what its rows look like is not known: {error}")
        return rows, None
    part = data.splits()[split]
    x = part.x.take(torch.from_numpy(rows.index.to_numpy(np.int64, copy=True)))
    if schema.x_kind == "image":
        images = x.numpy()[:SHOWN]
        if images.ndim == 4:  # [R, C, H, W]
            images = images[:, 0] if images.shape[1] == 1 else images.transpose(0, 2, 3, 1)
        return rows, images
    if schema.x_kind == "tokens":
        words = schema.vocabulary
        texts = [
            "".join(words[t] for t in row) if words is not None else " ".join(map(str, row))
            for row in x.tolist()
        ]
        return rows.assign(input=texts), None
    names = schema.columns or tuple(f"x{k}" for k in range(x.shape[1]))
    more = "" if len(names) <= COLUMNS else ", …"
    texts = [
        ", ".join(f"{n}={v:.4g}" for n, v in zip(names[:COLUMNS], row, strict=False)) + more
        for row in x.tolist()
    ]
    return rows.assign(input=texts), None


def _posterior(
    results: Results, trial: int, level: Level, gid: int, notes: list[str]
) -> pd.DataFrame:
    columns = ["latent", "coordinate", "mean", "sd", "prior_mean", PRIOR_SD, "shrinkage"]
    empty = pd.DataFrame(columns=columns)
    if gid >= level.size:
        notes.append("it has no training rows, and so no posterior: it is predicted by the prior")
        return empty
    try:
        run = results.run(trial)
        latents = results.latents(trial)
    except HlvnnError as error:
        notes.append(f"its posterior is not known: {error}")
        return empty
    own = latents[(latents["level"] == level.name) & (latents["gid"] == gid)]
    if not len(own):
        notes.append(f"trial {trial} has no latent of {level.name}")
        return empty
    nested = {
        latent.name
        for latent, parent in zip(run.model.latents, run.model.latents.parent, strict=True)
        if parent is not None
    }
    if nested & {*own["latent"]}:
        notes.append("the prior of a nested latent lies around its parent: its mean is left out")
    at_zero = np.where(own["latent"].isin(nested) | own[PRIOR_SD].isna(), np.nan, 0.0)
    return own.assign(prior_mean=at_zero)[columns].reset_index(drop=True)


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
