"""Real Ray clusters that have fewer nodes than were asked for, or none yet that can run a trial."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pandas as pd
import pytest

from tests.cluster.recipes import RECIPES, Job
from tests.helpers import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(900)]
OPEN = {"RAY_AUTH_MODE": "disabled"}


def waited(job: Job, address: str, *words: str, **env: str) -> tuple[int, str, float]:
    """Run wait_for_nodes.py; return its exit code, what it printed, and the seconds it took."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(RECIPES / "wait_for_nodes.py"), *words],
        env={**job.env, **OPEN, "RAY_ADDRESS": address, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, time.monotonic() - began


def test_fewer_nodes_than_asked_for_are_made_do_with(job: Job, head: Callable[..., str]) -> None:
    address = head(**OPEN)
    told = f"1 of 3 nodes have joined {address}: it begins with these"
    code, printed, seconds = waited(job, address, "3", HLVNN_WAIT="20")
    assert (code, printed.strip()) == (0, told)
    assert seconds > 20

    # those whose Ray has ended already, or does meanwhile, are not waited for
    with subprocess.Popen(["sleep", "3"]) as ending, subprocess.Popen(["true"]) as ended:
        ended.wait()
        pids = ("--while", str(os.getpid()), "--joining", str(ended.pid), str(ending.pid))
        code, printed, seconds = waited(job, address, "3", *pids, HLVNN_WAIT="600")
    assert (code, printed.strip()) == (0, told)
    assert seconds < 120


@contextmanager
def sweeping(job: Job, address: str, *flags: str) -> Iterator[Callable[[], str]]:
    """Run a sweep on a cluster; yield a function that waits for its end and returns its output."""
    words = ["tiny", "--name", "one", "--address", address, *flags]
    with (job.tree / "log").open("wb") as log:
        driver = subprocess.Popen(
            [sys.executable, "tune_search.py", *words],
            cwd=job.tree,
            env={**job.env, **OPEN},
            stdout=log,
            stderr=subprocess.STDOUT,
        )

    def finish() -> str:
        driver.wait(timeout=400)
        text = (job.tree / "log").read_text(encoding="utf-8")
        assert "Traceback" not in text
        return text

    try:
        yield finish
    finally:
        driver.kill()
        driver.wait()


def statuses(job: Job) -> set[str]:
    frame = pd.read_parquet(job.tree / "results" / "digits" / "one" / "trials.parquet")
    return {*frame["status"]}


def test_a_sweep_begins_on_a_head_alone_and_its_trials_when_a_node_joins(
    job: Job, head: Callable[..., str], node: Callable[..., None]
) -> None:
    address = head(HLVNN_HEAD="alone", **OPEN)
    with sweeping(job, address) as finish:  # it may be a mistake: whoever means it says so
        printed = finish()
        assert f"no node of the cluster at {address} has" in printed
        assert "on a cluster that grows say --max-concurrent" in printed
        assert not (job.tree / "results").exists()
    with sweeping(job, address, "--max-concurrent", "1") as finish:
        log = job.tree / "log"
        wait_until(lambda: "4 trials to run, 1 at a time" in log.read_text(encoding="utf-8"))
        printed = log.read_text(encoding="utf-8")
        assert "no node can run a trial yet: they wait until one joins that can" in printed
        node("worker", address, **OPEN)
        finish()
    assert statuses(job) == {"completed"}


def test_a_node_that_joins_later_runs_trials_beside_the_others(
    job: Job, head: Callable[..., str], node: Callable[..., None]
) -> None:
    address = head(**OPEN)
    # each lasts longer than a process takes to start; one that waits takes over a free one's else
    flags = ("--num-trials", "3", "--num-epochs", "800", "--grace-period", "800")
    with sweeping(job, address, *flags) as finish:
        log = job.tree / "log"
        wait_until(lambda: "3 trials to run, 1 at a time" in log.read_text(encoding="utf-8"))
        node("worker", address, **OPEN)
        before, told, after = finish().partition("nodes have joined: 2 trials at a time")
    assert statuses(job) == {"completed"}
    assert told
    assert at_a_time(before) <= 1
    assert at_a_time(before + after) == 2


def at_a_time(printed: str) -> int:
    """Return how many trials ran at a time at most, as a sweep's lines tell."""
    running: set[str] = set()
    most = 0
    for number, what in re.findall(r"\] trial (\d+) (began|completed|stopped)", printed):
        (running.add if what == "began" else running.discard)(number)
        most = max(most, len(running))
    return most
