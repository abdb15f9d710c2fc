"""A real Ray cluster on this machine, a sweep on it, and hands that kill parts of both."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pandas as pd
import psutil
from ray.cluster_utils import Cluster

from hlvnn.records import outcomes, run_folder
from hlvnn.records.checkpoint import load_checkpoint
from hlvnn.records.journal import NUMBER, Journal
from hlvnn.training import execution
from tests.helpers import ROOT
from tests.runs import TIMED

os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
SPACE = """
BASE = {"dataset": "digits", "backbone": "mlp", "hidden": [16], "batch_size": 32, "patience": None}
METRIC, MODE = "val_acc", "max"

def space(trial):
    drawn = {"lr": trial.suggest_float("lr", 1e-3, 1e-1, log=True)}
    drawn["latent_config"] = trial.suggest_categorical("latent_config", ["none", "factor"])
    return drawn
"""
PATIENCE = 240.0
"""Seconds in which what is waited for must happen."""


def wait_until(condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"waited {seconds:g} s for {what}"
        time.sleep(0.05)


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it ended just now
        return ""


class Sweep:
    """A sweep of digits in the folder `here`, by drivers in processes of their own."""

    def __init__(self, here: Path, num_trials: int, num_epochs: int, *flags: str) -> None:
        self.here = here
        self.folder = here / "results" / "digits" / "sweep"
        self.num_trials = num_trials
        self.flags = ["--num-epochs", str(num_epochs), "--num-trials", str(num_trials), *flags]
        self.log = here / "driver.log"
        self.within: list[str] = []
        """Words before the driver's command, to run it elsewhere."""
        self.place = "results/digits/sweep"
        """What --resume is given."""
        self.more: list[str] = []
        """Flags of this driver alone."""
        self.finished: dict[Path, bytes] = {}
        """Every file of each trial that had ended, as it was when it was first seen so."""
        (here / "search_spaces").mkdir()
        (here / "search_spaces" / "study.py").write_text(SPACE, encoding="utf-8")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.driver.kill()
        self.driver.wait()

    def start(self) -> None:
        """Start the first driver."""
        self.driver = self._started("study", "--name", "sweep", *self.flags)

    def resume(self, *flags: str) -> None:
        """Start another driver, which goes on with the sweep."""
        self.driver = self._started("--resume", self.place, *flags)

    def _started(self, *args: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(ROOT / "tune_search.py"), *args, *self.more]
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*self.within, *command], cwd=self.here, stdout=log, stderr=subprocess.STDOUT
            )

    def said(self) -> str:
        """Return what the drivers have printed."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    # what is seen

    def ended(self) -> list[int]:
        """Return the trials that have ended."""
        found = [outcomes.read(self.folder, number) for number in range(self.num_trials)]
        return [outcome.trial for outcome in found if outcome and not outcome.unfinished]

    def epochs(self) -> int:
        """Return the epochs that were trained so far, of all trials."""
        return len(list(self.folder.glob(f"trial_*/{run_folder.STATS}/epoch_*.parquet")))

    def under_way(self) -> list[int]:
        """Return the trials with a checkpoint that have not ended."""
        ended = self.ended()
        paths = self.folder.glob(f"trial_*/{run_folder.CHECKPOINT}")
        return sorted({int(path.parent.name[6:]) for path in paths} - set(ended))

    def wait_for_progress(self) -> None:
        """Wait until a trial is in its midst, three epochs further than now."""
        before = self.epochs()
        wait_until(
            lambda: self.over() or (self.epochs() >= before + 3 and self.under_way()), "progress"
        )

    def over(self) -> bool:
        return self.driver.poll() is not None

    def note_finished(self) -> None:
        """Remember every byte of the trials that have ended."""
        for number in self.ended():
            for path in outcomes.trial_folder(self.folder, number).rglob("*"):
                if path.is_file():
                    self.finished.setdefault(path, path.read_bytes())

    def raylets(self) -> list[int]:
        """Return the process ids above the workers' processes."""
        return [self.driver.pid]

    def trial_processes(self) -> list[psutil.Process]:
        """Return the processes that run a trial."""
        children = [
            process
            for above in self.raylets()
            if psutil.pid_exists(above)
            for process in psutil.Process(above).children(recursive=True)
        ]
        return [process for process in children if "Trainable.train" in _command(process)]

    # what is done

    def kill_trial(self, chosen: random.Random, how: signal.Signals = signal.SIGKILL) -> str:
        """Kill (or halt) the process of a running trial."""
        wait_until(lambda: self.over() or self.trial_processes(), "a trial's process")
        self.note_finished()
        for process in chosen.sample(processes := self.trial_processes(), min(1, len(processes))):
            os.kill(process.pid, how)
            return f"a trial's process ({how.name})"
        return "no trial's process (none ran)"

    def kill_driver(self, chosen: random.Random | None = None) -> str:
        """Kill the driver, and resume its sweep."""
        self.driver.kill()
        self.driver.wait()
        self.note_finished()
        self.resume()
        return "the driver"

    def finish(self) -> str:
        """Wait for the sweep's end; return all that its drivers printed."""
        wait_until(self.over, "the sweep's end", 2 * PATIENCE)
        text = self.said()
        assert self.driver.returncode == 0, text[-3000:]
        assert "Traceback" not in text
        return text

    def check(self) -> pd.DataFrame:
        """Check that nothing was lost, doubled or done again; return the table of trials."""
        frame = pd.read_parquet(self.folder / "trials.parquet")
        assert frame["trial"].tolist() == list(range(self.num_trials))
        told = frame[["status", "reason", "error"]].to_string(max_colwidth=None)
        assert set(frame["status"]) <= {"completed", "stopped"}, told
        assert not frame["unfinished"].any()
        for row in frame.to_dict("records"):
            trial = outcomes.trial_folder(self.folder, row["trial"])
            epochs = list(range(1, row["epochs"] + 1))
            assert run_folder.read_metrics(trial)["epoch"].tolist() == epochs
            groups = run_folder.read_groups(trial)
            assert sorted(groups["epoch"].unique()) == epochs
            assert not groups.duplicated(["epoch", "level", "gid", "split"]).any()
            assert (groups.groupby("epoch").size() == len(groups) / len(epochs)).all()
            assert (row["status"] == "completed") == (trial / run_folder.RESULT).exists()
        for path, content in self.finished.items():
            assert path.read_bytes() == content, f"{path} of a finished trial has changed"
        study = Journal.open(self.folder).study
        assert [trial.user_attrs[NUMBER] for trial in study.trials] == frame["trial"].tolist()
        assert all(trial.state.name == "COMPLETE" for trial in study.trials)
        for trial, epochs in zip(study.trials, frame["epochs"], strict=True):
            assert max(trial.intermediate_values) <= epochs
        return frame

    def check_repeatable(self, number: int) -> None:
        """Check that a trial is what it would have been, had nothing been killed."""
        trial = outcomes.trial_folder(self.folder, number)
        metrics = run_folder.read_metrics(trial)
        state = load_checkpoint(trial / run_folder.CHECKPOINT)

        class EnoughError(Exception):
            pass

        def report(epoch: Any) -> None:
            if epoch.epoch == state["epoch"]:
                raise EnoughError

        again = self.here / f"again_{number}"
        with suppress(EnoughError):
            execution.execute(run_folder.read_config(trial), again, report=report)
        assert state["epoch"] == len(metrics)
        pd.testing.assert_frame_equal(
            run_folder.read_metrics(again).drop(columns=TIMED),
            metrics.drop(columns=TIMED),
            check_exact=True,
        )
        theirs = load_checkpoint(again / run_folder.CHECKPOINT)["model"]
        assert all((state["model"][name] == theirs[name]).all() for name in theirs)


class Stage(Sweep):
    """A cluster: a head without room for trials, two worker nodes of one CPU, and a sweep on it."""

    def __enter__(self) -> Self:
        quick = {"health_check_period_ms": 500, "health_check_failure_threshold": 10}
        self.cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0,
                "include_dashboard": False,
                "object_store_memory": 80_000_000,
                "_system_config": quick,
            },
        )
        self.nodes = [self.new_node(), self.new_node()]
        self.more = ["--address", self.cluster.address]
        return super().__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)
        self.cluster.shutdown()

    def new_node(self) -> Any:
        return self.cluster.add_node(num_cpus=1, object_store_memory=80_000_000)

    def raylets(self) -> list[int]:
        return [
            raylet.process.pid for node in self.nodes for raylet in node.all_processes["raylet"]
        ]

    def remove_node(self, chosen: random.Random) -> str:
        """Take a worker node away, with all that runs on it; another takes its place."""
        self.note_finished()
        node = self.nodes.pop(chosen.randrange(len(self.nodes)))
        self.cluster.remove_node(node, allow_graceful=False)
        self.nodes.append(self.new_node())
        return "a worker node"
