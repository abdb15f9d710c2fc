"""The per-group tables of many trials, read lazily: by column, epoch and trial.

A sweep of 500 trials may hold 90 million rows, so nothing is read before it is asked for, and of a
file only the columns asked for. Files of other trials and epochs are not opened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, reduce
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs
import pyarrow.parquet as pq

from hlvnn.analysis.group_attributes import KnownGroups, asked_for, read_given
from hlvnn.analysis.spreads import QUANTILES, listed, several, spreads
from hlvnn.columns import SCORED, VAL, WORST_DECILE
from hlvnn.data.attributes import Attributes
from hlvnn.data.schema import Schema
from hlvnn.errors import RunError, unknown
from hlvnn.records.run_folder import STATS, stats_files

if TYPE_CHECKING:
    from hlvnn.analysis.effects import Effects
    from hlvnn.analysis.results import Results

COLUMNS = ("trial", "epoch", "level", "gid", "split", "n")
"""Columns of every table; then acc and f1, or mse, and loss."""


class GroupTables:
    """The per-group tables of some trials.

    folders: of each trial by its number; schemas: what a trial's groups were called; others:
    trials that there are, and have no folder. Files that cannot be read are left out, and told in
    `problems` and to `tell`.
    """

    def __init__(
        self,
        folders: Mapping[int, Path],
        schemas: Mapping[int, Schema | None],
        *,
        others: Iterable[int] = (),
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self.folders = dict(folders)
        self.schemas = schemas
        self.known = {*self.folders, *others}
        self.problems: list[str] = []
        self._told = tell or (lambda sentence: None)
        self._files: dict[int, dict[int, Path]] = {}
        self._cut: dict[int, set[int]] = {}
        self._schemas: dict[int, pa.Schema] = {}
        self.of_groups = KnownGroups(self.folders, lambda: self.schemas, self._say)
        self.sweep: Results | None = None

    def add(self, trial: int, folder: Path) -> None:
        """Add a model that is no trial (a number below 0): it is read where it is asked for."""
        self.folders[trial] = folder
        self.known.add(trial)

    @property
    def _own(self) -> list[int]:
        return sorted(trial for trial in self.folders if trial >= 0)

    def files_of(self, trial: int) -> dict[int, Path]:
        """Return the files of a trial by their epoch, in order."""
        if trial not in self._files:
            folder = self.folders.get(trial)
            self._files[trial] = {} if folder is None else stats_files(folder)
        return self._files[trial]

    @property
    def trials(self) -> list[int]:
        """The trials that have a table."""
        return [trial for trial in self._own if self.files_of(trial)]

    @property
    def columns(self) -> list[str]:
        """The columns of the tables, by the first trial that has one; empty where none has."""
        for trial in sorted(self.folders):
            if names := self._schema_of(trial).names:
                return ["trial", *names]
        return []

    @property
    def measures(self) -> list[str]:
        """What is measured of each group: acc, f1 and loss, or mse and loss."""
        return [name for name in self.columns if name not in COLUMNS]

    @property
    def main_measure(self) -> str:
        """The measure that says how a group fares: acc, or mse."""
        return "acc" if "acc" in self.measures else "mse"

    def dataset(
        self, trials: int | Iterable[int] | None = None, epochs: int | Iterable[int] | None = None
    ) -> ds.Dataset:
        """Return the tables as a pyarrow dataset, for queries of your own.

        Columns `trial`, `epoch`, `level`, `gid`, `split`, `n` (rows), the measures.
        Raises `RunError` for a trial that there is not, or an epoch that none of them has.
        """
        trials, epochs = several(trials), several(epochs)
        self._check(trials, epochs)
        known = self._own if trials is None else sorted(set(trials) & set(self.folders))
        return self._dataset(
            {
                (trial, epoch): path
                for trial in known
                for epoch, path in self.files_of(trial).items()
                if epochs is None or epoch in epochs
            }
        )

    def _schema_of(self, trial: int) -> pa.Schema:
        """Return the columns of a trial's tables: of the first one that can be read."""
        if trial not in self._schemas:
            self._schemas[trial] = pa.schema([])
            for path in self.files_of(trial).values():
                try:
                    self._schemas[trial] = pq.read_schema(path).remove_metadata()
                    break
                except (pa.ArrowException, OSError) as error:
                    self._tell(path, error)
        return self._schemas[trial]

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
        known = [self._schema_of(trial) for trial in dict.fromkeys(trial for trial, _ in files)]
        fields = pa.unify_schemas(known, promote_options="permissive") if known else pa.schema([])
        fields = fields.insert(0, pa.field("trial", pa.int64()))
        return ds.FileSystemDataset(fragments, fields, file_format, filesystem=local)

    def read(
        self,
        columns: Iterable[str] | None = None,
        *,
        trials: int | Iterable[int] | None = None,
        epochs: int | Iterable[int] | None = None,
        level: str | Iterable[str] | None = None,
        split: str | None = None,
        labels: bool = False,
        attributes: str | Path | Iterable[str] | pd.DataFrame | None = None,
    ) -> pd.DataFrame:
        """Return the tables asked for as one frame: a row per trial, epoch, level, group and split.

        columns: None = all: `trial`, `epoch`, `level`, `gid`, `split`, `n` (rows of the group in
        the split), then `acc` and `f1`, or `mse`, and `loss` (nats a row); where the data have
        several levels `level` is always among them. level: its name, several names, or None, which
        is the lowest level: the same `gid` is another group in another level. labels: add `label`,
        the group's original name. attributes: add what groups are like: names of attributes
        (`rows`, those in training, is always known, others by the --group-table of the sweep or
        run), or a table of them given now, a file or a dataframe with a column called as the level
        that holds the labels; then all of its attributes. Empty where a group has no row in it.
        Raises `RunError` for an unknown column, level, split, trial or attribute, and for an epoch
        that none of the trials has, `DataError` for a table that is not as it must be.
        """
        if split is not None and split not in SCORED:
            raise RunError(f"group tables: {unknown('split', split, SCORED)}")
        names = [level] if isinstance(level, str) else None if level is None else list(level)
        for name in names or ():
            if self.levels and name not in self.levels:
                raise RunError(f"group tables: {unknown('level', name, self.levels)}")
        if names is None and self.lowest_level is not None:
            names = [self.lowest_level]
        dataset = self.dataset(trials, epochs)
        if attributes is None:
            return self._read(columns, dataset, names, split, labels)
        asked, given = asked_for(attributes, self.levels, self.schema)
        keys = ["trial", "level", "gid"]
        wanted = self.columns if columns is None else list(columns)
        needed = dict.fromkeys([*keys, *wanted])
        frame = self._read(needed, dataset, names, split, labels)
        shown = [*self._shown(wanted, names), *(["label"] if labels else [])]
        frame = self.of_groups.join(frame, asked, given)
        return frame[[*shown, *(name for name in frame if name not in {*keys, *wanted, "label"})]]

    def take_attributes(self, table: str | Path | pd.DataFrame) -> Attributes:
        """Take a table of what groups are like, for runs that have none, or another; return it.

        It stands over what the runs keep, while these tables are in memory; nothing is written.
        Raises `DataError` where it is not as it must be.
        """
        given = read_given(table, self.levels, self.schema)
        self.of_groups.take(given)
        return given

    def effects(
        self,
        setting: str,
        *,
        epochs: int | None = None,
        reference: object = None,
        level: str | None = None,
        measure: str | None = None,
    ) -> Effects:
        """Return what each value of a setting gains for each group (see `analysis.effects`)."""
        from hlvnn.analysis.effects import effects  # it reads results, which have these tables

        if self.sweep is None:
            raise RunError("effects are those of a sweep's trials: ask sweep.groups for them")
        return effects(
            self.sweep, setting, epochs=epochs, reference=reference, level=level, measure=measure
        )

    def _read(
        self,
        columns: Iterable[str] | None,
        dataset: ds.Dataset,
        levels: list[str] | None,
        split: str | None,
        labels: bool,
        gids: Sequence[int] | None = None,
    ) -> pd.DataFrame:
        known = dataset.schema.names if dataset.files else self.columns
        wanted = self._shown(known if columns is None else columns, levels)
        for name in wanted:
            if name not in known and known:
                raise RunError(f"group tables: {unknown('column', name, known)}")
        if not dataset.files:
            return pd.DataFrame(columns=[*wanted, *(["label"] if labels else [])])
        needed = wanted + [n for n in ("trial", "level", "gid") if labels and n not in wanted]
        where = [] if levels is None else [ds.field("level").isin(levels)]
        where += [] if split is None else [ds.field("split") == split]
        where += [] if gids is None else [ds.field("gid").isin(list(gids))]
        condition = reduce(ds.Expression.__and__, where) if where else None
        try:
            table = dataset.to_table(columns=needed, filter=condition)
        except (pa.ArrowException, OSError):
            table = self._sound(dataset.files).to_table(columns=needed, filter=condition)
        frame = table.to_pandas()
        if labels:
            frame["label"] = self.of_groups.labels(frame)
            wanted = [*wanted, "label"]
        return frame[wanted]

    def _shown(self, wanted: Iterable[str], levels: list[str] | None) -> list[str]:
        """Return columns, the level among them where the data have several."""
        shown = list(wanted)
        if levels is not None and len(self.levels) > 1 and "level" not in shown:
            shown.insert(shown.index("gid") if "gid" in shown else 0, "level")
        return shown

    def spread(
        self,
        *,
        trials: int | Iterable[int] | None = None,
        level: str | None = None,
        split: str = VAL,
        measure: str | None = None,
    ) -> pd.DataFrame:
        """Return how the groups fare, a row per trial and epoch; trials are read one by one.

        Columns trial, epoch, groups (their number, without those that lack the measure), mean,
        worst, worst_decile (mean of the weakest tenth of groups), p10, p25, p50, p75, p90 and best.
        p10 is always the weak end: for `mse` and `loss` it is the 90th percentile. level: None =
        the lowest.
        """
        measure = measure or self.main_measure
        level = level or self.lowest_level
        asked = several(trials)
        chosen = self.trials if asked is None else asked
        self._check(chosen, None)
        rows: list[dict[str, float]] = []
        for trial in chosen:
            part = self.read(["epoch", measure], trials=[trial], level=level, split=split)
            rows += ({"trial": trial, **row} for row in spreads(part, measure))
        columns = ["trial", "epoch", "groups", "mean", "worst", WORST_DECILE]
        frame = pd.DataFrame(rows, columns=[*columns, *QUANTILES, "best"])
        frame.attrs = {"measure": measure, "level": level, "split": split}
        return frame.astype({"trial": "int64", "epoch": "int64", "groups": "int64"})

    def at(self, epochs: Mapping[int, int], measure: str, split: str = VAL) -> pd.DataFrame:
        """Return how the lowest level's groups fare, each trial at an epoch of its own.

        epochs: of each trial. Index trial, columns as of `spread`; what cannot be read is left out.
        """
        files = self._files_at(epochs)
        rows: dict[int, dict[str, float]] = {}
        if files and measure in self.columns:
            names = None if self.lowest_level is None else [self.lowest_level]
            wanted = ["trial", "epoch", measure]
            frame = self._read(wanted, self._dataset(files), names, split, False)
            for trial, part in frame.groupby("trial", sort=True):
                rows[int(str(trial))] = next(spreads(part, measure), {})
        columns = ["epoch", "groups", "mean", "worst", WORST_DECILE, *QUANTILES, "best"]
        return pd.DataFrame.from_dict(rows, orient="index", columns=columns)

    def at_epochs(
        self, epochs: Mapping[int, int], columns: Iterable[str], levels: list[str] | None
    ) -> pd.DataFrame:
        """Return the tables of each trial at an epoch of its own, read at once.

        epochs: of each trial; levels: their names, None = all.
        """
        return self._read(columns, self._dataset(self._files_at(epochs)), levels, None, False)

    def rows_of(
        self, level: str, gids: Sequence[int], epochs: Mapping[int, int] | int
    ) -> pd.DataFrame:
        """Return the rows of some groups.

        epochs: of each trial; or a trial, of which all epochs are read.
        """
        if isinstance(epochs, int):
            files = {(epochs, epoch): path for epoch, path in self.files_of(epochs).items()}
        else:
            files = self._files_at(epochs)
        frame = self._read(None, self._dataset(files), [level], None, False, gids)
        return frame.sort_values(["trial", "epoch"], kind="stable", ignore_index=True)

    def _files_at(self, epochs: Mapping[int, int]) -> dict[tuple[int, int], Path]:
        return {
            (trial, epoch): self.files_of(trial)[epoch]
            for trial, epoch in epochs.items()
            if epoch in self.files_of(trial)
        }

    @cached_property
    def levels(self) -> list[str]:
        """The group levels, lowest first."""
        if (schema := self.schema) is not None:
            return [level.name for level in schema.levels]
        first = next(iter(self.trials), None)
        if first is None:
            return []
        epoch = next(iter(self.files_of(first)))
        part = self._read(["level"], self.dataset([first], [epoch]), None, None, False)
        return [str(name) for name in part["level"].unique()]

    @property
    def schema(self) -> Schema | None:
        """What the groups are called, by the first trial whose schema can be read."""
        return next((one for trial in self.folders if (one := self.schemas[trial])), None)

    @property
    def level_sizes(self) -> dict[str, int]:
        """How many groups each level has, by the first trial whose schema can be read."""
        schema = self.schema
        return {} if schema is None else {level.name: level.size for level in schema.levels}

    @property
    def lowest_level(self) -> str | None:
        """The lowest group level, None where no table has been written."""
        return next(iter(self.levels), None)

    def _check(self, trials: list[int] | None, epochs: list[int] | None) -> None:
        """Raise `RunError` for what there is not."""
        for trial in trials or ():
            if trial not in self.known:
                known = [number for number in self.known if number >= 0]
                raise RunError(f"group tables: no trial {trial}; {listed(known, 'trials')}")
        chosen = [trial for trial in (trials or self._own) if trial in self.folders]
        there = {epoch for trial in chosen for epoch in self.files_of(trial)} if epochs else set()
        there |= {epoch for trial in chosen for epoch in self._cut.get(trial, ())}
        for epoch in epochs or ():
            if there and epoch not in there:
                raise RunError(f"group tables: no epoch {epoch}; {listed(there, 'epochs')}")

    def _sound(self, paths: Iterable[str]) -> ds.Dataset:
        """Return the dataset of the files that can be read, and forget the others."""
        among, sound = set(paths), {}
        for trial in sorted(self.folders):
            for epoch, path in list(self.files_of(trial).items()):
                if str(path) not in among:
                    continue
                try:
                    pq.read_table(path)
                    sound[trial, epoch] = path
                except (pa.ArrowException, OSError) as error:
                    self._tell(path, error)
                    del self._files[trial][epoch]
                    self._cut.setdefault(trial, set()).add(epoch)
        return self._dataset(sound)

    def _tell(self, path: Path, error: Exception) -> None:
        first = str(error).splitlines()[0].replace(f"'{path}'", "").replace(str(path), path.name)
        self._say(f"{path.parent.parent.name}/{STATS}/{path.name} cannot be read: {first}")

    def _say(self, sentence: str) -> None:
        if sentence not in self.problems:
            self.problems.append(sentence)
            self._told(sentence)
