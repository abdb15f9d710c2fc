"""What the tests of the recipes share."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.recipes import RAY, RECIPES, SLURM, SPACE, Job, programs
from tests.helpers import ROOT


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    """A copy of the code, with things in it that must stay, and a home folder of its own."""
    tree = tmp_path / "tree"
    for folder in ("hlvnn", "cluster"):
        unwanted = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, tree / folder, ignore=unwanted)
    shutil.copy(ROOT / "tune_search.py", tree)
    (tree / "search_spaces").mkdir()
    (tree / "search_spaces" / "tiny.py").write_text(SPACE, encoding="utf-8")
    programs(tmp_path / "bin", SLURM)
    for folder in ("home", "spool"):
        (tmp_path / folder).mkdir()
    short = Path(subprocess.check_output(["mktemp", "-d", "/tmp/rt.XXXX"], text=True).strip())
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env |= {
        "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path / "home"),
        "RECORD": str(tmp_path / "record"),
        "SPOOL": str(tmp_path / "spool"),
        "JOB": str(os.getpid()),
        "HLVNN_VENV": str(tmp_path / "venv"),
        "HLVNN_TMP": str(short),
        "HLVNN_HEAD_IP": "127.0.0.1",
    }
    yield Job(tree, tmp_path / "record", env)
    left = list(short.iterdir())
    shutil.rmtree(short)
    assert left == [], "a node's temporary folder was left behind"


@pytest.fixture
def node(job: Job) -> Iterator[Callable[..., None]]:
    """Return a function that starts Ray, as a node of one CPU of a shared cluster."""
    processes = []

    def start(role: str, address: str, **env: str) -> None:
        process = subprocess.Popen(
            ["bash", str(RECIPES / "slurm_node.sh"), role, address.rpartition(":")[2]],
            env={
                **job.env,
                "SLURM_JOB_ID": "1",
                "SLURM_CPUS_ON_NODE": "1",
                "HLVNN_NODES": "shared",
                "HLVNN_OBJECT_STORE": "100000000",
                "RAY_ADDRESS": address,
                "PATH": f"{RAY.parent}{os.pathsep}{job.env['PATH']}",
                **env,
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        processes.append(process)

    yield start
    for process in reversed(processes):
        process.terminate()
        process.wait(timeout=60)


@pytest.fixture
def head(job: Job, node: Callable[..., None]) -> Callable[..., str]:
    """Return a function that starts a Ray head of one CPU and returns its address."""

    def start(**env: str) -> str:
        with socket.socket() as free:
            free.bind(("", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        node("head", address, **env)
        wait = [sys.executable, str(RECIPES / "wait_for_nodes.py"), "1"]
        subprocess.run(wait, env={**job.env, "RAY_ADDRESS": address}, check=True)
        return address

    return start
