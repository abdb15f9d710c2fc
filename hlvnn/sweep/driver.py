"""The driver: runs a planned sweep on Ray, from the first trial to the leaderboard."""

from __future__ import annotations

import re
import shutil
import tempfile
from contextlib import suppress

import pandas as pd
import ray
from ray import tune
from ray.exceptions import RayError
from rich.console import Console

from hlvnn.errors import RunError, StorageError
from hlvnn.records import journal, trials_table
from hlvnn.records.outcomes import Status
from hlvnn.records.schedulers import SCHEDULERS
from hlvnn.records.sweep_folder import RAY_LOGS, locking
from hlvnn.search_space import quieting_optuna
from hlvnn.sweep import cluster, metrics, ray_logs, references, warm
from hlvnn.sweep.closing import conclude
from hlvnn.sweep.context import Context
from hlvnn.sweep.ending import heeding_signals
from hlvnn.sweep.plan import Plan, begin, claimed
from hlvnn.sweep.ray_callback import Recorder
from hlvnn.sweep.ray_patch import mending
from hlvnn.sweep.ray_tuner import tuner_of
from hlvnn.sweep.schedulers import scheduler_of
from hlvnn.sweep.taking_up import Remaining, take_up


def run(plan: Plan, console: Console) -> int:
    """Run (or go on with) a sweep; return the exit code: 0, 1 without any result, 130 interrupted.

    Raises `ResourceError` when no node could run a trial, and `RunError` when another driver works
    on the sweep or Ray breaks down. Whatever happens, the folder can be resumed.
    """
    if plan.options.address is None and not ray.is_initialized():
        cluster.check(plan.options, [cluster.this_machine()])  # sooner than Ray starts
    with quieting_optuna(), cluster.connecting(plan.options.address):
        nodes = cluster.nodes()
        cluster.check(plan.options, nodes)
        slots = cluster.slots(plan.options, nodes)
        plan = claimed(plan)
        with locking(plan.sweep):
            journal.mend(plan.sweep)
            begin(plan)
            context = Context.of(plan, slots, console)
            if plan.earlier is not None:
                warm.learn(context.journal.study, plan.earlier)
            with metrics.serving(plan.options.metrics_port, plan.sweep.name, context.board):
                frame = _run(context)
            references.train(context, frame)
            code = conclude(context, frame)
    if plan.remote is not None:
        shutil.rmtree(plan.sweep.parent, ignore_errors=True)  # all of it was uploaded
    return code


def _run(context: Context) -> pd.DataFrame:
    """Run the trials that are left; return the table of all. What they left stands, come what may.

    Raises `RunError` where the sweep broke off.
    """
    scheduler = scheduler_of(context)
    broke: RunError | None = None
    with context.display as display:
        recorder = Recorder(context, scheduler)
        context.patience.tell = lambda text: display.event(text, lasting=True)
        remaining = take_up(context, scheduler)
        _announce(context, remaining)
        try:
            if remaining.to_run:
                _fit(context, recorder, remaining)
        except (tune.TuneError, RayError, StorageError) as error:
            broke = _break_off_error(context, error)
        try:
            recorder.close(context.ending.reason)
            frame = context.patience.patiently(
                lambda: context.save_table(alive=False), str(context.sweep / trials_table.TRIALS)
            )
            context.mirror.push()
        except StorageError as error:
            broke = broke or _break_off_error(context, error)
    if (broke is not None or context.ending.failed) and ray_logs.keep(context.sweep):
        with suppress(StorageError):
            context.mirror.push()
        context.print(f"Ray's own logs here: {context.plan.place(RAY_LOGS)}")
    if broke is not None:
        raise broke
    return frame


def _fit(context: Context, recorder: Recorder, remaining: Remaining) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="hlvnn-ray-") as state,
        mending(context.say),
        heeding_signals(context.ending),
    ):
        try:
            tuner_of(context, recorder, remaining, state).fit()
        except KeyboardInterrupt:
            if not context.ending.at_once:
                raise


def _break_off_error(context: Context, error: Exception) -> RunError:
    """Return what to raise where the sweep cannot go on."""
    context.patience.seconds = 0.0  # it was waited for already
    plan = context.plan
    last = re.sub(r"^[\w.]+(Error|Exception): ", "", str(error).strip().splitlines()[-1])
    left = "" if plan.remote is None else f"; what was not uploaded is in {plan.sweep}"
    broke = RunError(f"the sweep broke off: {last}; go on with: {plan.resume_command}{left}")
    broke.__cause__ = error
    return broke


def _announce(context: Context, remaining: Remaining) -> None:
    plan, options, space, board = context.plan, context.options, context.space, context.board
    ended = len(board.entries) - len(board.having(Status.NOT_STARTED))
    told = ", ".join(f"{metric} ({mode})" for metric, mode in space.objectives)
    if space.others and SCHEDULERS[options.scheduler].stops:
        told += f", stopping early on {space.metric}"
    already = f", {ended} over already" if ended else ""
    context.print(
        f"sweep {plan.place()}: {remaining.to_run} trials to run{already}, "
        f"{board.slots} at a time, selecting on {told}; searcher {options.searcher}, "
        f"scheduler {options.scheduler}"
    )
    if options.address is None and plan.was_at is not None:
        context.print(
            f"it ran on the cluster at {plan.was_at} before, and goes on on this machine; to go on "
            "there, say --address"
        )
    if plan.earlier is not None:
        context.print(plan.earlier.told())
