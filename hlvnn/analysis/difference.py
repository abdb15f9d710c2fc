"""Two runs, and where they differ: settings, data, code, the first epoch, rows and groups."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hlvnn import files
from hlvnn.analysis import pairs
from hlvnn.analysis.loading import load_these
from hlvnn.analysis.results import Results
from hlvnn.columns import (
    DATA_HASH,
    EPOCH,
    GPU_PERCENT,
    MEASURES,
    ROWS_PER_SECOND,
    SECONDS,
    TEST,
    VAL,
)
from hlvnn.config import NOT_REPEATED
from hlvnn.data.schema import Schema
from hlvnn.errors import HlvnnError, RunError
from hlvnn.records.predictions import PREDICTIONS, read_predictions
from hlvnn.records.provenance import ORIGIN, code_told
from hlvnn.records.run_folder import HYPERPARAMS
from hlvnn.storage import shown_path
from hlvnn.words import text

TIMED = (SECONDS, ROWS_PER_SECOND, GPU_PERCENT)
"""Columns of metrics.csv that differ between any two runs."""
SHOWN = 10
"""Rows of each table that are printed."""
HASHED = "data"
"""What the hash of the data is called among what differs."""


@dataclass(frozen=True, repr=False)
class Difference:
    """Where run a and run b differ. Gains are of a over b: positive where a is better.

    settings: index setting, columns a and b. about: the same of data, versions, code, origin and
    network. epochs: a row per column of metrics.csv that differs, with the first epoch where it
    does, a and b then, b − a, and where it differs most (times are left out). rows: every row that
    both predicted, at the chosen epoch of each, the one on which they disagree most first: row (its
    place in the split), group, y, the prediction and log_prob of each, gain (nats). groups: those
    rows by group: group, n, gain (nats, mean), error, p (`pairs.of_groups`), the surest first.
    tests: the paired tests (`pairs.RowTest`). notes: what else is to know, in words.
    """

    a: Path
    b: Path
    settings: pd.DataFrame
    about: pd.DataFrame
    epochs: pd.DataFrame
    rows: pd.DataFrame
    groups: pd.DataFrame
    split: str = ""
    level: str = ""
    tests: tuple[pairs.RowTest, ...] = ()
    notes: list[str] = field(default_factory=list)

    @property
    def first_epoch(self) -> int | None:
        """The first epoch in which anything measured differs; None where nothing does."""
        return int(self.epochs[EPOCH].min()) if len(self.epochs) else None

    def _parts(self) -> list[tuple[str, pd.DataFrame]]:
        """Return the sections: a sentence, and a table (empty where the sentence is all)."""
        none = pd.DataFrame()
        parts = [
            (f"settings that differ: {len(self.settings)}", _named(self.settings)),
            ("data, versions, code and network" if len(self.about) else
             "data, versions, code and network are the same, as far as they are recorded",
             _named(self.about)),
        ]  # fmt: skip
        if self.first_epoch is None:
            parts.append(("no epoch that both have differs", none))
        else:
            at = self.epochs[self.epochs[EPOCH] == self.first_epoch]
            parts.append((f"they differ from epoch {self.first_epoch} on", at))
        parts += [(_told(test, self.split), none) for test in self.tests]
        if len(self.rows):
            differ = self.rows[self.rows["gain"] != 0]
            where = f"{self.split} rows on which they disagree most ({len(differ)} of "
            parts.append((f"{where}{len(self.rows)} differ)", differ))
            if len(self.groups):
                apart = self.groups[self.groups["gain"] != 0]
                title = f"groups ({self.level}) on which they disagree most, the surest first"
                parts.append((title, apart))
        return [*parts, *((note, none) for note in self.notes)]

    def __str__(self) -> str:
        lines = [f"a: {shown_path(self.a)}", f"b: {shown_path(self.b)}"]
        for sentence, table in self._parts():
            lines += ["", sentence]
            if len(table):
                shown = table.head(SHOWN) if EPOCH not in table else table
                lines.append(shown.to_string(index=False, float_format="{:.6g}".format))
                if len(shown) < len(table):
                    lines.append(f"… {len(table) - len(shown)} more")
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        parts = [f"<p>a: {html.escape(str(self.a))}<br>b: {html.escape(str(self.b))}</p>"]
        for sentence, table in self._parts():
            parts.append(f"<p>{html.escape(sentence)}</p>")
            if len(table):
                parts.append(table.head(SHOWN).to_html(index=False, border=0))
        return "".join(parts)


def diff(a: Path | str, b: Path | str, *, split: str | None = None) -> Difference:
    """Return where two runs, or trials of any sweeps, differ.

    a, b: their folders or addresses. split: whose rows are compared; None = test rows where both
    keep some, else validation rows. What a run does not keep (predictions, the commit of older
    runs) is said to be absent in `notes`.
    Raises `RunError` for a folder that is no run, or whose record cannot be read.
    """
    results = load_these(a, b)
    folders = [Path(str(folder)) for folder in results.table["folder"]]
    records = [_record(folder) for folder in folders]
    notes = [*results.problems]
    settings = _settings(records, notes)
    about = _about(records)
    if any(code_told(record) is None for record in records):
        names = [n for n, record in zip("ab", records, strict=True) if code_told(record) is None]
        notes.append(f"the commit of the code is not recorded of {' and '.join(names)}")
    epochs = _epochs(results, notes)
    none = pd.DataFrame()
    made = Difference(folders[0], folders[1], settings, about, epochs, none, none, notes=notes)
    return _with_rows(made, results, split)


def _record(folder: Path) -> dict[str, Any]:
    record = files.read_json(folder / HYPERPARAMS)
    if not isinstance(record, dict) or not isinstance(record.get("config"), dict):
        raise RunError(f"{folder / HYPERPARAMS} holds no configuration; restore it from a copy")
    return record


def _settings(records: list[dict[str, Any]], notes: list[str]) -> pd.DataFrame:
    """Return the settings that differ; those that one alone has recorded are told."""
    first, second = (record["config"] for record in records)
    shared = [name for name in first if name in second and name not in NOT_REPEATED]
    found = {
        name: (text(first[name]), text(second[name]))  # None, too, is a value
        for name in shared
        if first[name] != second[name]
    }
    for name, own, other in (("a", first, second), ("b", second, first)):
        if alone := [one for one in own if one not in other]:
            listed = ", ".join(f"{one}={text(own[one])}" for one in alone)
            notes.append(f"settings that only {name} records: {listed}")
    return _table(found, "setting")


def _about(records: list[dict[str, Any]]) -> pd.DataFrame:
    """Return what differs of data, versions, code, origin and network."""
    rows: list[dict[str, str]] = []
    for record in records:
        versions = record.get("versions")
        known: dict[str, object] = {
            HASHED: record.get(DATA_HASH),
            "code": code_told(record),
            ORIGIN: record.get(ORIGIN),
            **{name: record.get(name) for name in ("model", "latents", "parameters")},
            **(versions if isinstance(versions, dict) else {}),
        }
        rows.append({k: text(v) for k, v in known.items() if v is not None})
    first, second = rows
    names = dict.fromkeys([*first, *second])
    return _table(
        {n: (first.get(n), second.get(n)) for n in names if first.get(n) != second.get(n)}, "what"
    )


def _table(found: Mapping[str, tuple[Any, Any]], name: str) -> pd.DataFrame:
    rows = [(None if v is None else text(v), None if w is None else text(w))
            for v, w in found.values()]  # fmt: skip
    index = pd.Index(list(found), name=name, dtype=object)
    return pd.DataFrame(rows, index=index, columns=["a", "b"], dtype=object)


def _named(table: pd.DataFrame) -> pd.DataFrame:
    return table.fillna("(not recorded)").reset_index()


def _epochs(results: Results, notes: list[str]) -> pd.DataFrame:
    """Return the columns of metrics.csv that differ, with the first epoch where each does."""
    columns = ["column", EPOCH, "a", "b", "difference", "most", "at_epoch"]
    try:
        frames = [results.metrics_of(number).set_index(EPOCH) for number in (0, 1)]
    except RunError:
        notes.append("one of them has no epoch that can be read, so epochs are not compared")
        return pd.DataFrame(columns=columns)
    own = [frame.drop(columns=["trial", *TIMED], errors="ignore") for frame in frames]
    first, second = (frame.dropna(axis=1, how="all") for frame in own)
    lengths = [int(frame.index.max()) for frame in frames]
    if lengths[0] != lengths[1]:
        notes.append(f"a has {lengths[0]} epochs, b {lengths[1]}")
    both = first.index.intersection(second.index)
    shared = [name for name in first if name in second]
    if others := sorted({*first, *second} - {*shared}):
        notes.append(f"measured by one of them only: {', '.join(map(str, others))}")
    numbers = both.to_numpy()
    rows = []
    for name in shared:
        mine, theirs = (frame[name].reindex(both).to_numpy(np.float64) for frame in (first, second))
        apart = np.flatnonzero((mine != theirs) & ~(np.isnan(mine) & np.isnan(theirs)))
        if not len(apart):
            continue
        at, gap = apart[0], theirs - mine
        most = apart[np.abs(np.nan_to_num(gap[apart])).argmax()]
        row = [name, numbers[at], mine[at], theirs[at], gap[at], gap[most], numbers[most]]
        rows.append(row)
    frame = pd.DataFrame(rows, columns=columns)
    return frame.sort_values(EPOCH, kind="stable", ignore_index=True)


def _with_rows(made: Difference, results: Results, split: str | None) -> Difference:
    """Add the rows and groups on which the two disagree, or why they are not known."""
    notes = made.notes
    found = []
    for name, folder in (("a", made.a), ("b", made.b)):
        try:
            kept = read_predictions(folder)
        except RunError as error:
            notes.append(f"rows are not compared: {error}")
            kept = None
        else:
            if kept is None:
                notes.append(
                    f"rows are not compared: {PREDICTIONS} of {name} is absent (it ran before "
                    "there was any, or with --keep-predictions 0)"
                )
        found.append(kept)
    one, other = found
    if one is None or other is None:
        return made
    shared = {*one.table["split"]} & {*other.table["split"]}
    split = split or (TEST if TEST in shared else VAL)
    epochs = one.epoch, other.epoch
    lengths = tuple(int(n) for n in results.table["epochs"])
    fair = pairs.Fair(min(lengths), (lengths[0], lengths[1]), epochs, ({}, {}))
    if epochs[0] != epochs[1]:
        notes.append(f"rows are those of their chosen epochs: a {epochs[0]}, b {epochs[1]}")
    schema = results.groups.schemas[0]
    level = results.groups.lowest_level
    measures = (
        ["acc", "loss"] if schema is None or schema.target.kind == "class" else ["mse", "loss"]
    )
    if schema is not None and schema.target.trials is not None:
        measures = ["loss"]
    try:
        parts = {m: pairs.rows_of_pair(results, fair, (0, 1), split, level, m) for m in measures}
    except HlvnnError as error:
        said = str(error).replace("trials 0 and 1", "a and b")
        notes.append(f"rows are not compared: {said}")
        return made
    tests = tuple(pairs.row_test(*parts[measure], measure) for measure in measures)
    rows = parts["loss"][0]
    errors = pairs.of_groups(rows, "loss").set_index("gid")
    by_group = rows.groupby("gid")["gain"].agg(["size", "mean"])
    groups = by_group.rename(columns={"size": "n", "mean": "gain"}).join(errors).reset_index()
    groups.insert(0, "group", _labels(schema, groups["gid"]))
    groups = groups.assign(far=groups["gain"].abs()).sort_values(
        ["p", "far"], ascending=[True, False], kind="stable", ignore_index=True
    )
    rows.insert(0, "group", _labels(schema, rows["gid"]))
    if schema is not None and schema.target.labels is not None:
        names = dict(enumerate(schema.target.labels))
        for column in ("y", "prediction_1", "prediction_2"):
            rows[column] = rows[column].map(lambda value: names.get(value, value))
    rows = rows.rename(columns=lambda name: name.replace("_1", "_a").replace("_2", "_b"))
    rows = rows.iloc[np.argsort(-rows["gain"].abs().to_numpy(), kind="stable")]
    ordered = ["row", "group", "gid", "y", "prediction_a", "prediction_b", "log_prob_a"]
    rows = rows[[*ordered, "log_prob_b", "gain"]].reset_index(drop=True)
    groups = groups.drop(columns="far")
    return replace(made, rows=rows, groups=groups, split=split, level=level or "", tests=tests)


def _labels(schema: Schema | None, gids: pd.Series[Any]) -> list[object]:
    """Return what groups of the lowest level were called; their numbers where that is not known."""
    if schema is None:
        return list(gids)
    return [schema.levels[0].label(int(gid)) if gid >= 0 else "" for gid in gids]


def _told(test: pairs.RowTest, split: str) -> str:
    """Return a paired test as a sentence."""
    error = f" ± {test.group_error:.3g} over groups" if np.isfinite(test.group_error) else ""
    kind = "McNemar's exact test" if test.measure == "acc" else "paired t test"
    right = f"; right in a only {test.won}, in b only {test.lost}" if test.measure == "acc" else ""
    p = "" if np.isnan(test.p) else f"; p = {test.p:.2g} over rows ({kind})"
    cut = "" if test.rows == test.all_rows else f" of {test.all_rows}"
    return (
        f"{MEASURES[test.measure].title} on {test.rows}{cut} {split} rows, a better than b by: "
        f"{test.gain:+.4g} ± {test.error:.3g} over rows{error}{right}{p}"
    )
