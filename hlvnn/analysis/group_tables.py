"""The per-group tables of many trials, read lazily: by column, epoch and trial.

A sweep of 500 trials may hold 90 million rows, so nothing is read before it is asked for, and of a
file only the columns asked for. Files of other trials and epochs are not opened.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hlvnn.data.schema import Schema
from hlvnn.errors import RunError, unknown
from hlvnn.runs import STATS

COLUMNS = ("trial", "epoch", "level", "gid", "split", "n")
"""Columns of every table; then acc and f1, or mse, and loss."""
BETTER_HIGH = ("acc", "f1")
"""Measures that are better when they are higher; the others are better when they are lower."""
WORST = 0.1
"""The share of groups that `spread` calls the weakest."""
QUANTILES = {"p10": 0.1, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p90": 0.9}
EPOCH_FILE = re.compile(r"epoch_(\d+)\.parquet")


class GroupTables:
    """The per-group tables of some trials.

    folders: of each trial by its number; schemas: what a trial's groups were called. Files that
    cannot be read are left out and told in `problems`.
    """

    def __init__(self, folders: Mapping[int, Path], schemas: Mapping[int, Schema | None]) -> None:
        self.folders = dict(folders)
        self.schemas = schemas
        self.problems: list[str] = []

    @cached_property
    def files(self) -> dict[tuple[int, int], Path]:
        """The file of each trial and epoch, in order."""
        found = {}
        for trial, folder in sorted(self.folders.items()):
            for path in sorted((folder / STATS).glob("epoch_*.parquet")):
                if number := EPOCH_FILE.fullmatch(path.name):
                    found[trial, int(number[1])] = path
        return found

    @cached_property
    def schema(self) -> pa.Schema:
        """Columns and types of the tables; empty where there is none."""
        first: dict[int, Path] = {}
        for (trial, _), path in self.files.items():
            first.setdefault(trial, path)
        known = []
        for path in first.values():
            try:
                known.append(pq.read_schema(path).remove_metadata())
            except (pa.ArrowException, OSError) as error:
                self._tell(path, error)
        if not known:
            return pa.schema([])
        fields = pa.unify_schemas(known, promote_options="permissive")
        return fields.insert(0, pa.field("trial", pa.int64()))

    @property
    def measures(self) -> list[str]:
        """What is measured of each group: acc, f1 and loss, or mse and loss."""
        return [name for name in self.schema.names if name not in COLUMNS]

    @property
    def main_measure(self) -> str:
        """The measure that says how a group fares: acc, or mse."""
        return "acc" if "acc" in self.schema.names else "mse"

    def dataset(
        self, trials: Iterable[int] | None = None, epochs: Iterable[int] | None = None
    ) -> ds.Dataset:
        """Return the tables as a pyarrow dataset, for queries of your own.

        Columns `trial`, `epoch`, `level`, `gid`, `split`, `n` (rows), the measures.
        """
        trials = None if trials is None else set(trials)
        epochs = None if epochs is None else set(epochs)
        return self._dataset(
            {
                (trial, epoch): path
                for (trial, epoch), path in self.files.items()
                if (trials is None or trial in trials) and (epochs is None or epoch in epochs)
            }
        )

    def _dataset(self, files: Mapping[tuple[int, int], Path]) -> ds.Dataset:
        """Return files as a dataset that knows of each its trial and epoch before it is opened."""
        file_format = ds.ParquetFileFormat()
        local = pyarrow.fs.LocalFileSystem()
        fragments = [
            file_format.make_fragment(
                str(path),
                filesystem=local,
                partition_expression=(ds.field("trial") == trial) & (ds.field("epoch") == epoch),
            )
            for (trial, epoch), path in files.items()
        ]
        return ds.FileSystemDataset(fragments, self.schema, file_format, filesystem=local)

    def read(
        self,
        columns: Iterable[str] | None = None,
        *,
        trials: Iterable[int] | None = None,
        epochs: Iterable[int] | None = None,
        level: str | None = None,
        split: str | None = None,
        labels: bool = False,
    ) -> pd.DataFrame:
        """Return the tables asked for as one frame: a row per trial, epoch, level, group and split.

        columns: None = all: `trial`, `epoch`, `level`, `gid`, `split`, `n` (rows of the group in
        the split), then `acc` and `f1`, or `mse`, and `loss` (nats a row). labels: add `label`, the
        group's original name. Raises `RunError` for an unknown column.
        """
        known = self.schema.names
        wanted = list(known if columns is None else columns)
        for name in wanted:
            if name not in known and known:
                raise RunError(f"group tables: {unknown('column', name, known)}")
        needed = wanted + [n for n in ("trial", "level", "gid") if labels and n not in wanted]
        where = [
            ds.field(name) == value
            for name, value in (("level", level), ("split", split))
            if value is not None
        ]
        condition = where[0] & where[1] if len(where) == 2 else (where[0] if where else None)
        dataset = self.dataset(trials, epochs)
        if not dataset.files:
            return pd.DataFrame(columns=[*wanted, *(["label"] if labels else [])])
        try:
            table = dataset.to_table(columns=needed, filter=condition)
        except (pa.ArrowException, OSError):
            sound = self._sound(dataset.files)
            table = sound.to_table(columns=needed, filter=condition)
        frame = table.to_pandas()
        if labels:
            frame["label"] = self._labels(frame)
            wanted = [*wanted, "label"]
        return frame[wanted]

    def spread(
        self,
        *,
        trials: Iterable[int] | None = None,
        level: str | None = None,
        split: str = "val",
        measure: str | None = None,
    ) -> pd.DataFrame:
        """Return how the groups fare, a row per trial and epoch; trials are read one by one.

        Columns trial, epoch, groups (their number), mean, worst, worst_decile (mean of the weakest
        tenth of groups), p10, p25, p50, p75, p90 and best. p10 is always the weak end: for `mse`
        and `loss` it is the 90th percentile. level: None = the lowest.
        """
        measure = measure or self.main_measure
        level = level or self.lowest_level
        chosen = sorted({trial for trial, _ in self.files}) if trials is None else list(trials)
        rows: list[dict[str, float]] = []
        for trial in chosen:
            part = self.read(["epoch", measure], trials=[trial], level=level, split=split)
            rows += ({"trial": trial, **row} for row in _spreads(part, measure))
        columns = ["trial", "epoch", "groups", "mean", "worst", "worst_decile"]
        frame = pd.DataFrame(rows, columns=[*columns, *QUANTILES, "best"])
        return frame.astype({"trial": "int64", "epoch": "int64", "groups": "int64"})

    @cached_property
    def levels(self) -> list[str]:
        """The group levels, lowest first."""
        for trial in self.folders:
            if (schema := self.schemas[trial]) is not None:
                return [level.name for level in schema.levels]
        first = next(iter(self.files), None)
        if first is None:
            return []
        part = self.read(["level"], trials=[first[0]], epochs=[first[1]])
        return [str(name) for name in part["level"].unique()]

    @property
    def lowest_level(self) -> str | None:
        """The lowest group level, None where no table has been written."""
        return next(iter(self.levels), None)

    def _labels(self, frame: pd.DataFrame) -> NDArray[np.object_]:
        """Return what each row's group was called; its number where the schema is gone."""
        label = frame["gid"].to_numpy(dtype=object)
        for trial in frame["trial"].unique():
            schema = self.schemas[int(trial)]
            for level in schema.levels if schema is not None else ():
                known = level.labels if level.labels is not None else range(level.size)
                names = np.array([*known, *level.new], dtype=object)
                rows = ((frame["trial"] == trial) & (frame["level"] == level.name)).to_numpy()
                label[rows] = names[frame["gid"].to_numpy()[rows]]
        return label

    def _sound(self, paths: Iterable[str]) -> ds.Dataset:
        """Return the dataset of the files that can be read, and forget the others."""
        among = set(paths)
        for key, path in list(self.files.items()):
            if str(path) not in among:
                continue
            try:
                pq.read_table(path)
            except (pa.ArrowException, OSError) as error:
                self._tell(path, error)
                del self.files[key]
        return self._dataset({k: path for k, path in self.files.items() if str(path) in among})

    def _tell(self, path: Path, error: Exception) -> None:
        first = str(error).splitlines()[0]
        sentence = f"{path.parent.parent.name}/{STATS}/{path.name} cannot be read: {first}"
        if sentence not in self.problems:
            self.problems.append(sentence)


def _spreads(frame: pd.DataFrame, measure: str) -> Iterator[dict[str, float]]:
    """Yield a row per epoch, without its trial."""
    sign = 1.0 if measure in BETTER_HIGH else -1.0
    for epoch, part in frame.groupby("epoch", sort=True):
        values = np.sort(sign * part[measure].to_numpy(np.float64))  # the weakest first
        weakest = max(1, round(WORST * len(values)))
        quantiles = np.quantile(values, list(QUANTILES.values()))
        row = {
            "epoch": int(str(epoch)),
            "groups": len(values),
            "mean": values.mean(),
            "worst": values[0],
            "worst_decile": values[:weakest].mean(),
            **dict(zip(QUANTILES, quantiles, strict=True)),
            "best": values[-1],
        }
        yield {k: v if k in ("epoch", "groups") else sign * float(v) for k, v in row.items()}
