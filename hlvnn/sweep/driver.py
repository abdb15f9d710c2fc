"""The driver: runs a planned sweep on Ray, from the first trial to the leaderboard."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import tempfile
import time
from pathlib import Path

import pandas as pd
import ray
from optuna.trial import TrialState
from ray import tune
from ray.exceptions import RayError
from ray.tune.experiment import Trial
from rich.console import Console

from hlvnn.errors import RunError, StorageError
from hlvnn.patience import Patience
from hlvnn.records import journal, outcomes, run_folder, trials_table, weight_files
from hlvnn.records.board import Board
from hlvnn.records.journal import STUDY, Draw, Journal
from hlvnn.records.outcomes import Outcome, Status, trial_folder
from hlvnn.records.perturbations import PERTURBATIONS, Change, settings_now
from hlvnn.records.schedulers import SCHEDULERS
from hlvnn.records.sweep_folder import locked
from hlvnn.storage import Remote, readable, shown_path
from hlvnn.sweep import cluster, trackers, warm
from hlvnn.sweep.comparing import Row
from hlvnn.sweep.copies import Mirror
from hlvnn.sweep.ending import Ending, signals
from hlvnn.sweep.plan import Plan, begin
from hlvnn.sweep.population import Exchange
from hlvnn.sweep.proposer import Proposer
from hlvnn.sweep.ray_callback import Recorder
from hlvnn.sweep.ray_patch import mending
from hlvnn.sweep.ray_search import JournaledSearch
from hlvnn.sweep.schedulers import MAKERS, Rules
from hlvnn.sweep.searchers import sampler
from hlvnn.sweep.trainable import Trainable, scalars
from hlvnn.terminal import LiveDisplay, front, leaderboard
from hlvnn.words import duration, shown

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
            code = _Driver(plan, slots, console).run()
    if plan.remote is not None:
        shutil.rmtree(plan.sweep.parent, ignore_errors=True)  # all of it was uploaded
    return code


class _Driver:
    def __init__(self, plan: Plan, slots: int, console: Console) -> None:
        self.plan, self.console = plan, console
        self.options, self.space, self.sweep = plan.options, plan.space, plan.sweep
        self.patience = Patience(self.options.storage_patience)
        self.mirror = Mirror(self.sweep, plan.remote, self.patience)
        new = not (self.sweep / journal.JOURNAL).exists()
        self.journal = (
            Journal.create(
                self.sweep, *(mode for _, mode in self.space.objectives), patience=self.patience
            )
            if new
            else Journal.open(self.sweep, self.patience)
        )
        if plan.earlier is not None:
            warm.learn(self.journal.study, plan.earlier)
        self.trials = trials_table.TrialsTable(self.sweep, self.space, plan.remote)
        self.ending = Ending(self.options.time_budget)
        self.board = Board(self.space, self.options.num_trials, slots, self.ending.deadline)
        self.rules = Rules(
            metric=self.space.metric,
            mode=self.space.mode,
            max_epochs=plan.max_epochs,
            grace_period=self.options.grace_period,
            reduction_factor=self.options.reduction_factor,
            num_trials=self.options.num_trials,
            perturb_every=self.options.perturb_every,
            seed=self.options.seed,
            exchange=Exchange(
                self.sweep,
                self.space,
                lambda number: self.journal.latest()[number].params,
                self.patience.patiently,
                self._perturbed,
                self._say,
            ),
        )
        self.scheduler = MAKERS[self.options.scheduler](self.rules)
        self.known = SCHEDULERS[self.options.scheduler]

    def run(self) -> int:
        with LiveDisplay(self.board, self.console) as display:
            recorder = Recorder(
                self.sweep,
                self.options,
                self.board,
                self.scheduler,
                display,
                self.ending,
                self.patience,
                self.mirror,
                lambda: self._save_table(alive=True),
            )
            self.patience.tell = lambda text: display.event(text, lasting=True)
            to_run, open_trials = self._take_up(recorder)
            self._announce(to_run)
            broke: RunError | None = None
            try:
                if to_run:
                    # Ray keeps its own state there; nothing of it is ever read back
                    with (
                        tempfile.TemporaryDirectory(prefix="hlvnn-ray-") as state,
                        mending(self._say),
                    ):
                        self._fit(recorder, to_run, open_trials, state)
            except (tune.TuneError, RayError, StorageError) as error:
                broke = self._broken(error)
            try:
                recorder.close(self.ending.reason)
                frame = self.patience.patiently(
                    lambda: self._save_table(alive=False), str(self.sweep / trials_table.TRIALS)
                )
                self.mirror.push()
            except StorageError as error:
                broke = broke or self._broken(error)
        if broke is not None:
            raise broke
        return self._conclude(frame)

    def _perturbed(self, number: int, change: Change) -> None:
        self.board.entries[number].settings = shown(change.settings)
        self._say(f"trial {number}: {change.told()}")

    def _say(self, text: str) -> None:
        """Print a line, from whichever thread."""
        clock = f"[{time.monotonic() - self.board.started:6.1f} s] "
        self.console.print(clock + text, markup=False, highlight=False, soft_wrap=True)

    def _broken(self, error: Exception) -> RunError:
        """Return what to raise where the sweep cannot go on."""
        self.patience.seconds = 0.0  # it was waited for already
        last = re.sub(r"^[\w.]+(Error|Exception): ", "", str(error).strip().splitlines()[-1])
        left = "" if self.plan.remote is None else f"; what was not uploaded is in {self.sweep}"
        go_on = self.plan.resume_command
        broke = RunError(f"the sweep broke off: {last}; go on with: {go_on}{left}")
        broke.__cause__ = error
        return broke

    def _fit(self, recorder: Recorder, to_run: int, open_trials: list[int], state: str) -> None:
        with signals(self.ending):
            try:
                self._tuner(recorder, to_run, open_trials, state).fit()
            except KeyboardInterrupt:
                if not self.ending.at_once:
                    raise

    def _take_up(self, recorder: Recorder) -> tuple[int, list[int]]:
        """Take up what an earlier driver left.

        Returns how many trials there are to run, and the Optuna trials that go on.
        """
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
            if outcome is None and (outcome := self._missed(number, rows)) is not None:
                outcomes.write(self.sweep, outcome)
            if outcome is None or outcome.unfinished:
                unfinished[number] = rows
            else:
                self.board.ended(outcome)
                self.journal.settle(number, self._values(outcome, rows))
                ended.append(rows)
        self.scheduler.refill(ended, unfinished)
        to_run = len(unfinished) + max(0, self.options.num_trials - len(draws))
        return to_run, self.journal.to_continue(sorted(unfinished))

    def _missed(self, number: int, rows: list[Row]) -> Outcome | None:
        """Return the outcome of a trial that ended just before its driver was killed."""
        trial = self.journal.latest()[number]
        folder = trial_folder(self.sweep, number)
        if trial.state == TrialState.FAIL:
            return Outcome(trial=number, status=Status.FAILED, reason=f"see {outcomes.ERROR}")
        if trial.state != TrialState.COMPLETE:
            return None
        last = rows[-1] if rows else None
        if last is not None and last["diverged"]:
            reason = f"the loss was not finite in epoch {last['epoch']:g}"
            return Outcome(trial=number, status=Status.DIVERGED, reason=reason)
        if trial.values == [*self.space.worsts.values()] and (folder / outcomes.ERROR).exists():
            reason = f"see {outcomes.ERROR}"
            return Outcome(trial=number, status=Status.OUT_OF_MEMORY, reason=reason)
        if last is None:
            return None
        if (folder / run_folder.RESULT).exists():
            return Outcome(trial=number, status=Status.COMPLETED)
        reason = f"stopped early at epoch {last['epoch']:g}, as the driver was killed"
        return Outcome(trial=number, status=Status.STOPPED, reason=reason)

    def _values(self, outcome: Outcome, rows: list[Row]) -> list[float] | None:
        """Return what Optuna is told of a trial that ended; None for one that failed."""
        if outcome.status == Status.OUT_OF_MEMORY:
            return [*self.space.worsts.values()]
        if outcome.status == Status.FAILED or not rows:
            return None
        return [rows[-1][metric] for metric in self.space.worsts]

    def _rows(self, draw: Draw) -> list[Row]:
        """Return what Ray would have been told of a trial so far."""
        frame = trials_table.metrics(self.sweep, draw.number)
        if frame is None or draw.problem or not draw.settings:
            return []
        epochs = draw.settings["num_epochs"]
        return [scalars(row, epochs, self.space.worsts) for row in frame.to_dict("records")]

    def _tuner(
        self, recorder: Recorder, to_run: int, open_trials: list[int], state: str
    ) -> tune.Tuner:
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
        search.take_up(self.ending, open_trials)
        at_once = None
        if self.known.drawn_at_once is not None:
            at_once = self.known.drawn_at_once(options.halving(self.plan.max_epochs), to_run)
        os.environ[PENDING] = "auto" if at_once is None else str(at_once)
        return tune.Tuner(
            tune.with_resources(Trainable, {"cpu": options.cpus_per_trial, "gpu": options.gpus}),
            param_space={
                "worst": space.worsts,
                "gpus": options.gpus,
                "threads": max(1, int(options.cpus_per_trial)),
                "trial_timeout": options.trial_timeout,
                "storage_patience": options.storage_patience,
                "remote": "" if self.plan.remote is None else str(self.plan.remote),
            },
            tune_config=tune.TuneConfig(
                search_alg=search,
                scheduler=self.scheduler,
                num_samples=to_run,
                # With a limit Ray starts that many processes at once, not one by one, and draws a
                # trial only when it can begin, so that the sampler knows all there is to know.
                # Trials that wait for each other would fill the limit: these are drawn at once.
                max_concurrent_trials=self.board.slots if at_once is None else None,
                reuse_actors=True,
                trial_name_creator=_trial_name,
                trial_dirname_creator=_trial_name,
            ),
            run_config=tune.RunConfig(
                name=sweep.name,
                storage_path=state,
                stop=self.ending,
                callbacks=[recorder, *trackers.trackers(options, sweep.name)],
                failure_config=tune.FailureConfig(max_failures=options.max_failures),
                verbose=0,
            ),
        )

    def _announce(self, to_run: int) -> None:
        ended = len(self.board.entries) - len(self.board.having(Status.NOT_STARTED))
        told = ", ".join(f"{metric} ({mode})" for metric, mode in self.space.objectives)
        if self.space.others and self.known.stops:
            told += f", stopping early on {self.space.metric}"
        already = f", {ended} over already" if ended else ""
        self.console.print(
            f"sweep {self.plan.place()}: {to_run} trials to run{already}, "
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
        ranked = trials_table.ranked(frame, self.space)
        drawn = {
            number: draw.drawn | settings_now(trial_folder(self.sweep, number))
            for number, draw in self.journal.draws().items()
        }
        self.console.print(leaderboard(ranked, self.space, drawn, self.console.width))
        numbers = frame["status"].value_counts().items()
        counts = ", ".join(f"{count} {status}" for status, count in numbers)
        lines = [
            f"{len(frame)} trials in {duration(time.monotonic() - self.board.started)}: {counts}",
            f"every trial: {self.plan.place(trials_table.TRIALS)}",
            f"everything: {self.plan.place()}",
        ]
        best = ranked.iloc[0]
        if self.options.report:
            lines.append(_report(self.sweep, self.plan.remote))
        found = best["status"] in trials_table.PLACED and not pd.isna(
            best.get(f"best_{self.space.metric}")
        )
        if found:
            folder = trial_folder(self.sweep, int(best["trial"]))
            place = self.plan.place(folder.name)
            if (folder / PERTURBATIONS).exists():
                lines.append(f"the best took over other trials, see {place}/{PERTURBATIONS}")
            else:
                lines.append(f"repeat the best: python train_one.py --from-trial {place}")
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
        try:
            freed = weight_files.prune(self.plan.remote or self.sweep, ranked, keep)
        except OSError as error:
            return [f"weights: not all that was to go could be deleted: {error}"]
        return [f"weights: kept the best {keep} trials', freed {freed.bytes / 1e6:.1f} MB"]


def _report(sweep: Path, remote: Remote | None = None) -> str:
    """Write the report of a sweep; return a line that says where it is, or why there is none.

    remote: the address at which it lives, when `sweep` is the driver's copy of a part of it.
    The sweep is over and recorded by then, so that nothing here may fail it.
    """
    place = shown_path(sweep) if remote is None else shlex.quote(str(remote))
    again = f"python -m hlvnn.analysis {place}"
    try:
        from hlvnn.analysis import report

        written = report.of_ended_sweep(sweep if remote is None else readable(str(remote)))
        if remote is not None:
            remote.write(written.name, written.read_bytes())
        return f"report: {shown_path(written)}"
    except ModuleNotFoundError as error:
        return f"no report: it needs {error.name}; pip install 'hlvnn[analysis]', then {again}"
    except Exception as error:  # noqa: BLE001
        return f"no report: {type(error).__name__}: {error}; to see why: {again}"


def _one_or_all(names: list[str]) -> str | list[str]:
    """Return the one name there is, or the list: Ray takes the former for a single objective."""
    return names[0] if len(names) == 1 else names


def _trial_name(trial: Trial) -> str:
    return f"trial_{trial.config['trial']:04d}"
