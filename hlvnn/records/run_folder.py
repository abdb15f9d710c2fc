"""A run's folder: its files by name, and how they are read back, strictly."""

from __future__ import annotations

import logging
import platform
import re
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pandas as pd
from pandas.api.types import is_numeric_dtype

from hlvnn import gone
from hlvnn.columns import DATA_HASH, DIVERGED, EPOCH, SECONDS, TRAIN_LOSS, VAL_ACC, VAL_LOSS
from hlvnn.config import RunConfig, in_todays_terms, run_config
from hlvnn.data import data_of, why_changed
from hlvnn.data.grouped import GroupedDataset
from hlvnn.data.schema import SCHEMA as SCHEMA
from hlvnn.data.schema import Schema
from hlvnn.errors import (
    CheckpointError,
    ConfigError,
    DataChangedError,
    DataError,
    RunError,
    unknown,
)
from hlvnn.files import read_json
from hlvnn.models.build import assemble
from hlvnn.models.model import HierarchicalModel
from hlvnn.random import seeding
from hlvnn.records.checkpoint import (
    load_checkpoint,
    load_weights,
    previous,
)
from hlvnn.selection import MIN, Selection, mode_of
from hlvnn.storage import readable, shown_path
from hlvnn.words import Settings

logger = logging.getLogger("hlvnn")

HYPERPARAMS = "hyperparams.json"
"""The resolved configuration, with model name, versions and the data's hash."""
METRICS = "metrics.csv"
"""A row per evaluated epoch."""
STATS = "training_stats"
"""Folder of per-group tables, a Parquet file per evaluated epoch."""
CHECKPOINT = "checkpoint.pt"
"""Everything needed to go on."""
PREVIOUS = previous(Path(CHECKPOINT)).name
"""The checkpoint before it, for the day on which that one cannot be read."""
BEST = "best.pt"
"""Weights of the chosen epoch (`hlvnn.selection`)."""
WHICH = {"last": CHECKPOINT, "best": BEST}
"""Whose weights `load_run` reads."""
FAILURE = "failure.pt"
"""Of a run that diverged in a step: the weights before it, its rows and random streams."""
PROFILE = "profile.csv"
"""Where the time of a run went (--profile), a row per stage and pass."""
TRACE = "trace.json"
"""The recorded steps themselves, as ui.perfetto.dev and chrome://tracing read them."""
LOG = "train.log"
"""What the terminal showed."""
WRITER = "writer.txt"
"""Which process writes the folder: one that a later start has relieved writes no more."""
RESULT = "result.json"
"""How the run ended: ELBO, KL per latent, epochs; absent until it has."""
EPOCH_FILE = re.compile(r"epoch_(\d+)\.parquet")
"""Names of the per-group tables."""
NUMERIC = (EPOCH, SECONDS, DIVERGED)
"""Columns that every row of metrics.csv has."""


def stats_name(epoch: int) -> str:
    """Return the name of an epoch's table in `STATS`."""
    return f"epoch_{epoch:04d}.parquet"


def stats_files(folder: Path) -> dict[int, Path]:
    """Return a run's per-group tables by their epoch, in order."""
    paths = sorted((folder / STATS).glob("epoch_*.parquet"))
    numbers = ((EPOCH_FILE.fullmatch(path.name), path) for path in paths)
    return {int(found[1]): path for found, path in numbers if found}


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a result depends on."""
    found = {"python": platform.python_version()}
    for package in ("hlvnn", "torch", "numpy", "pandas", "scikit-learn", "ray", "optuna"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def recorded_settings(folder: Path) -> Settings:
    """Return a run's settings as they stand in its record, whatever version wrote it."""
    record = read_json(folder / HYPERPARAMS)
    if not isinstance(record, dict) or not isinstance(record.get("config"), dict):
        raise RunError(f'{folder / HYPERPARAMS}: expected an object with "config" in it')
    settings: Settings = record["config"]
    return settings


def read_config(folder: Path) -> RunConfig:
    """Read a run's configuration back, strictly."""
    return run_config(in_todays_terms(recorded_settings(folder)), str(folder / HYPERPARAMS))


def selection_of(folder: Path) -> Selection:
    """Return by what a run's epoch is chosen: its --select-on, or the sweep's METRIC of a trial."""
    train, metrics = read_config(folder).train, read_metrics(folder)
    return chosen_by(train.select_on, train.select_mode, metrics)


def chosen_by(select_on: str, select_mode: str, metrics: pd.DataFrame) -> Selection:
    """Return by what an epoch is chosen, as the settings of a run and its metrics tell."""
    if select_on == VAL_LOSS and VAL_LOSS not in metrics:
        return Selection(TRAIN_LOSS, MIN)
    known = select_mode if select_mode != "auto" else mode_of(select_on, VAL_ACC in metrics)
    return Selection(select_on, known or MIN)


def read_metrics(folder: Path) -> pd.DataFrame:
    """Read a run's metrics, a row per evaluated epoch."""
    path = folder / METRICS
    try:
        frame = pd.read_csv(path)
    except FileNotFoundError:
        raise RunError(f"{path}: no such file; the run has not finished an epoch") from None
    except (ValueError, OSError) as error:
        raise RunError(f"{path}: not readable as CSV ({error})") from error
    lacking = [name for name in NUMERIC if name not in frame or frame[name].isna().any()]
    if wrong := lacking + [name for name in frame if not is_numeric_dtype(frame[name])]:
        raise RunError(
            f"{path}: damaged: expected a number in each row of the column {wrong[0]!r}; restore "
            "it from a copy, or go on with the run, which writes it again"
        )
    return frame


def read_groups(folder: Path) -> pd.DataFrame:
    """Read a run's per-group tables as one frame, in order of epochs."""
    frames = []
    for path in stats_files(folder).values():
        try:
            frames.append(pd.read_parquet(path))
        except Exception as error:  # what damaged bytes make a reader raise has no end
            raise RunError(
                f"{path}: not readable as Parquet ({error!r:.200}); restore or remove it"
            ) from error
    if not frames:
        raise RunError(f"{folder / STATS}: no tables; the run has not finished an epoch")
    return pd.concat(frames, ignore_index=True)


@dataclass(frozen=True)
class Run:
    """A run read back from its folder.

    model: rebuilt, with the weights of `epoch`.
    """

    folder: Path
    config: RunConfig
    schema: Schema
    model: HierarchicalModel
    epoch: int

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """A row per evaluated epoch (columns of metrics.csv)."""
        return read_metrics(self.folder)

    @cached_property
    def groups(self) -> pd.DataFrame:
        """All epochs' per-group tables: epoch, level, gid, split, n, acc, f1 (or mse), loss."""
        return read_groups(self.folder)

    @cached_property
    def data(self) -> GroupedDataset:
        """The data set it was trained on, loaded again; `DataError` where it is another by now."""
        return data_of_run(self.folder, self.config)


def data_of_run(folder: Path, config: RunConfig) -> GroupedDataset:
    """Return the data set of a run, loaded again, whether or not its weights are still there.

    Raises `DataError` where it is gone, `DataChangedError` where it is another one by now.
    """
    data = data_of(config.data, recorded=True)
    digest = read_json(folder / HYPERPARAMS).get(DATA_HASH)
    if digest is None:
        logger.warning(
            "%s: no hash of the data in it; the data loaded now are unchecked",
            folder / HYPERPARAMS,
        )
    elif digest != data.digest():
        why = why_changed(config.data, digest)
        raise DataChangedError(
            f"{folder}: the data set {config.data.title} has changed since (hash "
            f"{data.digest()}, was {digest}){'; ' + why if why else ''}"
        )
    return data


def load_run(folder: Path | str, which: str = "last") -> Run:
    """Rebuild a run from its folder: configuration, model and weights.

    folder: or its address (s3://…); then a copy of it is read, and kept while the process lives.
    which: "last" epoch's weights, or those of the "best", the chosen epoch (`hlvnn.selection`).
    Raises `ConfigError` for any other word, and `RunError` or `CheckpointError`, naming the file,
    when something is missing or damaged.
    """
    if which not in WHICH:
        raise ConfigError(unknown("weights", which, WHICH))
    folder = readable(folder)
    config = read_config(folder)
    try:
        schema = Schema.from_json(read_json(folder / SCHEMA), str(folder / SCHEMA))
    except DataError as error:
        raise RunError(str(error)) from error
    path = folder / WHICH[which]
    checkpoint = load_checkpoint(path)
    if not isinstance(checkpoint.get("model"), dict) or not isinstance(
        checkpoint.get("epoch"), int
    ):
        raise CheckpointError(f"{path}: no weights or no epoch in it")
    try:
        with seeding(0):  # the first weights are drawn, and then replaced
            model = assemble(config.model, schema)
    except ConfigError as error:
        raise ConfigError(f"{folder / HYPERPARAMS}: {error}") from error
    load_weights(model, checkpoint["model"], path)
    at = folder.resolve()
    gone.tell(at.parent, shown_path(at), gone.values_set(recorded_settings(folder)))
    return Run(folder, config, schema, model.eval(), checkpoint["epoch"])
