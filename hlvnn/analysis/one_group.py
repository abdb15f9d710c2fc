"""One group under the glass: in every trial, and in one its rows, curve and posterior."""

from __future__ import annotations

import html
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from hlvnn.analysis import group_figure
from hlvnn.analysis.latent_tables import latent_table
from hlvnn.analysis.places import find_group
from hlvnn.columns import BEST_EPOCH, EPOCH, PRIOR_SD, TEST, VAL
from hlvnn.config import in_place
from hlvnn.data.grouped import GroupedDataset
from hlvnn.data.schema import Level, Schema
from hlvnn.errors import DataError, HlvnnError, RunError
from hlvnn.records.predictions import PREDICTIONS, Predictions, level_columns, read_predictions
from hlvnn.records.run_folder import data_of_run, read_config

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from hlvnn.analysis.results import Results

COLUMNS = 12
"""Feature columns that a row of a table tells."""


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
        return self.rows.head(group_figure.SHOWN)

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
        return group_figure.draw(self)


def one_group(
    results: Results, label: object, level: str | None = None, trial: int | None = None
) -> OneGroup:
    """See `Results.group`."""
    number, schema = _asked_for(results, trial)
    place, gid = _find(schema, str(label), level)
    (found,) = some_groups(results, schema.levels[place].name, [gid], trial=number)
    return found


def some_groups(
    results: Results,
    level: str,
    gids: Sequence[int],
    *,
    trial: int | None = None,
    among: Collection[int] | None = None,
) -> Iterator[OneGroup]:
    """Yield groups of one level as `Results.group` does, what they share read once.

    gids: their numbers. among: the trials that `OneGroup.trials` tells of; None = all.
    """
    number, schema = _asked_for(results, trial)
    own = schema.levels[schema.level_index(level)]
    shared = _Shared(results, number, schema)
    tables = _at_chosen_epochs(results, level, gids, among)
    curves = results.groups.rows_of(level, gids, number)
    everyone: dict[str, pd.DataFrame] = {}
    for gid in gids:
        notes: list[str] = []
        split, rows = _rows(shared, level, gid, notes)
        if split not in everyone:
            known = bool(results.groups.files_of(number))
            everyone[split] = (
                results.groups.spread(trials=number, level=level, split=split)
                if known
                else pd.DataFrame()
            )
        confusion = pd.DataFrame()
        if schema.target.kind == "class" and len(rows):
            rows = _named(rows, schema)
            confusion = pd.crosstab(rows["y"], rows["prediction"])
        rows, pictures = _with_inputs(rows, split, shared, notes)
        yield OneGroup(
            label=str(own.label(gid)),
            level=own.name,
            gid=gid,
            trial=number,
            split=split,
            measure=results.groups.main_measure,
            trials=tables[tables["gid"] == gid].drop(columns="gid").reset_index(drop=True),
            curve=curves[curves["gid"] == gid].reset_index(drop=True),
            everyone=everyone[split],
            rows=rows,
            confusion=confusion,
            posterior=_posterior(shared, own, gid, notes),
            pictures=pictures,
            notes=notes,
        )


class _Shared:
    """What all groups of a trial share, read when it is asked for; else a sentence of why not."""

    def __init__(self, results: Results, trial: int, schema: Schema) -> None:
        self.results, self.trial, self.schema = results, trial, schema
        self.folder = Path(results.row(trial)["folder"])

    @cached_property
    def kept(self) -> Predictions | str:
        try:
            return read_predictions(self.folder) or f"the trial keeps no {PREDICTIONS}"
        except RunError as error:
            return str(error)

    @cached_property
    def data(self) -> GroupedDataset | str:
        try:
            config = in_place(read_config(self.folder), self.results.places)
            return data_of_run(self.folder, config)
        except HlvnnError as error:
            return str(error)

    @cached_property
    def latents(self) -> tuple[pd.DataFrame, set[str]] | str:
        """The posteriors of the trial, and the names of its nested latents."""
        try:
            run = self.results.run(self.trial)
            table = latent_table(self.trial, run)
        except HlvnnError as error:
            return str(error)
        parents = zip(run.model.latents, run.model.latents.parent, strict=True)
        return table, {latent.name for latent, parent in parents if parent is not None}


def _asked_for(results: Results, trial: int | None) -> tuple[int, Schema]:
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
    return number, schema


def _at_chosen_epochs(
    results: Results, level: str, gids: Sequence[int], among: Collection[int] | None
) -> pd.DataFrame:
    epochs = _chosen(results)
    if among is not None:
        epochs = {trial: epoch for trial, epoch in epochs.items() if trial in among}
    tables = results.groups.rows_of(level, gids, epochs)
    tables = tables.join(results.table.set_index("trial")[["status", "structure"]], on="trial")
    first = ["trial", "status", "structure", EPOCH, "gid", "split", "n"]
    return tables[[*first, *(name for name in tables if name in results.groups.measures)]]


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


def _rows(shared: _Shared, level: str, gid: int, notes: list[str]) -> tuple[str, pd.DataFrame]:
    """Return the split, and the group's rows in it, the worst first; empty where none are kept."""
    columns = ["loss", "y", "prediction", "log_prob"]
    kept = shared.kept
    if isinstance(kept, str):
        notes.append(f"its rows are not known: {kept}")
        return VAL, pd.DataFrame(columns=columns, index=pd.Index([], name="row"))
    split = TEST if (kept.table["split"] == TEST).any() else VAL
    is_own = (kept.table[level_columns([level])[0]] == gid) & (kept.table["split"] == split)
    found = kept.table[is_own]
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
    rows: pd.DataFrame, split: str, shared: _Shared, notes: list[str]
) -> tuple[pd.DataFrame, NDArray[Any] | None]:
    """Add what each row is, where the data can be loaded; return pictures of images, too."""
    if not len(rows):
        return rows, None
    schema, data = shared.schema, shared.data
    if isinstance(data, str):
        notes.append(f"what its rows look like is not known: {data}")
        return rows, None
    part = data.splits()[split]
    x = part.x.take(torch.from_numpy(rows.index.to_numpy(np.int64, copy=True)))
    if schema.x_kind == "image":
        images = x.numpy()[: group_figure.SHOWN]
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


def _posterior(shared: _Shared, level: Level, gid: int, notes: list[str]) -> pd.DataFrame:
    columns = ["latent", "coordinate", "mean", "sd", "prior_mean", PRIOR_SD, "shrinkage"]
    empty = pd.DataFrame(columns=columns)
    if gid >= level.size:
        notes.append("it has no training rows, and so no posterior: it is predicted by the prior")
        return empty
    if isinstance(shared.latents, str):
        notes.append(f"its posterior is not known: {shared.latents}")
        return empty
    latents, nested = shared.latents
    own = latents[(latents["level"] == level.name) & (latents["gid"] == gid)]
    if not len(own):
        notes.append(f"trial {shared.trial} has no latent of {level.name}")
        return empty
    if nested & {*own["latent"]}:
        notes.append("the prior of a nested latent lies around its parent: its mean is left out")
    at_zero = np.where(own["latent"].isin(nested) | own[PRIOR_SD].isna(), np.nan, 0.0)
    return own.assign(prior_mean=at_zero)[columns].reset_index(drop=True)
