"""Executes a run, from its configuration to its finished folder, which it writes as it goes."""

from __future__ import annotations

import logging
import os
import platform
import secrets
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from hlvnn.columns import DATA_HASH, DIVERGED, ELBO_ERROR, STOPPED_EARLY
from hlvnn.config import PLACES, RunConfig, flatten, with_posteriors
from hlvnn.data import data_of, why_changed
from hlvnn.data.grouped import GroupedDataset, Schema
from hlvnn.device import resolve_device
from hlvnn.errors import CheckpointError, ConfigError, DataError, RunError
from hlvnn.files import (
    check_name,
    free_names,
    reaching,
    read_json,
    replacing,
    write_json,
    write_rows,
)
from hlvnn.models.build import build_model
from hlvnn.models.model import HierarchicalModel, parameter_count
from hlvnn.records import begun_before
from hlvnn.records.beware import DOUBTS, GUESS, worse_than_guessing
from hlvnn.records.checkpoint import (
    load_latest,
    load_weights,
    save_checkpoint,
)
from hlvnn.records.predictions import PREDICTIONS, write_predictions
from hlvnn.records.provenance import CODE, ORIGIN, code_state
from hlvnn.records.run_folder import (
    BEST,
    CHECKPOINT,
    FAILURE,
    HYPERPARAMS,
    LOG,
    METRICS,
    PROFILE,
    RESULT,
    SCHEMA,
    STATS,
    TRACE,
    WRITER,
    read_config,
    read_metrics,
    stats_name,
    versions,
)
from hlvnn.records.taken_over import take_over
from hlvnn.storage import typed
from hlvnn.training.checks import check
from hlvnn.training.choosing import selection_of
from hlvnn.training.epoch_line import epoch_line
from hlvnn.training.going_on import (
    ENDED_AT,
    LONGER,
    SUPERSEDED,
    check_beginning,
    longer,
    set_aside,
    told_longer,
)
from hlvnn.training.group_attributes import attributes_for, keep_groups
from hlvnn.training.guessing import guess_losses
from hlvnn.training.loop import SELECTION, Checkpoint, EpochReport, FitResult, fit
from hlvnn.training.profile import Profile
from hlvnn.training.row_tables import tables_of
from hlvnn.training.run_log import (
    chosen_by,
    closing,
    groups_at_both_ends,
    logging_to,
    opening,
)
from hlvnn.training.tensorboard import Events, check_installed
from hlvnn.words import text

logger = logging.getLogger("hlvnn")

OF_BEST = ("epoch", "model", SELECTION)
"""What best.pt holds of a checkpoint."""

RUNTIME = (
    *("device", "threads", "debug", "print_freq", "results_dir", "testing"),
    *("tensorboard", "description", "keep_predictions", "grad_norms", "profile", *PLACES),
)
"""Settings that may change when a run goes on: they say how and where, not what is computed."""


def new_folder(config: RunConfig, name: str | None = None) -> Path:
    """Return the folder of a new run, not yet made: RESULTS_DIR/DATASET/NAME, or …/tests/NAME.

    Without a name it is made of time, latent configuration and seed. Raises `RunError` when the
    folder exists.
    """
    is_test = config.testing or config.train.fast
    parent = config.results_dir / ("tests" if is_test else config.data.title)
    if name is None:
        latents = "+".join(config.model.latent_config)
        name = f"{datetime.now():%Y%m%d-%H%M%S}_{latents}_seed{config.seed}"
        return next(parent / one for one in free_names(name) if not (parent / one).exists())
    check_name(name)
    folder = parent / name
    if folder.exists():
        raise RunError(
            f"{folder} exists already; nothing was overwritten. Give another --name, or continue "
            f"it with --resume {typed(folder)}"
        )
    return folder


def execute(
    config: RunConfig,
    folder: Path,
    *,
    report: Callable[[EpochReport], None] | None = None,
    resume: bool = False,
    origin: str = "",
    attributes: Path | bool = True,
) -> FitResult:
    """Run one trial in this process, from data to finished folder.

    report: called after each evaluated epoch, when its files are written; it may raise to end the
    run, which leaves a folder that can be resumed. resume: go on from the folder's checkpoint where
    there is one (from the one before it where the last cannot be read), else start afresh in it:
    only where no checkpoint can have been. What was measured is kept (`set_aside`).
    origin: what the folder says of where the run came from (`records.provenance`).
    attributes: whether what groups are like (--group-table) is read and kept in the folder; of a
    sweep's trial it is not, for the sweep keeps it. A path is the folder of a run that is repeated:
    what it keeps is taken.

    Raises `RunError` when the folder exists (without `resume`) or another process took it over,
    `StorageError` when it cannot be written, and what loading and building raise; nothing is
    written before data and model are sound.
    """
    if folder.exists() and not resume:
        raise RunError(f"{folder} exists already; nothing was overwritten. Choose another name")
    if resume:
        begun_before.check_run(folder)
        if (folder / HYPERPARAMS).exists():
            config = longer(config, read_config(folder), folder)
    resolve_device(config.train.device)
    if config.train.tensorboard:
        check_installed()
    data = data_of(config.data, recorded=resume)
    model = build_model(config.model, data, config.seed, recorded=resume)
    check(model, data, config.train)
    known = attributes_for(config, data, folder, attributes) if attributes else None
    run = _Writer(folder, config, data.schema, report, origin)
    with logging_to(folder / LOG):
        checkpoint = None
        if resume and any((folder / name).exists() for name in (HYPERPARAMS, CHECKPOINT)):
            _check_same(config, data, folder)
            if (found := load_latest(folder / CHECKPOINT)) is not None:
                checkpoint = _checkpoint_to_continue(*found, model)
            else:
                check_beginning(folder, config)
        told = []
        if checkpoint is None and config.from_weights is not None:
            told = take_over(model, data, config.from_weights)
        with reaching(folder):
            keep_groups(folder, config, data, known)
            run.start(checkpoint, model, data)
        logger.info(opening(config, model, data, folder, checkpoint))
        for sentence in known.told(data.schema) if known is not None else ():
            logger.info(sentence)
        if config.train.ended_at and resume:
            told = [told_longer(config.train)]
        for sentence in told:
            logger.info(sentence)
        logger.info(chosen_by(selection_of(model, data, config.train)))
        # the folder keeps both: the last weights in checkpoint.pt, the chosen epoch's in best.pt
        how: dict[str, Any] = {"seed": config.seed, "callbacks": [run], "best_weights": False}
        result = fit(model, data, config.train, run.report, checkpoint, **how)
        with reaching(folder):
            run.finish(result)
        logger.info(closing(result, folder))
        if not config.train.fast and (doubt := worse_than_guessing(folder, read_metrics(folder))):
            logger.warning(doubt)
    return result


def _check_same(config: RunConfig, data: GroupedDataset, folder: Path) -> None:
    """Raise unless the run goes on as it was configured, on the data it began with."""
    now, before = (with_posteriors(flatten(c)) for c in (config, read_config(folder)))
    may = RUNTIME + LONGER if now[ENDED_AT] != before[ENDED_AT] else RUNTIME
    changed = [name for name in now if name not in may and now[name] != before[name]]
    if changed:
        listed = ", ".join(
            f"--{name.replace('_', '-')} {text(now[name])} (was {text(before[name])})"
            for name in changed
        )
        raise ConfigError(
            f"{folder} goes on as it was configured; changed: {listed}. Leave them out, or start a "
            "new run with --from-trial"
        )
    digest = read_json(folder / HYPERPARAMS).get(DATA_HASH)
    if digest != data.digest():
        why = why_changed(config.data, str(digest))
        raise DataError(
            f"the data set {config.data.title} is not the one that {folder} began with "
            f"(hash {data.digest()}, was {digest}); "
            + (f"{why}; start a new run" if why else "restore the data, or start a new run")
        )


def _checkpoint_to_continue(
    checkpoint: Checkpoint, path: Path, model: HierarchicalModel
) -> Checkpoint:
    """Check that a checkpoint's weights fit the model, which is left as it was; return it.

    The file that it is in becomes the folder's last checkpoint, in place of a damaged one.
    """
    begun_before.check_checkpoint(checkpoint, str(path))
    missing = {"epoch", "model", "optimizers", "history"} - checkpoint.keys()
    if missing:
        raise CheckpointError(
            f"{path}: cannot go on from it, it lacks {', '.join(sorted(missing))}"
        )
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    load_weights(model, checkpoint["model"], path)
    model.load_state_dict(before)
    with reaching(path.parent):
        path.replace(path.with_name(CHECKPOINT))
    return checkpoint


class _Writer:
    """Writes a run's folder epoch by epoch. Every file appears whole or not at all."""

    def __init__(
        self,
        folder: Path,
        config: RunConfig,
        schema: Schema,
        report: Callable[[EpochReport], None] | None,
        origin: str = "",
    ) -> None:
        self.folder, self.config, self.schema = folder, config, schema
        self.outer, self.origin = report, origin
        self.rows: list[dict[str, float]] = []
        self.reports = 0
        self.unsaved: Callable[[], Checkpoint] | None = None
        self.told_of_cut = False
        self.events = Events(folder) if config.train.tensorboard else None
        self.token = f"process {os.getpid()} on {platform.node()}, {secrets.token_hex(8)}\n"

    def start(
        self, checkpoint: Checkpoint | None, model: HierarchicalModel, data: GroupedDataset
    ) -> None:
        (self.folder / STATS).mkdir(parents=True, exist_ok=True)
        with replacing(self.folder / WRITER) as temporary:
            temporary.write_text(self.token, encoding="utf-8")
        for name in (RESULT, FAILURE):
            (self.folder / name).unlink(missing_ok=True)
        for left in [*self.folder.glob(".*.tmp"), *(self.folder / STATS).glob(".*.tmp")]:
            left.unlink(missing_ok=True)  # of a process that was killed while it wrote
        if checkpoint is not None:
            self.rows = list(checkpoint["history"])
            self._forget_after(checkpoint["epoch"])
            self._note_places()
            return
        self._forget_after(0)
        record = {
            "config": flatten(self.config),
            "model": model.name,
            "latents": [latent.name for latent in model.latents],
            "parameters": parameter_count(model),
            DATA_HASH: data.digest(),
            "versions": versions(),
            **({CODE: code} if (code := code_state()) else {}),
            **({ORIGIN: self.origin} if self.origin else {}),
            GUESS: guess_losses(model, data),
            "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        }
        write_json(self.folder / HYPERPARAMS, record)
        write_json(self.folder / SCHEMA, data.schema.to_json())

    def _note_places(self) -> None:
        """Write down where the data are now, which are the same, and how long it is trained."""
        record, now = read_json(self.folder / HYPERPARAMS), flatten(self.config)
        own = {name: now[name] for name in (*PLACES, *LONGER)}
        if any(record["config"].get(name) != value for name, value in own.items()):
            record["config"] |= own
            write_json(self.folder / HYPERPARAMS, record)

    def _forget_after(self, epoch: int) -> None:
        """Put aside what was written of epochs that will be trained again."""
        if again := set_aside(self.folder, epoch):
            logger.info(
                "epochs %d to %d are trained again; what was measured of them: %s",
                *(again[0], again[-1], self.folder / SUPERSEDED),
            )
        if self.rows:
            write_rows(self.folder / METRICS, self.rows)
        else:
            for name in (METRICS, BEST, PREDICTIONS):
                (self.folder / name).unlink(missing_ok=True)

    def _check_writer(self) -> None:
        """Raise `RunError` when a later start has taken the folder over."""
        path = self.folder / WRITER
        try:
            now = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            if not self.folder.exists():
                raise  # the storage is away
            now = "a process that ended it"
        if now != self.token:
            raise RunError(f"{self.folder} was taken over by {now.strip()}; this process ends")

    def report(self, epoch: EpochReport, checkpoint: Callable[[], Checkpoint]) -> None:
        with reaching(self.folder):
            self._write(epoch, checkpoint)
        logger.info(epoch_line(epoch.row, self.config.train.num_epochs))
        if table := groups_at_both_ends(epoch.groups, self.schema):
            logger.info(table)
        if self.outer is not None:
            try:
                self.outer(epoch)
            except BaseException:
                with reaching(self.folder):
                    self._save()  # it was asked to end: what it has is kept
                raise

    def _write(self, epoch: EpochReport, checkpoint: Callable[[], Checkpoint]) -> None:
        self._check_writer()
        if len(epoch.groups):
            path = self.folder / STATS / stats_name(epoch.epoch)
            with replacing(path) as temporary:
                epoch.groups.to_parquet(temporary, index=False)
        self.rows.append(epoch.row)
        write_rows(self.folder / METRICS, self.rows)
        self.reports += 1
        self.unsaved = None if epoch.diverged else checkpoint
        if not epoch.diverged:
            if epoch.is_best:
                self._write_predictions(epoch)
                state = checkpoint()
                save_checkpoint({k: state[k] for k in OF_BEST}, self.folder / BEST)
            if self.reports % self.config.train.checkpoint_every == 0:
                self._save()
        if self.events is not None:
            self.events.write(epoch.row, epoch.groups)

    def _write_predictions(self, epoch: EpochReport) -> None:
        limit = self.config.train.keep_predictions
        if not limit or not epoch.scores:
            return
        levels = [level.name for level in self.schema.levels]
        cut = write_predictions(self.folder, epoch.epoch, tables_of(epoch.scores, levels), limit)
        if cut and not self.told_of_cut:
            self.told_of_cut = True
            logger.info(cut)

    def on_profile(self, model: HierarchicalModel, profile: Profile) -> None:
        """Keep where the time goes, and say where that is."""
        table, trace = self.folder / PROFILE, self.folder / TRACE
        with reaching(self.folder), replacing(table) as one, replacing(trace) as other:
            profile.table.to_csv(one, index=False)
            profile.save_trace(other)
        logger.info(
            "the table: %s; the trace: %s (open it at https://ui.perfetto.dev)", table, trace
        )

    def _save(self) -> None:
        if self.unsaved is not None:
            save_checkpoint(self.unsaved(), self.folder / CHECKPOINT, keep_previous=True)
        self.unsaved = None

    def finish(self, result: FitResult) -> None:
        self._check_writer()
        self._save()
        names = ("elbo", ELBO_ERROR, "kl", "epochs", DIVERGED, STOPPED_EARLY)
        record = {name: getattr(result, name) for name in names}
        if result.diverged:
            record |= {"elbo": None, ELBO_ERROR: None}
        if result.doubts:
            record |= {DOUBTS: list(result.doubts)}
        if result.failure is not None:
            save_checkpoint(result.failure, self.folder / FAILURE)
        write_json(self.folder / RESULT, record)
        (self.folder / WRITER).unlink(missing_ok=True)
