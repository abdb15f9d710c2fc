"""What a sweep costs over its trials: 16 trials of about a second each, two at a time.

    python benchmarks/sweep_overhead.py

The same trials are run one after the other in this process, and then as a sweep. The ideal is the
former's time divided by two. The sweep is timed after Ray's start, and with everything that it does
then: starting the trials' processes (which import torch), drawing, reporting, the table.
"""

import contextlib
import io
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from rich.console import Console

from hlvnn import runs, spaces
from hlvnn.sweep import cluster, driver, plan
from hlvnn.sweep.options import SweepConfig

TRIALS, SLOTS, SECONDS = 16, 2, 1.0
TARGET = 0.5
"""Seconds a trial that a sweep may cost over the ideal."""
SPACE = """
BASE = {{"dataset": "digits", "backbone": "mlp", "hidden": [64], "batch_size": 32,
         "latent_config": "factor", "z_dim": 4, "num_epochs": {epochs}, "eval_every": 2}}
METRIC, MODE = "val_acc", "max"

def space(trial):
    return {{"lr": trial.suggest_float("lr", 1e-3, 1e-2, log=True)}}
"""


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        Path(spaces.FOLDER).mkdir()
        write_space(epochs=4)
        seconds(draw=0, name="warm")  # imports, the data
        epochs = max(2, round(4 * SECONDS / seconds(draw=0, name="calibration")))
        write_space(epochs)
        alone = [seconds(draw, f"alone_{draw}") for draw in range(TRIALS)]
        options = SweepConfig(
            space="overhead",
            name="sweep",
            num_trials=TRIALS,
            max_concurrent=SLOTS,
            grace_period=epochs,
            report=False,
        )
        planned = plan.new_plan(options)
        plan.preflight(planned)
        began = time.perf_counter()
        with cluster.connected(None):
            started = time.perf_counter()
            output = io.StringIO()
            driver.run(planned, Console(file=output, width=200))
            swept = time.perf_counter() - started
        first = next(line for line in output.getvalue().splitlines() if "began" in line)
        began_after = float(first.strip("[ ").split()[0])
    ideal = sum(alone) / SLOTS
    overhead = (swept - ideal) / TRIALS
    print(f"{TRIALS} trials of {epochs} epochs, {SLOTS} at a time, on {os.cpu_count()} cores")
    for what, value, remark in (
        ("one after the other, in one process", sum(alone), f"{sum(alone) / TRIALS:.2f} s a trial"),
        (f"ideal: that, divided by {SLOTS}", ideal, ""),
        ("the sweep, after Ray's start", swept, f"{swept / ideal:.2f} x the ideal"),
        ("  of it until the first trial began", began_after, "processes that import torch"),
        ("Ray's start", started - began, "not counted"),
        ("overhead a trial", overhead, f"target: at most {TARGET} s"),
    ):
        print(f"{what:38}{value:8.2f} s   {remark}")


def write_space(epochs: int) -> None:
    (Path(spaces.FOLDER) / "overhead.py").write_text(SPACE.format(epochs=epochs), encoding="utf-8")


def seconds(draw: int, name: str) -> float:
    """Return how long one draw takes in this process."""
    config = spaces.draw(spaces.load("overhead"), draw)
    began = time.perf_counter()
    runs.execute(config, Path(name))
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
