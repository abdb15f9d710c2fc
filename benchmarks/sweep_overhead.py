"""What a sweep costs over its trials: 16 trials of about a second each, two at a time.

    python benchmarks/sweep_overhead.py [--trials 32 --seconds 8]

The same trials are run one after the other in this process, and then as a sweep. The ideal is the
former's time divided by two. What a user waits for is told in its parts: the checks before a start
(the plan among them), Ray's start, the sweep itself (starting the trials' processes, which import
torch, drawing, reporting, the table) and the report. The command's imports (3 s) are not in it, and
no reference is trained. Two more figures are the sweep's own: its time over that of its
trials (training and evaluation, as they tell it themselves, divided by two), and what a trial takes
beside them once its process has run another (data, model, files), the median.
"""

import contextlib
import io
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pandas as pd
import torch
import tyro
from pydantic import BaseModel
from rich.console import Console

from hlvnn import search_space
from hlvnn.records.trials_table import TRIALS
from hlvnn.sweep import building, closing, cluster, driver, plan
from hlvnn.sweep.options import SweepConfig
from hlvnn.training import execution

SLOTS = 2
SPACE = """
BASE = {{"dataset": "digits", "backbone": "mlp", "hidden": [64], "batch_size": 32,
         "latent_config": "factor", "z_dim": 4, "num_epochs": {epochs}, "eval_every": 2}}
METRIC, MODE = "val_acc", "max"

def space(trial):
    return {{"lr": trial.suggest_float("lr", 1e-3, 1e-2, log=True)}}
"""


class Options(BaseModel):
    """How many, how long."""

    trials: int = 16
    """Trials of the sweep."""
    seconds: float = 1.0
    """About what a trial takes, alone."""


def main(chosen: Options) -> None:
    """Run both and print the table."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        Path(search_space.FOLDER).mkdir()
        write_space(epochs=4)
        seconds(draw=0, name="warm")  # imports, the data
        epochs = max(2, round(4 * chosen.seconds / seconds(draw=0, name="calibration")))
        write_space(epochs)
        alone = [seconds(draw, f"alone_{draw}") for draw in range(chosen.trials)]
        options = SweepConfig(
            space="overhead",
            name="sweep",
            num_trials=chosen.trials,
            max_concurrent=SLOTS,
            grace_period=epochs,
            report=False,
            pooled_reference=False,
        )
        asked = time.perf_counter()
        planned = plan.new_plan(options)
        building.check(planned)
        began = time.perf_counter()
        with cluster.connecting(None):
            started = time.perf_counter()
            output = io.StringIO()
            driver.run(planned, Console(file=output, width=200))
            swept = time.perf_counter() - started
        ended = time.perf_counter()
        closing.write_report(planned.sweep)
        reported = time.perf_counter() - ended
        first = next(line for line in output.getvalue().splitlines() if "began" in line)
        began_after = float(first.strip("[ ").split()[0])
        table = pd.read_parquet(planned.sweep / TRIALS)
    ideal, own = sum(alone) / SLOTS, table["seconds"].sum() / SLOTS
    beside = (table["wall_seconds"] - table["seconds"]).iloc[SLOTS:].median()
    overhead = (swept - ideal) / chosen.trials
    whole = ended + reported - asked
    print(f"{chosen.trials} trials of {epochs} epochs, {SLOTS} at a time, {os.cpu_count()} cores")
    print("| what | seconds | |")
    print("|---|---|---|")
    for what, value, remark in (
        ("one after the other, in one process", sum(alone), f"{alone[0]:.2f} s the first"),
        (f"ideal: that, divided by {SLOTS}", ideal, ""),
        ("the sweep, after Ray's start", swept, f"{swept / ideal:.3f} × the ideal"),
        ("its trials' own seconds, divided by " + str(SLOTS), own, f"sweep: {swept / own:.3f} ×"),
        ("until the first trial began", began_after, "processes that import torch"),
        ("plan and checks before the start", began - asked, ""),
        ("Ray's start", started - began, ""),
        ("Ray's end", ended - started - swept, ""),
        ("the report", reported, ""),
        ("all that one waits for", whole, f"{whole / ideal:.3f} × the ideal"),
        ("overhead a trial", overhead, "the sweep itself, over the ideal"),
        ("a trial beside its own seconds", beside, "in a process that ran another"),
    ):
        print(f"| {what} | {value:.2f} | {remark} |")


def write_space(epochs: int) -> None:
    (Path(search_space.FOLDER) / "overhead.py").write_text(
        SPACE.format(epochs=epochs), encoding="utf-8"
    )


def seconds(draw: int, name: str) -> float:
    """Return how long one draw takes in this process."""
    config = search_space.draw(search_space.load("overhead"), draw)
    began = time.perf_counter()
    execution.execute(config, Path(name))
    return time.perf_counter() - began


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__, config=(tyro.conf.FlagCreatePairsOff,)))
