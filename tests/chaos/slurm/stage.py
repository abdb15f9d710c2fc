"""Sweeps on the real Slurm of kit.py: what is submitted, seen, and checked afterwards."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.chaos import stage
from tests.chaos.slurm.kit import Job, Kit
from tests.chaos.slurm.nodes import USERS, wait_for
from tests.helpers import ROOT

SHARED = "cluster/slurm_shared.sh"
PART = ("--cpus-per-task=1", "--mem=4G")
"""What a job on shared nodes asks of each."""
EPOCHS = 30
FLAGS = ("--grace-period", "15", "--max-failures", "3", "--searcher", "random")
FLAGS += ("--no-pooled-reference", "--no-report")


class Submitted(stage.Sweep):
    """A sweep of digits that jobs of a user run: the same line begins it and goes on with it."""

    def __init__(
        self, kit: Kit, name: str, user: str = "alice", trials: int = 8, epochs: int = EPOCHS
    ) -> None:
        self.kit, self.name, self.user = kit, name, user
        self.here = kit.tree(user)
        self.folder = self.here / "results" / "digits" / name
        self.num_trials = trials
        self.finished = {}
        space = self.here / "search_spaces" / "study.py"
        space.write_text(stage.SPACE, encoding="utf-8")
        os.chown(space, USERS[user], USERS[user])
        self.flags = ["study", "--name", name, "--or-resume", "--num-epochs", str(epochs)]
        self.flags += ["--num-trials", str(trials), *FLAGS]
        self.place = f"results/digits/{name}"
        self.job: Job

    def submit(
        self, *options: str, script: str = SHARED, part: Sequence[str] = PART, **env: str
    ) -> Job:
        """Submit the line; return the job."""
        part = part if script == SHARED else ()
        small = {"HLVNN_OBJECT_STORE": "100000000"}
        words = (*part, *options, script, *self.flags)
        self.job = self.kit.submit(*words, user=self.user, **small, **env)
        return self.job

    def over(self) -> bool:
        return self.job.state not in ("PENDING", "RUNNING", "COMPLETING")

    def wait_until_under_way(self) -> None:
        """Wait until a trial has ended and another one is in its midst."""
        try:
            wait_for(lambda: self.ended() and self.under_way(), "a sweep in its midst")
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.job.state}: {self.job.printed()}") from None
        self.note_finished()

    def check_whole(self) -> None:
        """Check that the sweep is whole, and that nothing of its jobs runs or lies about."""
        self.check()
        assert "Traceback" not in self.job.printed()
        self.check_gone()

    def check_gone(self) -> None:
        """Check that no process, folder or token of the user's is left on any node."""
        wait_for(lambda: not self.kit.processes(self.user), "end of all processes", 40)
        left = [str(path) for place in self.kit.left(self.user) for path in place.rglob("*")]
        assert self.kit.left(self.user) == [], left[:20]
        assert not (self.here.parent / ".ray").exists()  # where a token could be

    def memory_monitors(self, nodes: int) -> list[str]:
        """Return what each node's Ray logs of its memory monitor, once so many do."""

        def logged() -> list[str]:
            places = self.kit.left(self.user)
            logs = [log for place in places for log in place.glob("r/session_2*/logs/raylet.out")]
            lines = [line for log in logs for line in log.read_text("utf-8").splitlines()]
            return [line for line in lines if "ThresholdMemoryMonitor" in line]

        return wait_for(lambda: len(logged()) >= nodes and logged(), "memory monitors", 120)

    def attack(self, node: str, by: str) -> tuple[dict[str, list[str]], list[str]]:
        """Have another user of a node try what he can; return what there was, and what he did."""
        python, uid = sys.executable, str(USERS[self.user])
        of_node = [path for path in self.kit.left(self.user) if f"nodes/{node}/" in str(path)]
        (private,) = [path for path in of_node if (path / "r").exists()]
        intruder = self.here / "intruder.py"
        intruder.write_text((ROOT / "tests/cluster/intruder.py").read_text(encoding="utf-8"))
        pids = self.kit.run(node, "pgrep", "-u", uid).split()
        looked = self.kit.run(node, python, str(intruder), "look", f"/tmp/{private.name}", *pids)
        target = json.loads(looked.splitlines()[-1])
        target |= {"secret": self.token(node)}
        (path := self.kit.folder / "target.json").write_text(json.dumps(target), encoding="utf-8")
        done = self.kit.run(node, python, str(intruder), str(USERS[by]), str(path))
        intruder.unlink()
        return target, json.loads(done.splitlines()[-1])

    def token(self, node: str) -> str:
        """Return the job's token, from the environment of its driver on that node."""
        environment = Path(f"/proc/{self.kit.pids[node]}/root/proc/{self.driver_pid(node)}/environ")
        words = environment.read_text(encoding="utf-8").split("\0")
        (token,) = [word for word in words if word.startswith("RAY_AUTH_TOKEN=")]
        return token.partition("=")[2]

    def check_nowhere(self, token: str) -> None:
        """Check that no file of the user's holds a token."""
        files = [path for path in self.here.parent.rglob("*") if path.is_file()]
        assert any(path.name == "raylet.out" for path in files)  # what a failed sweep has left
        assert [path for path in files if token.encode() in path.read_bytes()] == []

    def driver_pid(self, node: str) -> int:
        """Return the process id, in its node, of the sweep's driver."""
        words = ("pgrep", "-u", str(USERS[self.user]), "-f", "tune_search.py study")
        return int(self.kit.run(node, *words).split()[0])
