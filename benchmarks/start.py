"""What a run costs before its first step: user CPU seconds of imports, and of a fast run.

    python benchmarks/start.py [--rounds 5] [--modules 12]

A process each, in turns: `import torch, pandas`, the imports of train_one.py, and
`train_one.py --dataset digits --fast` (nine steps, and all that a run writes). Medians over rounds.
The run is to take at most 1.3 times the imports. `--modules` lists the imports that take longest,
by `-X importtime`: seconds of the clock, each with all that it alone brings along.
"""

from __future__ import annotations

import re
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import tyro
from pydantic import BaseModel

ROOT = Path(__file__).resolve().parent.parent
IMPORTS = "import hlvnn.commands.train_one"
LINE = re.compile(r"import time:\s*\d+ \|\s*(\d+) \| (\s*)(\S+)")
"""A line of -X importtime: cumulative microseconds, depth (two blanks a level), module."""


class Options(BaseModel):
    """How often, and what to list."""

    rounds: int = 5
    """Processes of each kind; one of each that warms the disk's cache comes before them."""
    modules: int = 0
    """Imports to list; 0 lists none."""
    root: Path = ROOT
    """The checkout to measure."""


def run(root: Path, *args: str) -> tuple[float, str]:
    """Run Python in the checkout; return its user CPU seconds and what it wrote to stderr."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    ended = subprocess.run(
        [sys.executable, *args],
        cwd=root,
        env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=True,
    )
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before, ended.stderr


def slowest(report: str, number: int) -> list[tuple[str, float]]:
    """Return the imports that bring most time along, at the uppermost three levels."""
    found = [LINE.match(line) for line in report.splitlines()]
    rows = [(m[3], int(m[1]) / 1e6) for m in found if m and len(m[2]) <= 3 * 2]
    return sorted(rows, key=lambda row: -row[1])[:number]


def main(options: Options) -> None:
    """Print the tables."""
    with tempfile.TemporaryDirectory() as results:
        script = str(options.root / "train_one.py")
        fast = (script, "--dataset", "digits", "--fast", "--results-dir", results)
        kinds = {
            "`import torch, pandas`": ("-c", "import torch, pandas"),
            "the imports of `train_one.py`": ("-c", IMPORTS),
            "`train_one.py --dataset digits --fast`": fast,
        }
        seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
        for _ in range(options.rounds + 1):
            for kind, args in kinds.items():
                seconds[kind].append(run(options.root, *args)[0])
    medians = {kind: statistics.median(times[1:]) for kind, times in seconds.items()}
    imports = list(medians.values())[1]
    print("| process | user CPU seconds | over the imports |")
    print("|---|---|---|")
    for kind, median in medians.items():
        print(f"| {kind} | {median:.2f} | {median / imports:.2f} |")
    if options.modules:
        print("\n| import | seconds |\n|---|---|")
        for module, took in slowest(
            run(options.root, "-X", "importtime", "-c", IMPORTS)[1], options.modules
        ):
            print(f"| {module} | {took:.3f} |")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__, config=(tyro.conf.FlagCreatePairsOff,)))
