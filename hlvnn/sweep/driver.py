"""The driver: runs a planned sweep on Ray, from the first trial to the leaderboard."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pandas as pd
import ray
from ray import tune
from ray.exceptions import RayError
from ray.tune.experiment import Trial
from ray.tune.search.optuna import OptunaSearch
from rich.console import Console

from hlvnn.errors import RunError
from hlvnn.sweep import cluster, journal, keeping, outcomes, table, warm
from hlvnn.sweep.board import Board
from hlvnn.sweep.display import LiveDisplay, duration, front, leaderboard
from hlvnn.sweep.halving import Row
from hlvnn.sweep.journal import STUDY, Draw, Journal, Proposer
from hlvnn.sweep.outcomes import Status, trial_folder
from hlvnn.sweep.plan import Plan, begin, locked, shown_path
from hlvnn.sweep.recorder import Recorder
from hlvnn.sweep.schedulers import SCHEDULERS, Rules, band_size
from hlvnn.sweep.searchers import sampler
from hlvnn.sweep.trainable import run_trial, scalars

RAY_FOLDER = "ray"
"""Ray's own state, of which nothing is ever read back."""
PENDING = "TUNE_MAX_PENDING_TRIALS_PG"
"""Ray's variable: how many trials may be drawn before they can begin."""


def run(plan: Plan, console: Console) -> int:
    """Run (or go on with) a sweep; return the exit code: 0, 1 without any result, 130 interrupted.

    Raises `ResourceError` when no node could run a trial, and `RunError` when another driver works
    on the sweep or Ray breaks down. Whatever happens, the folder can be resumed.
    """
    if plan.options.address is None and not ray.is_initialized():
        cluster.check(plan.options, [cluster.this_machine()])  # sooner than Ray starts
    with cluster.connected(plan.options.address):
        nodes = cluster.nodes()
        cluster.check(plan.options, nodes)
        slots = cluster.slots(plan.options, nodes)
        with locked(plan.sweep):
            journal.mend(plan.sweep)
            begin(plan)
            return _Driver(plan, slots, console).run()


class JournaledSearch(OptunaSearch):
    """Ray's OptunaSearch, whose state is its journal: nothing is pickled."""

    def save(self, checkpoint_path: str) -> None:
        """Do nothing."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class Ending(tune.Stopper):
    """Ends the sweep when its time is over, or when it is asked to by a signal."""

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self.deadline = None if seconds is None else time.monotonic() + seconds
        self.interrupted = False

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.interrupted or self.out_of_time

    @property
    def out_of_time(self) -> bool:
        """Whether the time budget is over."""
        return self.deadline is not None and time.monotonic() >= self.deadline

    @property
    def reason(self) -> str:
        """Why the sweep ended."""
        if self.interrupted:
            return "the sweep was interrupted; --resume goes on with it"
        if self.out_of_time:
            return f"the time budget of {duration(self.seconds or 0)} was over; --resume goes on"
        return "the sweep broke off; --resume goes on with it"


class _Driver:
    def __init__(self, plan: Plan, slots: int, console: Console) -> None:
        self.plan, self.console = plan, console
        self.options, self.space, self.sweep = plan.options, plan.space, plan.sweep
        new = not (self.sweep / journal.JOURNAL).exists()
        self.journal = (
            Journal.create(self.sweep, *(mode for _, mode in self.space.objectives))
            if new
            else Journal.open(self.sweep)
        )
        if plan.earlier is not None:
            warm.learn(self.journal.study, plan.earlier)
        self.trials = table.TrialsTable(self.sweep, self.space)
        self.ending = Ending(self.options.time_budget)
        self.board = Board(self.space, self.options.num_trials, slots, self.ending.deadline)
        self.rules = Rules(
            metric=self.space.metric,
            mode=self.space.mode,
            max_epochs=plan.max_epochs,
            grace_period=self.options.grace_period,
            reduction_factor=self.options.reduction_factor,
        )
        self.scheduler = SCHEDULERS[self.options.scheduler](self.rules)

    def run(self) -> int:
        with LiveDisplay(self.board, self.console) as display:
            recorder = Recorder(
                self.sweep,
                self.options,
                self.board,
                self.scheduler,
                display,
                lambda: self._save_table(alive=True),
            )
            to_run = self._take_up(recorder)
            self._announce(to_run)
            try:
                if to_run:
                    with _signals(self.ending):
                        self._tuner(recorder, to_run).fit()
            except (tune.TuneError, RayError) as error:
                last = str(error).strip().splitlines()[-1]
                raise RunError(
                    f"the sweep broke off: {last}; go on with: {self.plan.resume_command}"
                ) from error
            finally:
                recorder.close(self.ending.reason)
                self.journal.let_go()
                frame = self._save_table(alive=False)
        return self._conclude(frame)

    def _take_up(self, recorder: Recorder) -> int:
        """Take up what an earlier driver left; return how many trials there are to run."""
        draws = self.journal.draws()
        ended: list[list[Row]] = []
        unfinished: dict[int, list[Row]] = {}
        for number, draw in draws.items():
            recorder.on_draw(draw)
            rows = self._rows(draw)
            for row in rows:
                self.board.told(number, dict(row))
            self.board.entries[number].first_epoch = self.board.entries[number].epoch
            outcome = outcomes.read(self.sweep, number)
            if outcome is None or outcome.unfinished:
                unfinished[number] = rows
            else:
                self.board.ended(outcome)
                ended.append(rows)
        self.journal.let_go()
        self.journal.queue_again(sorted(unfinished))
        self.scheduler.refill(ended, unfinished)
        return len(unfinished) + max(0, self.options.num_trials - len(draws))

    def _rows(self, draw: Draw) -> list[Row]:
        """Return what Ray would have been told of a trial so far."""
        frame = table.metrics(self.sweep, draw.number)
        if frame is None or draw.problem or not draw.settings:
            return []
        epochs = draw.settings["num_epochs"]
        return [scalars(row, epochs, self.space.worsts) for row in frame.to_dict("records")]

    def _tuner(self, recorder: Recorder, to_run: int) -> tune.Tuner:
        sweep, options, space = self.sweep, self.options, self.space
        proposer = Proposer(
            space,
            seed=options.seed,
            fixed=self.plan.fixed,
            earlier=self.journal.draws(),
            folder_of=lambda number: trial_folder(sweep, number),
            on_draw=recorder.on_draw,
        )
        search = JournaledSearch(
            proposer,
            metric=_one_or_all([metric for metric, _ in space.objectives]),
            mode=_one_or_all([mode for _, mode in space.objectives]),
            storage=self.journal.storage,
            study_name=STUDY,
            sampler=sampler(options.searcher, options.seed, len(self.journal)),
        )
        brackets = options.scheduler == "hyperband"
        os.environ[PENDING] = str(band_size(self.rules)) if brackets else "auto"
        starts = len(list((sweep / RAY_FOLDER).glob("start_*")))
        return tune.Tuner(
            tune.with_resources(run_trial, {"cpu": options.cpus_per_trial, "gpu": options.gpus}),
            param_space={
                "worst": space.worsts,
                "gpus": options.gpus,
                "threads": max(1, int(options.cpus_per_trial)),
            },
            tune_config=tune.TuneConfig(
                search_alg=search,
                scheduler=self.scheduler,
                num_samples=to_run,
                # With a limit Ray starts that many processes at once, not one by one, and draws a
                # trial only when it can begin, so that the sampler knows all there is to know.
                # HyperBand's waiting trials would fill the limit; it draws brackets instead.
                max_concurrent_trials=None if brackets else self.board.slots,
                reuse_actors=True,
                trial_name_creator=_trial_name,
                trial_dirname_creator=_trial_name,
            ),
            run_config=tune.RunConfig(
                name=f"start_{starts:03d}",
                storage_path=str(sweep / RAY_FOLDER),
                stop=self.ending,
                callbacks=[recorder],
                failure_config=tune.FailureConfig(max_failures=options.max_failures),
                verbose=0,
            ),
        )

    def _announce(self, to_run: int) -> None:
        ended = len(self.board.entries) - len(self.board.having(Status.NOT_STARTED))
        told = ", ".join(f"{metric} ({mode})" for metric, mode in self.space.objectives)
        if self.space.others and self.options.scheduler != "none":
            told += f", stopping early on {self.space.metric}"
        already = f", {ended} over already" if ended else ""
        self.console.print(
            f"sweep {shown_path(self.sweep)}: {to_run} trials to run{already}, "
            f"{self.board.slots} at a time, selecting on {told}; searcher {self.options.searcher}, "
            f"scheduler {self.options.scheduler}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        if self.plan.earlier is not None:
            self.console.print(
                self.plan.earlier.told(), markup=False, highlight=False, soft_wrap=True
            )

    def _save_table(self, alive: bool) -> pd.DataFrame:
        return self.trials.write(self.journal.draws(), self.options.num_trials, alive)

    def _conclude(self, frame: pd.DataFrame) -> int:
        """Print the leaderboard and where everything is; return the exit code."""
        ranked = table.ranked(frame, self.space)
        drawn = {number: draw.drawn for number, draw in self.journal.draws().items()}
        self.console.print(leaderboard(ranked, self.space, drawn, self.console.width))
        numbers = frame["status"].value_counts().items()
        counts = ", ".join(f"{count} {status}" for status, count in numbers)
        lines = [
            f"{len(frame)} trials in {duration(time.monotonic() - self.board.started)}: {counts}",
            f"every trial: {shown_path(self.sweep / table.TRIALS)}",
            f"everything: {shown_path(self.sweep)}",
        ]
        best = ranked.iloc[0]
        if self.options.report:
            lines.append(_report(self.sweep))
        found = best["status"] in table.PLACED and not pd.isna(
            best.get(f"best_{self.space.metric}")
        )
        if found:
            folder = trial_folder(self.sweep, int(best["trial"]))
            lines.append(f"repeat the best: python train_one.py --from-trial {shown_path(folder)}")
        lines = [*front(ranked, self.space), *lines, *self._prune(ranked)]
        if (frame["unfinished"] | (frame["status"] == Status.NOT_STARTED)).any():
            lines.append(f"go on: {self.plan.resume_command}")
        for line in lines:
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)
        if self.ending.interrupted:
            return 130
        return 0 if found else 1

    def _prune(self, ranked: pd.DataFrame) -> list[str]:
        """Delete the weights that are not to be kept; return what is to be told of it."""
        keep = self.options.keep_checkpoints
        if keep is None:
            return []
        freed = keeping.prune(self.sweep, ranked, keep)
        return [f"weights: kept the best {keep} trials', freed {freed.bytes / 1e6:.1f} MB"]


def _report(sweep: Path) -> str:
    """Write the sweep's report; return a line that says where it is, or why there is none.

    The sweep is over and recorded by then, so that nothing here may fail it.
    """
    again = f"python -m hlvnn.analysis {shown_path(sweep)}"
    try:
        from hlvnn.analysis import report

        return f"report: {shown_path(report.of_ended_sweep(sweep))}"
    except ModuleNotFoundError as error:
        return f"no report: it needs {error.name}; pip install 'hlvnn[analysis]', then {again}"
    except Exception as error:  # noqa: BLE001
        return f"no report: {type(error).__name__}: {error}; to see why: {again}"


@contextmanager
def _signals(ending: Ending) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the sweep in order; a second Ctrl-C ends it at once."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        ending.interrupted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    both = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, interrupt) for number in both}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _one_or_all(names: list[str]) -> str | list[str]:
    """Return the one name there is, or the list: Ray takes the former for a single objective."""
    return names[0] if len(names) == 1 else names


def _trial_name(trial: Trial) -> str:
    return f"trial_{trial.config['trial']:04d}"
