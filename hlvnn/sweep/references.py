"""`--pooled-reference`: what the winner's latents bring, against models trained as long.

A sweep ends by training, for as many epochs as the winner has, its settings without latents
and the settings of the best pooled trial, for the former were tuned for latents.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import ray

from hlvnn.config import RunConfig, flat_settings, flatten, run_config
from hlvnn.errors import HlvnnError
from hlvnn.patience import Patience
from hlvnn.records import references, trials_table
from hlvnn.records.outcomes import PLACED, open_ones
from hlvnn.records.references import Reference
from hlvnn.records.schedulers import SCHEDULERS
from hlvnn.storage import Remote
from hlvnn.sweep.context import Context
from hlvnn.sweep.copies import TrialCopy
from hlvnn.training import execution
from hlvnn.training.loop import EpochReport
from hlvnn.words import Settings

OF_LATENTS = (
    *("latent_config", "latents", "z_dim", "posterior", "prior", "embedding_lr"),
    *("objective", "prior_warmup", "kl_annealing", "kl_weight"),
)
"""Settings that mean nothing without latents: a reference has their defaults."""
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Task:
    """A reference that is still to be trained, as a worker is told it."""

    reference: Reference
    settings: Settings
    folder: str
    remote: str
    storage_patience: float
    seconds: float | None
    """Time that is left; None = as long as it takes."""


class _Enough(Exception):
    """Ends a reference at its last epoch, or when the time is over."""


def wanted(context: Context, frame: pd.DataFrame) -> tuple[list[Task], str]:
    """Return the references that a sweep lacks, and a sentence where there can be none.

    Those that were trained before, for this winner, are not trained again.
    """
    options = context.options
    placed = trials_table.ranked(frame, context.space)
    placed = placed[placed["status"].isin(PLACED)]
    if not options.pooled_reference or not len(placed) or open_ones(frame).any():
        return [], ""
    if SCHEDULERS[options.scheduler].perturbs:
        return [], "no pooled reference: the settings of a population's trials changed as they ran"
    draws = context.journal.draws()
    winner = placed.iloc[0]
    number, epochs = int(winner["trial"]), int(winner["epochs"])
    if not _has_latents(draws[number].settings):
        if any(_has_latents(draws[int(one)].settings) for one in placed["trial"]):
            return [], "no pooled reference: the best trial has no latents itself"
        return [], ""
    own = draws[number].settings
    wished = [(number, pooled_settings(own, own))]
    for other, trained in zip(placed["trial"], placed["epochs"], strict=True):
        settings = draws[int(other)].settings
        if not _has_latents(settings):
            as_long = settings["num_epochs"] == own["num_epochs"] and int(trained) >= epochs
            wished += [] if as_long else [(int(other), pooled_settings(settings, own))]
            break
    tasks = []
    for source, settings in wished:
        reference = Reference(winner=number, source=source, epochs=epochs)
        folder = context.sweep / reference.name
        if not references.has_ended(folder, reference):
            tasks.append(_task(context, reference, settings, folder))
    return tasks, ""


def pooled_settings(settings: Settings, winners: Settings) -> Settings:
    """Return a trial's settings without latents, to be trained as the winner was."""
    default = flatten(RunConfig())
    changed = {name: default[name] for name in OF_LATENTS if name in flat_settings()}
    return {**settings, **changed, "num_epochs": winners["num_epochs"], "patience": None}


def _has_latents(settings: Settings) -> bool:
    names = settings.get("latent_config") or ["none"]
    return bool(settings.get("latents")) or any(name != "none" for name in names)


def _task(context: Context, reference: Reference, settings: Settings, folder: Path) -> Task:
    remote = context.plan.remote
    deadline = context.ending.deadline
    threads = {"threads": max(1, int(context.options.cpus_per_trial))}
    description = f"pooled reference: {reference.said}"
    return Task(
        reference,
        {**threads, **settings, "description": description},
        str(folder),
        "" if remote is None else str(remote / folder.name),
        context.options.storage_patience,
        None if deadline is None else deadline - time.monotonic(),
    )


def run(task: Task) -> str:
    """Train a reference, or go on with it; return why it could not be, or ""."""
    patience, copy = Patience(task.storage_patience), None
    folder = Path(task.folder)
    if task.remote:
        copy = TrialCopy(Remote(task.remote), patience)
        folder = copy.folder
    began = time.monotonic()

    def report(epoch: EpochReport) -> None:
        if copy is not None:
            copy.push()
        late = task.seconds is not None and time.monotonic() - began >= task.seconds
        if epoch.epoch >= task.reference.epochs or late:
            raise _Enough

    try:
        config = run_config(task.settings, task.reference.name)
        folder.mkdir(exist_ok=True)
        references.write(folder, task.reference)
        execution.execute(config, folder, report=report, resume=True, attributes=False)
    except _Enough:
        pass
    except HlvnnError as error:
        return str(error)
    finally:
        if copy is not None:
            copy.push()
            copy.close()
    return ""


def train(
    context: Context, frame: pd.DataFrame, start: Callable[[Task], Any] | None = None
) -> None:
    """Train what is lacking on the sweep's own resources, and say so; Ctrl-C ends it.

    start: begins a task and returns Ray's reference to it.
    """
    if context.ending.is_winding_down or context.ending.is_out_of_time:
        return
    tasks, why = wanted(context, frame)
    if why:
        context.print(why)
    if not tasks:
        return
    for task in tasks:
        epochs = f"{task.reference.epochs} epochs"
        context.print(f"pooled reference: {task.reference.said} ({epochs}), {task.reference.name}")
    remote = ray.remote(
        num_cpus=context.options.cpus_per_trial, num_gpus=context.options.gpus, max_retries=1
    )(run)
    running = {(start or remote.remote)(task): task for task in tasks}
    try:
        while running:
            done, _ = ray.wait([*running], timeout=POLL_SECONDS)
            for one in done:
                task = running.pop(one)
                _conclude(context, task, one)
    except KeyboardInterrupt:
        for one in running:
            ray.cancel(one, force=True)
        context.ending.interrupted = True
        context.print("interrupted: --resume goes on with the pooled references")


def _conclude(context: Context, task: Task, one: Any) -> None:
    try:
        problem = ray.get(one)
    except ray.exceptions.RayError as error:
        problem = str(error).strip().splitlines()[-1]
    if not problem and task.seconds is not None and not task.remote:
        ended = references.has_ended(Path(task.folder), task.reference)
        problem = "" if ended else "the time budget was over; --resume goes on with it"
    if problem:
        context.print(f"pooled reference {task.reference.name} was not trained: {problem}")
