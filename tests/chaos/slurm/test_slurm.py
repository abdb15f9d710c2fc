"""Sweeps on a real Slurm of three nodes, which are cut short in every way that Slurm has.

After each: trials that had ended are as they were, no epoch is lost or there twice, and no process
or folder of the jobs is left. `make slurm` runs this.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pandas as pd
import pytest

from tests.chaos.slurm.kit import Kit, why_not
from tests.chaos.slurm.nodes import wait_for
from tests.chaos.slurm.stage import Submitted

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.xdist_group("slurm"),
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "-"),
]


@pytest.fixture(scope="module")
def kit() -> Iterator[Kit]:
    with Kit() as made:
        yield made


@pytest.fixture(autouse=True)
def ready(kit: Kit) -> None:
    """Wait until the last test's job has left its nodes."""
    kit.cancel_all()  # of a test that failed
    wait_for(lambda: kit.idle() == 3, "three idle nodes", 90)


# to the end


def test_whole_nodes_with_gpus_of_the_job(kit: Kit) -> None:
    sweep = Submitted(kit, "whole", trials=4)
    job = sweep.submit("--nodes=2", "--gpus=2", script="cluster/slurm.sh")
    monitors = sweep.memory_monitors(2)
    assert all("initialized with usage threshold" in line for line in monitors), monitors
    job.ends("COMPLETED")
    assert f"{2 * (os.cpu_count() or 1)} at a time" in sweep.job.printed()  # as Ray counts them
    sweep.check_whole()


def test_shared_nodes_of_another_kind(kit: Kit) -> None:
    """Its name is a loopback address, as on Debian; /dev/shm is small; options clash no more.

    By the threshold given here each node is full, of others' memory: Ray would kill every trial.
    """
    kit.kill_node("n1")
    hosts = kit.folder / "nodes" / "n1" / "etc" / "hosts"
    before = hosts.read_text(encoding="utf-8")
    hosts.write_text(f"127.0.1.1 n1\n{before.replace('10.77.0.1 n1', '')}", encoding="utf-8")
    kit.shm = "64m"
    kit.restart_node("n1")
    wait_for(lambda: kit.idle() == 3, "three idle nodes", 60)
    try:
        sweep = Submitted(kit, "other", trials=4)
        part = ("--gpus-per-node=1", "--cpus-per-gpu=2", "--mem=4G")
        full = {"RAY_memory_usage_threshold": "0.001"}
        sweep.submit("--nodes=2", "-w", "n1,n2", part=part, **full)
        monitors = sweep.memory_monitors(2)
        assert all("disabled" in line for line in monitors), monitors
        sweep.job.ends("COMPLETED")
        sweep.check_whole()
    finally:
        hosts.write_text(before, encoding="utf-8")
        kit.shm = "2g"
        kit.kill_node("n1")
        kit.restart_node("n1")


def test_two_users_on_a_node_of_whom_one_attacks_the_other(kit: Kit) -> None:
    victim = Submitted(kit, "victim", trials=10)
    victim.submit("--nodes=1", "-w", "n1")
    victim.wait_until_under_way()
    neighbour = Submitted(kit, "neighbour", user="bob", trials=2)
    neighbour.submit("--nodes=1", "-w", "n1")
    target, done = victim.attack("n1", by="bob")
    assert len(target["files"]) > 20
    assert any("working_dir_files" in name for name in target["folders"])
    assert len(target["sockets"]) >= 2
    assert len(target["grpc"]) >= 4
    assert done == []
    neighbour.job.ends("COMPLETED")
    neighbour.check_whole()
    victim.job.ends("COMPLETED")
    victim.check_whole()


def test_a_declared_gpu_that_torch_cannot_use_is_refused(kit: Kit) -> None:
    sweep = Submitted(kit, "gpus", trials=2)
    sweep.flags += ["--gpus-per-trial", "0.5"]
    job = sweep.submit("--nodes=2", "--gpus-per-node=1")
    job.ends("FAILED")
    assert job.show("ExitCode") == "2:0"
    (line,) = [line for line in job.printed().splitlines() if line.startswith("error:")]
    for node in ("n1", "n2"):
        assert f"{node} was given a GPU (CUDA_VISIBLE_DEVICES=0), and torch" in line
    assert not sweep.folder.exists()
    sweep.check_gone()


# losses


def test_a_node_is_lost(kit: Kit) -> None:
    sweep = Submitted(kit, "node", trials=12)
    sweep.submit("--nodes=3")
    sweep.wait_until_under_way()
    kit.kill_node("n3")
    try:
        sweep.job.ends("COMPLETED")
        sweep.check()
        assert "Traceback" not in sweep.job.printed()
        wait_for(lambda: not kit.processes("alice"), "end of all processes", 40)
    finally:
        kit.restart_node("n3")
    # what it left on the lost node, and nowhere else, is swept up by the user's next job there
    assert kit.left("alice")
    assert all("/nodes/n3/" in str(path) for path in kit.left("alice"))
    after = Submitted(kit, "after", trials=2)
    wait_for(lambda: kit.idle() == 3, "three idle nodes", 60)
    after.submit("--nodes=1", "-w", "n3").ends("COMPLETED")
    after.check_whole()


def test_the_heads_node_is_lost(kit: Kit) -> None:
    sweep = Submitted(kit, "head")
    soon = {"RAY_gcs_rpc_server_reconnect_timeout_s": "15"}  # until Ray on n2 gives its head up
    job = sweep.submit("--nodes=2", "-w", "n1,n2", **soon)
    sweep.wait_until_under_way()
    kit.kill_node("n1")
    try:
        job.wait_for_restart()
        left = kit.left("alice")
        assert left
        for path in left:  # of more than a moment ago: swept up when the job is there again
            assert "/nodes/n1/" in str(path)
            os.utime(path / "owner", (0, 0))
    finally:
        kit.restart_node("n1")
    job.ends("COMPLETED")
    sweep.check_whole()


def test_the_driver_is_killed(kit: Kit) -> None:
    sweep = Submitted(kit, "driver")
    sweep.submit("--nodes=2")
    sweep.wait_until_under_way()
    token = sweep.token("n1")
    kit.run("n1", "kill", "-KILL", str(sweep.driver_pid("n1")))
    sweep.job.ends("FAILED")
    sweep.check_gone()
    kept = sweep.here / f"slurm-{sweep.job.number}.ray"
    assert {path.name for path in kept.iterdir()} == {"n1", "n2"}
    assert kept.stat().st_mode & 0o077 == 0
    sweep.check_nowhere(token)
    sweep.submit("--nodes=2").ends("COMPLETED")
    sweep.check_whole()


def test_a_requeued_job_goes_on_by_itself(kit: Kit) -> None:
    sweep = Submitted(kit, "requeued")
    job = sweep.submit("--nodes=2")
    sweep.wait_until_under_way()
    kit.run("ctl", "scontrol", "requeue", job.number, user="alice")
    job.wait_for_restart()
    job.ends("COMPLETED")
    assert job.printed().count("sweep results/digits/requeued:") == 2  # the first's is kept
    sweep.check_whole()


@pytest.mark.parametrize("parameters", ["idle_on_node_suspend", "preempt_send_user_signal"])
def test_a_preempted_job_goes_on_by_itself(kit: Kit, parameters: str) -> None:
    kit.write_conf(PARAMETERS=parameters)
    kit.run("ctl", "scontrol", "reconfigure")
    sweep = Submitted(kit, f"preempted-{parameters[:4]}", trials=12)
    job = sweep.submit("--nodes=2", "-p", "low", "-w", "n1,n2")
    sweep.wait_until_under_way()
    above = kit.submit("-p", "high", "--exclusive", "-w", "n1,n2", "--wrap", "sleep 5", user="bob")
    wait_for(lambda: above.state == "RUNNING", "the job above", 90)
    if parameters == "preempt_send_user_signal":  # it ended in order
        assert "interrupted: running trials finish their epoch" in job.printed()
        frame = pd.read_parquet(sweep.folder / "trials.parquet")
        assert "running" not in set(frame["status"])
    above.ends("COMPLETED")
    job.wait_for_restart()
    job.ends("COMPLETED")
    assert job.show("Restarts") == "1"
    sweep.check_whole()


# ends


def test_scancel(kit: Kit) -> None:
    """Slurm ends all at once: no last tables, but nothing is left behind, and the line goes on."""
    sweep = Submitted(kit, "cancelled", trials=16)
    sweep.submit("--nodes=2")
    wait_for((sweep.folder / "trials.parquet").exists, "the first table", 180)
    sweep.wait_until_under_way()
    kit.run("ctl", "scancel", sweep.job.number, user="alice")
    sweep.job.ends("CANCELLED")
    sweep.check_gone()
    assert len(pd.read_parquet(sweep.folder / "trials.parquet")) >= 1  # as of a moment before
    sweep.submit("--nodes=2").ends("COMPLETED")
    sweep.check_whole()


def test_scancel_with_a_signal_ends_in_order(kit: Kit) -> None:
    sweep = Submitted(kit, "asked")
    sweep.submit("--nodes=2")
    sweep.wait_until_under_way()
    kit.run("ctl", "scancel", "--signal=TERM", "--batch", sweep.job.number, user="alice")
    sweep.job.wait("FAILED", seconds=90)
    assert sweep.job.show("ExitCode") == "143:0"
    ended_in_order(sweep)
    sweep.check_gone()
    sweep.submit("--nodes=2").ends("COMPLETED")
    sweep.check_whole()


def test_the_time_limit_ends_in_order_and_goes_on_where_asked(kit: Kit) -> None:
    sweep = Submitted(kit, "late", trials=40, epochs=50)
    job = sweep.submit("--nodes=2", "--time=2", "--signal=B:TERM@60", HLVNN_GO_ON="1")
    wait_for(lambda: job.show("Restarts") == "1", "the time limit", 180)
    sweep.note_finished()
    ended_in_order(sweep)
    kit.run("ctl", "scancel", job.number)
    job.wait()
    sweep.check_gone()
    sweep.note_finished()
    sweep.submit("--nodes=3").ends("COMPLETED")
    sweep.check_whole()


def ended_in_order(sweep: Submitted) -> None:
    printed = sweep.job.printed()
    assert "interrupted: running trials finish their epoch" in printed
    assert f"go on: sbatch [OPTIONS] cluster/slurm_shared.sh --resume {sweep.place}" in printed
    frame = pd.read_parquet(sweep.folder / "trials.parquet")
    assert "running" not in set(frame["status"])
    assert frame["unfinished"].any()
