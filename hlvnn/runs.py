"""A run and what it leaves: its folder, written as it goes, and read back strictly."""

from __future__ import annotations

import logging
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pandas as pd

from hlvnn.build import assemble, build_model
from hlvnn.checkpoint import load_checkpoint, load_weights, save_checkpoint
from hlvnn.config import DataConfig, RunConfig, flatten, run_config
from hlvnn.data import load_data
from hlvnn.data.grouped import GroupedDataset, Schema
from hlvnn.device import resolve_device
from hlvnn.errors import CheckpointError, ConfigError, DataError, RunError
from hlvnn.events import Events, check_installed
from hlvnn.files import read_json, replacing, write_json, write_rows
from hlvnn.model import HierarchicalModel
from hlvnn.random import seeded
from hlvnn.show import epoch_line, groups_at_both_ends
from hlvnn.training import Checkpoint, EpochReport, FitResult, check, fit, parameter_count

logger = logging.getLogger("hlvnn")

HYPERPARAMS = "hyperparams.json"
"""The resolved configuration, with model name, versions and the data's hash."""
SCHEMA = "schema.json"
"""Levels, labels, columns and vocabulary of the data."""
METRICS = "metrics.csv"
"""A row per evaluated epoch."""
STATS = "training_stats"
"""Folder of per-group tables, a Parquet file per evaluated epoch."""
CHECKPOINT = "checkpoint.pt"
"""Everything needed to go on."""
BEST = "best.pt"
"""Weights of the epoch with the lowest validation loss."""
LOG = "train.log"
"""What the terminal showed."""
RESULT = "result.json"
"""How the run ended: ELBO, KL per latent, epochs; absent until it has."""
RUNTIME = (
    *("device", "threads", "debug", "print_freq", "results_dir", "testing", "data_dir"),
    *("tensorboard", "description"),
)
"""Settings that may change when a run goes on: they say how and where, not what is computed."""


@lru_cache(maxsize=2)
def _loaded(config: DataConfig) -> GroupedDataset:
    return load_data(config)


def data_of(config: DataConfig) -> GroupedDataset:
    """Return the data set of a configuration; a process keeps the last two it loaded."""
    return _loaded(config)


def new_folder(config: RunConfig, name: str | None = None) -> Path:
    """Return the folder of a new run, not yet made: RESULTS_DIR/DATASET/NAME, or …/tests/NAME.

    Without a name it is made of time, latent configuration and seed. Raises `RunError` when the
    folder exists.
    """
    if name is None:
        latents = "+".join(config.model.latent_config)
        name = f"{datetime.now():%Y%m%d-%H%M%S}_{latents}_seed{config.seed}"
    parent = config.results_dir / ("tests" if config.testing else config.data.title)
    folder = parent / name
    if folder.resolve().parent != parent.resolve():
        raise RunError(f"--name {name}: a plain name is expected, not a path")
    if folder.exists():
        raise RunError(
            f"{folder} exists already; nothing was overwritten. Give another --name, or continue "
            f"it with --resume {folder}"
        )
    return folder


def execute(
    config: RunConfig,
    folder: Path,
    *,
    report: Callable[[EpochReport], None] | None = None,
    resume: bool = False,
) -> FitResult:
    """Run one trial in this process, from data to finished folder.

    report: called after each evaluated epoch, when its files are written; it may raise to end the
    run, which leaves a folder that can be resumed. resume: go on from the folder's checkpoint where
    there is one, else start afresh in it.

    Raises `RunError` when the folder exists (without `resume`), and what loading and building
    raise; nothing is written before data and model are sound.
    """
    if folder.exists() and not resume:
        raise RunError(f"{folder} exists already; nothing was overwritten. Choose another name")
    resolve_device(config.train.device)
    if config.train.tensorboard:
        check_installed()
    data = data_of(config.data)
    model = build_model(config.model, data, config.seed)
    check(model, data, config.train)
    checkpoint = None
    if resume and (folder / CHECKPOINT).exists():
        _check_same(config, data, folder)
        checkpoint = _checkpoint_to_continue(folder / CHECKPOINT, model)
    run = _Writer(folder, config, data.schema, report)
    run.start(checkpoint, model, data)
    with _logged(folder / LOG):
        logger.info(_opening(config, model, data, folder, checkpoint))
        result = fit(model, data, config.train, run.report, checkpoint, seed=config.seed)
        run.finish(result)
        logger.info(_closing(result, folder))
    return result


def _check_same(config: RunConfig, data: GroupedDataset, folder: Path) -> None:
    """Raise unless the run goes on as it was configured, on the data it began with."""
    now, before = flatten(config), flatten(read_config(folder))
    changed = [name for name in now if name not in RUNTIME and now[name] != before[name]]
    if changed:
        listed = ", ".join(
            f"--{name.replace('_', '-')} {now[name]} (was {before[name]})" for name in changed
        )
        raise ConfigError(
            f"{folder} goes on as it was configured; changed: {listed}. Leave them out, or start a "
            "new run with --from-trial"
        )
    digest = read_json(folder / HYPERPARAMS).get("data_hash")
    if digest != data.digest():
        raise DataError(
            f"the data set {config.data.title} is not the one that {folder} began with "
            f"(hash {data.digest()}, was {digest}); restore the data, or start a new run"
        )


def _checkpoint_to_continue(path: Path, model: HierarchicalModel) -> Checkpoint:
    """Read a checkpoint whose weights fit the model; the model is left as it was."""
    checkpoint = load_checkpoint(path)
    missing = {"epoch", "model", "optimizers", "history"} - checkpoint.keys()
    if missing:
        raise CheckpointError(
            f"{path}: cannot go on from it, it lacks {', '.join(sorted(missing))}"
        )
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    load_weights(model, checkpoint["model"], path)
    model.load_state_dict(before)
    return checkpoint


class _Writer:
    """Writes a run's folder epoch by epoch. Every file appears whole or not at all."""

    def __init__(
        self,
        folder: Path,
        config: RunConfig,
        schema: Schema,
        report: Callable[[EpochReport], None] | None,
    ) -> None:
        self.folder, self.config, self.schema = folder, config, schema
        self.outer = report
        self.rows: list[dict[str, float]] = []
        self.reports = 0
        self.unsaved: Callable[[], Checkpoint] | None = None
        self.events = Events(folder) if config.train.tensorboard else None

    def start(
        self, checkpoint: Checkpoint | None, model: HierarchicalModel, data: GroupedDataset
    ) -> None:
        (self.folder / STATS).mkdir(parents=True, exist_ok=True)
        (self.folder / RESULT).unlink(missing_ok=True)
        if checkpoint is not None:
            self.rows = list(checkpoint["history"])
            return
        written = [
            *(self.folder / STATS).glob("*.parquet"),
            *map(self.folder.joinpath, (METRICS, BEST)),
        ]
        for stale in written:
            stale.unlink(missing_ok=True)  # of a start that never reached a checkpoint
        record = {
            "config": flatten(self.config),
            "model": model.name,
            "latents": [latent.name for latent in model.latents],
            "parameters": parameter_count(model),
            "data_hash": data.digest(),
            "versions": versions(),
            "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        }
        write_json(self.folder / HYPERPARAMS, record)
        write_json(self.folder / SCHEMA, data.schema.to_json())

    def report(self, epoch: EpochReport, checkpoint: Callable[[], Checkpoint]) -> None:
        if len(epoch.groups):
            path = self.folder / STATS / f"epoch_{epoch.epoch:04d}.parquet"
            with replacing(path) as temporary:
                epoch.groups.to_parquet(temporary, index=False)
        self.rows.append(epoch.row)
        write_rows(self.folder / METRICS, self.rows)
        self.reports += 1
        self.unsaved = None if epoch.diverged else checkpoint
        if not epoch.diverged:
            if epoch.is_best:
                state = checkpoint()
                save_checkpoint({k: state[k] for k in ("epoch", "model")}, self.folder / BEST)
            if self.reports % self.config.train.checkpoint_every == 0:
                self._save()
        logger.info(epoch_line(epoch.row, self.config.train.num_epochs))
        if table := groups_at_both_ends(epoch.groups, self.schema):
            logger.info(table)
        if self.events is not None:
            self.events.write(epoch.row, epoch.groups)
        if self.outer is not None:
            self.outer(epoch)

    def _save(self) -> None:
        if self.unsaved is not None:
            save_checkpoint(self.unsaved(), self.folder / CHECKPOINT)
        self.unsaved = None

    def finish(self, result: FitResult) -> None:
        self._save()
        names = ("elbo", "elbo_error", "kl", "epochs", "diverged", "stopped_early")
        record = {name: getattr(result, name) for name in names}
        if result.diverged:
            record |= {"elbo": None, "elbo_error": None}
        write_json(self.folder / RESULT, record)


def _opening(
    config: RunConfig,
    model: HierarchicalModel,
    data: GroupedDataset,
    folder: Path,
    checkpoint: Checkpoint | None,
) -> str:
    levels = ", ".join(f"{level.size} {level.name}" for level in data.schema.levels)
    rows = ", ".join(f"{len(split):,} {name}" for name, split in data.splits().items())
    latents = "; ".join(f"{latent.name} (width {latent.width})" for latent in model.latents)
    lines = [
        f"{model.name} on {config.data.title}: {rows} rows; groups: {levels or 'none'}",
        f"latents: {latents or 'none'}; {parameter_count(model):,} parameters",
        f"results in {folder}",
    ]
    if config.description:
        lines.append(f"description: {config.description}")
    if checkpoint is not None:
        lines.append(f"continuing after epoch {checkpoint['epoch']}")
    return "\n".join(lines)


def _closing(result: FitResult, folder: Path) -> str:
    if result.diverged:
        return f"the loss is no longer a number: ended as diverged after epoch {result.epochs}"
    error = f" ± {result.elbo_error:.2f}" if result.elbo_error else ""
    kl = "".join(f"  KL {name}: {value:.2f}" for name, value in result.kl.items())
    early = " (stopped early)" if result.stopped_early else ""
    return f"ELBO {result.elbo:.4f}{error}{kl}  after {result.epochs} epochs{early}; {folder}"


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Append what the logger tells to a file."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
        handler.close()


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a result depends on."""
    found = {"python": platform.python_version()}
    for package in ("hlvnn", "torch", "numpy", "pandas", "scikit-learn", "ray", "optuna"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def read_config(folder: Path) -> RunConfig:
    """Read a run's configuration back, strictly."""
    record = read_json(folder / HYPERPARAMS)
    if not isinstance(record, dict) or not isinstance(record.get("config"), dict):
        raise RunError(f'{folder / HYPERPARAMS}: expected an object with "config" in it')
    return run_config(record["config"], str(folder / HYPERPARAMS))


def read_metrics(folder: Path) -> pd.DataFrame:
    """Read a run's metrics, a row per evaluated epoch."""
    path = folder / METRICS
    try:
        return pd.read_csv(path)
    except FileNotFoundError:
        raise RunError(f"{path}: no such file; the run has not finished an epoch") from None
    except (ValueError, OSError) as error:
        raise RunError(f"{path}: not readable as CSV ({error})") from error


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
        return pd.read_parquet(self.folder / STATS)

    @cached_property
    def data(self) -> GroupedDataset:
        """The data set it was trained on, loaded again."""
        return data_of(self.config.data)


def load_run(folder: Path | str, which: str = "last") -> Run:
    """Rebuild a run from its folder: configuration, model and weights.

    which: "last" epoch's weights, or those of the "best" epoch by validation loss.
    Raises `RunError` or `CheckpointError`, naming the file, when something is missing or damaged.
    """
    folder = Path(folder)
    config = read_config(folder)
    try:
        schema = Schema.from_json(read_json(folder / SCHEMA), str(folder / SCHEMA))
    except DataError as error:
        raise RunError(str(error)) from error
    path = folder / {"last": CHECKPOINT, "best": BEST}[which]
    checkpoint = load_checkpoint(path)
    if not isinstance(checkpoint.get("model"), dict) or not isinstance(
        checkpoint.get("epoch"), int
    ):
        raise CheckpointError(f"{path}: no weights or no epoch in it")
    with seeded(0):  # the first weights are drawn, and then replaced
        model = assemble(config.model, schema)
    load_weights(model, checkpoint["model"], path)
    return Run(folder, config, schema, model.eval(), checkpoint["epoch"])


def to_terminal() -> None:
    """Show what a run tells on standard output."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
