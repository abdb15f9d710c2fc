"""The recipes of `cluster/`, and what waiting and looking for processes share."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tests.helpers import ROOT

RECIPES = ROOT / "cluster"
RAY = Path(sys.executable).parent / "ray"
SPACE = """
BASE = {"dataset": "digits", "backbone": "mlp", "hidden": [8], "batch_size": 256, "num_epochs": 2}
METRIC, MODE = "val_acc", "max"
SWEEP = {"num_trials": 4, "grace_period": 2}

def space(trial):
    return {"lr": trial.suggest_float("lr", 1e-3, 1e-1, log=True)}
"""
SLURM = {
    # Records its words, takes its own options off, and runs the rest here.
    "srun": """#!/bin/bash
echo "srun $*" >>"$RECORD"
while [[ $1 == --* ]]; do shift; done
exec "$@"
""",
    "scontrol": """#!/bin/bash
echo "scontrol $*" >>"$RECORD"
[[ $1 == show && $2 == hostnames && $3 == "node[1-2]" ]] && printf 'node1\\nnode2\\n'
[[ $1 == show && $2 == hostnames && $3 == "node[2-3]" ]] && printf 'node2\\nnode3\\n'
[[ $1 == show && $2 == job ]] &&
    echo "JobId=$JOB PreemptTime=${PREEMPTED:-None} ReqNodeList=(null) NodeList=${LEFT:-} X=1"
true
""",
    "hostname": """#!/bin/bash
echo "hostname $*" >>"$RECORD"
case $1 in
    --ip-address) echo "fe80::1 127.0.1.1" ;; # as Debian's /etc/hosts has it
    -I) echo "fe80::2 10.1.2.3 10.9.9.9" ;;
    *) echo node1 ;;
esac
""",
    # Takes a script's options from its #SBATCH lines and runs it as a job of two nodes.
    "sbatch": """#!/bin/bash
echo "sbatch $(sed -n 's/^#SBATCH //p' "$1" | tr '\\n' ' ')" >>"$RECORD"
export SLURM_JOB_ID=$JOB SLURM_SUBMIT_DIR=$PWD SLURM_JOB_NODELIST="node[1-2]"
export SLURM_CPUS_ON_NODE=1
cp "$1" "$SPOOL/slurm_script" && shift
exec bash "$SPOOL/slurm_script" "$@"
""",
}


class Job(NamedTuple):
    """A working tree to submit from, with the scheduler's commands on its PATH."""

    tree: Path
    record: Path
    env: dict[str, str]

    def submit(self, *args: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["sbatch", *args],
            cwd=self.tree,
            env={**self.env, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def lines(self, start: str) -> list[str]:
        return [line for line in self.record.read_text().splitlines() if line.startswith(start)]


def programs(folder: Path, texts: dict[str, str]) -> None:
    folder.mkdir(parents=True)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
        (folder / name).chmod(0o755)


def environment(job: Job, texts: dict[str, str]) -> None:
    """Make the virtual environment that a script activates."""
    venv = Path(job.env["HLVNN_VENV"]) / "bin"
    programs(venv, texts)
    (venv / "activate").write_text(f'export PATH="{venv}:$PATH"\n', encoding="utf-8")


def running(words: str) -> list[str]:
    """Return the command lines of processes that contain `words`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it ended meanwhile
            continue
        found += [line] if words in line else []
    return found


STAY = [
    ".env",
    ".git/config",
    ".venv/lib/site.py",
    "data/femnist/large/x_train.npy",
    "results/digits/one/hyperparams.json",
    "results/digits/one/search_space.py",
    "notes.py",
    "credentials.json",
    "hlvnn/.secret.py",
    "hlvnn/.keys/key.py",
    "hlvnn/aws.pem",
    "hlvnn/data/patients.csv",
    "hlvnn/__pycache__/model.cpython-311.pyc",
    "search_spaces/token.txt",
]


def plant(tree: Path) -> None:
    """Put things into a working tree that nobody else may see."""
    for name in STAY:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("a secret", encoding="utf-8")
    outside = tree.parent / "outside"
    outside.mkdir()
    (outside / "private.py").write_text("a secret", encoding="utf-8")
    (tree / "hlvnn" / "linked.py").symlink_to(outside / "private.py")
    (tree / "hlvnn" / "linked").symlink_to(outside)
    (tree / ".gitignore").write_text("data/\nresults/\n", encoding="utf-8")


def expected() -> list[str]:
    """Return what a copy of this working tree sends: all its code, and one search space."""
    package = [path for path in (ROOT / "hlvnn").rglob("*") if path.suffix in (".py", ".typed")]
    return sorted([*(str(path.relative_to(ROOT)) for path in package), "search_spaces/tiny.py"])
