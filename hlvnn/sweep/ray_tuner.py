"""Ray's Tuner of a sweep: what it is given, and how many trials it may draw at once."""

from __future__ import annotations

import os

from ray import tune
from ray.tune.experiment import Trial

from hlvnn.records import run_folder
from hlvnn.records.journal import STUDY
from hlvnn.records.schedulers import SCHEDULERS
from hlvnn.sweep import trackers
from hlvnn.sweep.context import Context
from hlvnn.sweep.proposer import Proposer
from hlvnn.sweep.ray_callback import Recorder
from hlvnn.sweep.ray_room import GrowingRoom
from hlvnn.sweep.ray_search import JournaledSearch
from hlvnn.sweep.searchers import sampler
from hlvnn.sweep.taking_up import Remaining
from hlvnn.sweep.trainable import Trainable

PENDING = "TUNE_MAX_PENDING_TRIALS_PG"
"""Ray's variable: how many trials may be drawn before they can begin."""


def tuner_of(context: Context, recorder: Recorder, remaining: Remaining, state: str) -> tune.Tuner:
    """Return what runs the remaining trials.

    state: a folder in which Ray keeps its own state; nothing of it is ever read back.
    """
    options, at_once = context.options, _drawn_at_once(context, remaining)
    search = _search(context, remaining)
    grows = at_once is None and options.address is not None and options.max_concurrent is None
    os.environ[PENDING] = "auto" if at_once is None else str(at_once)
    return tune.Tuner(
        tune.with_resources(Trainable, {"cpu": options.cpus_per_trial, "gpu": options.gpus}),
        param_space={
            "worst": context.space.worsts,
            "gpus": options.gpus,
            "versions": run_folder.versions(),
            "threads": max(1, int(options.cpus_per_trial)),
            "trial_timeout": options.trial_timeout,
            "storage_patience": options.storage_patience,
            "remote": "" if context.plan.remote is None else str(context.plan.remote),
        },
        tune_config=tune.TuneConfig(
            search_alg=GrowingRoom(search, context) if grows else search,
            scheduler=recorder.scheduler,
            num_samples=remaining.to_run,
            # With a limit Ray starts that many processes at once, not one by one, and draws a
            # trial only when it can begin, so that the sampler knows all there is to know.
            # Trials that wait for each other would fill the limit: these are drawn at once.
            max_concurrent_trials=None if grows or at_once is not None else context.board.slots,
            reuse_actors=True,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name=context.sweep.name,
            storage_path=state,
            stop=context.ending,
            callbacks=[recorder, *trackers.trackers(options, context.sweep.name)],
            failure_config=tune.FailureConfig(max_failures=options.max_failures),
            verbose=0,
        ),
    )


def _drawn_at_once(context: Context, remaining: Remaining) -> int | None:
    drawn = SCHEDULERS[context.options.scheduler].drawn_at_once
    if drawn is None:
        return None
    return drawn(context.options.halving(context.plan.max_epochs), remaining.to_run)


def _search(context: Context, remaining: Remaining) -> JournaledSearch:
    options, objectives = context.options, context.space.objectives
    search = JournaledSearch(
        Proposer(context),
        metric=_one_or_all([metric for metric, _ in objectives]),
        mode=_one_or_all([mode for _, mode in objectives]),
        storage=context.journal.storage,
        study_name=STUDY,
        sampler=sampler(options.searcher, options.seed, len(context.journal)),
    )
    search.take_up(context.ending, remaining.open_trials)
    return search


def _one_or_all(names: list[str]) -> str | list[str]:
    """Return the one name there is, or the list: Ray takes the former for a single objective."""
    return names[0] if len(names) == 1 else names


def _trial_name(trial: Trial) -> str:
    return f"trial_{trial.config['trial']:04d}"
