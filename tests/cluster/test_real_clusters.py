"""Sweeps on real Ray clusters of several processes: tokens, open clusters, and Slurm's steps."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.cluster.recipes import RAY, RECIPES, Job, environment, expected, plant, running

LISTING = """
import json, os, sys
from pathlib import Path
sys.path.insert(0, os.getcwd())
import ray
from hlvnn.errors import RunError
from hlvnn.sweep import access, cluster

@ray.remote
def seen():
    import hlvnn
    here = Path.cwd()
    files = sorted(str(path.relative_to(here)) for path in here.rglob("*") if path.is_file())
    return {"files": files, "hlvnn": hlvnn.__file__, "cwd": str(here)}

address = sys.argv[1]
told = {"open": access.is_open_to_anybody(address)}
try:
    with cluster.connecting(address):
        told |= ray.get(seen.remote())
except RunError as error:
    told["refused"] = str(error)
print(json.dumps(told))
"""


def listing(job: Job, address: str, **env: str) -> dict[str, Any]:
    """Join a cluster from the working tree; return what a worker sees, or why it was refused."""
    done = subprocess.run(
        [sys.executable, "-c", LISTING, address],
        cwd=job.tree,
        env={**job.env, **env},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)  # seconds each, minutes where others have the cores
def test_a_cluster_asks_for_its_token_and_is_sent_code_alone(
    job: Job, head: Callable[..., str], tmp_path: Path
) -> None:
    plant(job.tree)
    token = tmp_path / "token"
    token.write_text("0123456789abcdef" * 2, encoding="utf-8")
    keys = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    address = head(**keys)

    told = listing(job, address, **keys)
    assert told["open"] is False
    files = [name for name in told["files"] if "__pycache__" not in name]
    assert files == expected()
    assert told["hlvnn"] == f"{told['cwd']}/hlvnn/__init__.py"  # the copy, not the tree
    assert not told["cwd"].startswith(str(job.tree))

    for wrong in (
        {"RAY_AUTH_MODE": "token"},
        {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "x" * 32},
    ):
        refused = listing(job, address, **wrong)["refused"]
        assert refused.startswith(f"--address {address}: ")
        assert "RAY_AUTH_TOKEN_PATH or from ~/.ray/auth_token" in refused


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)  # seconds each, minutes where others have the cores
def test_an_open_cluster_is_joined_only_on_this_machine_or_where_the_user_says_so(
    job: Job, head: Callable[..., str]
) -> None:
    address = head(RAY_AUTH_MODE="disabled")
    told = listing(job, address)  # all its nodes are this machine
    assert told["open"] is True
    assert told["files"]

    # a second node, at another address of this machine, which is all that Ray can see of a machine
    worker = subprocess.Popen(
        [RAY, "start", "--address", address, "--node-ip-address", "127.0.0.2", "--block"],
        env={**job.env, "RAY_AUTH_MODE": "disabled"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait = [sys.executable, str(RECIPES / "wait_for_nodes.py"), "2"]
        env = {**job.env, "RAY_ADDRESS": address, "RAY_AUTH_MODE": "disabled"}
        subprocess.run(wait, env=env, check=True)
        refused = listing(job, address)["refused"]
        assert "asks nobody for a token" in refused
        assert "RAY_AUTH_MODE=token" in refused
        assert listing(job, address, RAY_AUTH_MODE="disabled")["files"]
    finally:
        worker.terminate()
        worker.wait(timeout=60)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)  # seconds each, minutes where others have the cores
@pytest.mark.parametrize("script", ["slurm.sh", "slurm_shared.sh"])
def test_a_sweep_runs_on_a_cluster_that_slurm_would_start(job: Job, script: str) -> None:
    environment(job, {"python": f'#!/bin/bash\nexec {sys.executable} "$@"\n'})
    (Path(job.env["HLVNN_VENV"]) / "bin" / "ray").symlink_to(RAY)
    with socket.socket() as free:
        free.bind(("", 0))
        port = str(free.getsockname()[1])
    small = {"HLVNN_OBJECT_STORE": "100000000", "HLVNN_PORT": port}
    process = job.submit(
        f"cluster/{script}", "tiny", "--name", "one", "--max-concurrent", "2", **small
    )
    printed, _ = process.communicate(timeout=400)
    assert process.returncode == 0, printed
    frame = pd.read_parquet(job.tree / "results" / "digits" / "one" / "trials.parquet")
    assert frame["status"].tolist() == ["completed"] * 4, printed
    assert "4 trials to run, 2 at a time" in printed
    assert "Traceback" not in printed
    assert not running(job.env["HLVNN_TMP"])
    assert not Path(job.env["HOME"], ".ray").exists()

    # the job goes on with the sweep that another one began
    process = job.submit(f"cluster/{script}", "--resume", "results/digits/one",
                         "--num-trials", "5", **small)  # fmt: skip
    printed, _ = process.communicate(timeout=400)
    assert process.returncode == 0, printed
    frame = pd.read_parquet(job.tree / "results" / "digits" / "one" / "trials.parquet")
    assert frame["status"].tolist() == ["completed"] * 5, printed
