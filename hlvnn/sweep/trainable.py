"""What Ray runs: one trial, by `execution.execute`, told to Ray in a few numbers an epoch."""

from __future__ import annotations

import errno
import faulthandler
import json
import math
import os
import random
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray import tune
from ray.tune.trainable.function_trainable import wrap_function

from hlvnn.columns import (
    DIVERGED,
    EXACT,
    RAN_ON,
    VAL_GROUP_P10,
    VAL_GROUP_WORST,
    best_of,
    validation_of,
)
from hlvnn.config import RunConfig
from hlvnn.device import described, resolve_device
from hlvnn.errors import ConfigError, NodeError
from hlvnn.patience import Patience
from hlvnn.records import run_folder
from hlvnn.records.outcomes import ERROR, HUNG
from hlvnn.selection import MAX, MIN, Selection
from hlvnn.storage import Remote
from hlvnn.sweep import node
from hlvnn.sweep.copies import TrialCopy
from hlvnn.training import execution
from hlvnn.training.loop import EpochReport

OUT_OF_MEMORY = "out_of_memory"
"""Flag of the one result of a trial that had too little memory."""
GROUPS = (VAL_GROUP_P10, VAL_GROUP_WORST)
"""Columns that are told to Ray beside the metric, for the live table."""
ENDED = threading.Event()
"""Set while no trial runs in this process."""
ENDED.set()
LAST_SECONDS = 60.0
"""How long a trial that is stopped may take to put its files in order."""


def run_trial(config: dict[str, Any]) -> None:
    """Run (or go on with) the trial that `config` describes.

    config: trial (its number), settings (JSON), folder, remote (the sweep's address, or ""), worst
    (each metric's value for a NaN), threads, gpus (below 1: its share of a GPU's memory), versions
    (of the driver's machine), trial_timeout, storage_patience, and problem: why the draw is
    invalid, or "". Everything that lasts is written into the folder, its checkpoint too; Ray is
    given no files.
    """
    ENDED.clear()
    try:
        _run_trial(config, _checked(config))
    finally:
        ENDED.set()


def _checked(config: dict[str, Any]) -> RunConfig | None:
    """Return what is to be run, or None where the draw is invalid.

    Raises `NodeError` where this node must not run it: another one will (`Controller`).
    """
    settings = _settings(config)
    on_cpu = settings.get("device") == node.CPU
    try:
        node.check(config["versions"], 0.0 if on_cpu else float(config["gpus"]))
        return None if config["problem"] else node.settled(settings, f"trial {config['trial']}")
    except NodeError as error:
        error.node_id = ray.get_runtime_context().get_node_id()
        raise


class Trainable(wrap_function(run_trial)):  # type: ignore[misc]  # Ray makes the class
    """`run_trial` as Ray's class; a trial that is stopped may first save what it has."""

    def cleanup(self) -> None:
        try:
            super().cleanup()
        finally:
            ENDED.wait(LAST_SECONDS)


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    return {"threads": int(config["threads"]), **json.loads(config["settings"])}


def _run_trial(config: dict[str, Any], run: RunConfig | None) -> None:
    patience = Patience(config["storage_patience"])
    folder = Path(config["folder"])
    copy = None
    if config["remote"]:
        copy = TrialCopy(Remote(config["remote"]) / folder.name, patience)
        folder = copy.folder
    settings = _settings(config)
    _start_afresh(int(config["threads"]), settings.get("seed", 0), float(config["gpus"]))
    telling = _Telling(folder, settings.get("num_epochs", 0), config["worst"])

    def report(epoch: EpochReport) -> None:
        if copy is not None:
            copy.push()
        patience.getting_on()
        still_alive()
        tune.report(telling.of(epoch.row) | {RAN_ON: ran_on})

    try:
        if run is None:
            raise ConfigError(config["problem"])
        ran_on = described(resolve_device(run.train.device))
        with _watching(folder, config["trial_timeout"]) as still_alive:

            def execute() -> None:
                if not folder.parent.is_dir():  # of a file system that is not mounted now
                    raise FileNotFoundError(errno.ENOENT, "the sweep's folder is away")
                execution.execute(run, folder, report=report, resume=True, attributes=False)

            patience.patiently(execute, str(folder))
            if copy is not None:
                copy.push()
            if not telling.reports:  # it ended before the driver that watched it was killed
                last = run_folder.read_metrics(folder).iloc[-1].to_dict()
                tune.report(telling.of(last) | {RAN_ON: ran_on})
    except Exception as error:
        with suppress(OSError):
            folder.mkdir(exist_ok=True)
            (folder / ERROR).write_text(traceback.format_exc(), encoding="utf-8")
        if not is_out_of_memory(error):
            raise
        _tell_out_of_memory(folder, settings["num_epochs"], config["worst"])
    finally:
        if copy is not None:
            copy.close()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there was no memory left: of a GPU, or of this machine."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _tell_out_of_memory(folder: Path, num_epochs: int, worst: Mapping[str, float]) -> None:
    """End a trial that had too little memory: an outcome, as divergence is, and not tried again."""
    epochs = len(run_folder.read_metrics(folder)) if (folder / run_folder.METRICS).exists() else 0
    row = {"epoch": epochs + 1, DIVERGED: 1.0}
    tune.report(scalars(row, num_epochs, worst) | {OUT_OF_MEMORY: 1})


@contextmanager
def _watching(folder: Path, timeout: float | None) -> Iterator[Callable[[], None]]:
    """Write down where every thread is if what is yielded is not called for `timeout` seconds."""
    path = folder / HUNG
    with ExitStack() as stack:
        stack.callback(faulthandler.cancel_dump_traceback_later)
        file = None
        with suppress(OSError):  # where it cannot be written the trial is ended all the same
            path.unlink(missing_ok=True)
            if timeout is not None:
                folder.mkdir(exist_ok=True)
                file = stack.enter_context(path.open("w", encoding="utf-8"))

        def still_alive() -> None:
            if file is not None and timeout is not None:
                faulthandler.dump_traceback_later(timeout, file=file)

        still_alive()
        try:
            yield still_alive
        finally:
            with suppress(OSError):
                path.unlink(missing_ok=True)


def warm_up() -> None:
    """Have torch and all else imported (this module is), while the driver still gets ready."""


class _Telling:
    """What Ray is told of a trial, and which of its epochs is the chosen one so far."""

    def __init__(self, folder: Path, num_epochs: int, worst: Mapping[str, float]) -> None:
        self.folder, self.num_epochs, self.worst = folder, num_epochs, worst
        metric, lowest = next(iter(worst.items()))
        self.selection = Selection(metric, MAX if lowest < 0 else MIN)
        self.chosen: Mapping[Any, Any] | None = None
        self.reports = 0

    def of(self, row: Mapping[Any, Any]) -> dict[str, float]:
        """Return what is told of an epoch, whose row is in metrics.csv already."""
        if not self.reports:  # what it measured before it was taken up counts as well
            self.chosen = self.selection.chosen_of(run_folder.read_metrics(self.folder))
        elif self.selection.is_better(row, self.chosen):
            self.chosen = row
        self.reports += 1
        return scalars(row, self.num_epochs, self.worst, self.chosen)


def scalars(
    row: Mapping[Any, Any],
    num_epochs: int,
    worst: Mapping[str, float],
    chosen: Mapping[Any, Any] | None = None,
) -> dict[str, float]:
    """Return what Ray is told of an epoch. A metric that is NaN becomes the worst value there is.

    worst: that value, for each metric that is selected on; chosen: the chosen epoch's row so far,
    whose metrics (`best_of`) the searcher is told when the trial ends.
    Raises `ConfigError` when the row has no such metric.
    """
    diverged = bool(row[DIVERGED])
    told: dict[str, float] = {
        "epoch": int(row["epoch"]),
        "num_epochs": int(row["epoch"]) if row.get(EXACT) == 1 else num_epochs,
        DIVERGED: int(diverged),
    }
    for metric, lowest in worst.items():
        if metric not in row and not diverged:  # a diverged epoch is not evaluated
            known = validation_of(row)
            raise ConfigError(f"METRIC = {metric!r} is not measured; there are: {', '.join(known)}")
        told[metric] = lowest if diverged else _or_worst(row, metric, lowest)
        told[best_of(metric)] = lowest if diverged else _or_worst(chosen, metric, lowest)
    return told | {name: float(row[name]) for name in GROUPS if name in row and name not in told}


def _or_worst(row: Mapping[Any, Any] | None, metric: str, lowest: float) -> float:
    value = math.nan if row is None else float(row.get(metric, math.nan))
    return lowest if math.isnan(value) else value


def _start_afresh(threads: int, seed: int, gpus: float) -> None:
    """Give a process that ran another trial before a fresh start."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(min(1.0, gpus) if gpus else 1.0)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # for processes that the trial may start
    torch.set_num_threads(threads)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  (whoever uses the global stream repeats, too)
    torch.manual_seed(seed)
