"""Reading a large sweep: 500 trials × 50 epochs × 3,500 groups, 87 million rows of group tables.

    python benchmarks/analysis.py [--folder FOLDER]

The sweep is made up, but its folder is what a real one leaves: sweep.json, the Optuna journal, and
in each trial hyperparams.json, schema.json, metrics.csv, outcome.json and a Parquet file of group
tables per epoch. Making it takes minutes and about 3 GB; with --folder it is kept for the next
time. Each query runs in a process of its own, which prints its time beside that of
Python's imports, and the most memory it held.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import tyro
from pydantic import BaseModel

from hlvnn import files
from hlvnn.analysis import load_sweep
from hlvnn.config import RunConfig, flatten
from hlvnn.data.schema import Level, Schema, Target
from hlvnn.errors import run_command
from hlvnn.records import outcomes, run_folder, trials_table
from hlvnn.records.journal import DRAW, NUMBER, Journal
from hlvnn.records.outcomes import Outcome, Status
from hlvnn.records.sweep_folder import Record, write_record

QUERIES = {
    "worst decile of the best trial": """
sweep = hlvnn.analysis.load_sweep(path)
spread = sweep.groups.spread(trials=[sweep.best_trial])
answer = f"trial {sweep.best_trial}: {spread['worst_decile'].iloc[-1]:.4f} in the last epoch"
""",
    "one group in every trial and epoch": """
sweep = hlvnn.analysis.load_sweep(path)
import pyarrow.dataset as ds
data = sweep.groups.dataset()
table = data.to_table(columns=["trial", "epoch", "acc"], filter=ds.field("gid") == 7)
answer = f"{table.num_rows:,} rows"
""",
    "worst decile of every trial": """
sweep = hlvnn.analysis.load_sweep(path)
spread = sweep.groups.spread()
answer = f"{len(spread):,} epochs, mean {spread['worst_decile'].mean():.4f}"
""",
}
WORK = """
import time
began = time.perf_counter()
import resource, sys
import hlvnn.analysis
imported, used = time.perf_counter(), time.process_time()
path = sys.argv[1]
{query}
done, used = time.perf_counter(), time.process_time() - used
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(f"| {{done - imported:.2f}} | {{used:.2f}} | {{imported - began:.1f}} ", end="")
print(f"| {{peak:.2f}} | {{answer}} |")
"""


class Options(BaseModel):
    """Size of the sweep, and where it is kept."""

    trials: int = 500
    """Trials."""
    epochs: int = 50
    """Epochs of each."""
    groups: int = 3500
    """Groups of one level, scored on validation rows."""
    folder: Path | None = None
    """Where the sweep is, or is to be made; None = a temporary folder, removed at the end."""


def make(sweep: Path, options: Options) -> None:
    """Leave the folder of a sweep behind, by the parts that write real ones."""
    random = np.random.default_rng(0)
    sweep.mkdir(parents=True)
    recorded = {"num_trials": options.trials, "grace_period": 1, "reduction_factor": 3}
    objectives = (("val_loss", "min"),)
    write_record(sweep, Record("made_up", "", objectives, {}, {}, recorded, []))
    level = Level("writer", options.groups, tuple(f"w{i:04d}" for i in range(options.groups)))
    target = Target("y", "class", num_classes=62)
    schema = Schema((level,), "image", (28, 28), target).to_json()
    rows = random.integers(5, 60, options.groups)
    ability = random.normal(0, 0.5, options.groups)
    journal = Journal.create(sweep, "min")
    for number in range(options.trials):
        one_trial(sweep, number, journal, schema, rows, ability, options.epochs, random)
    selection = load_sweep(sweep)
    trials_table.TrialsTable(sweep, selection).write(journal.draws(), options.trials, alive=False)


def one_trial(sweep, number, journal, schema, rows, ability, epochs, random) -> None:
    folder = outcomes.trial_folder(sweep, number)
    (folder / run_folder.STATS).mkdir(parents=True)
    trial = journal.study.ask()
    config = RunConfig(seed=number)
    lr = trial.suggest_float("lr", 1e-4, 1e-2, log=True)
    settings = flatten(config) | {"lr": lr, "num_epochs": epochs}
    settings["latent_config"] = ["none" if number % 10 == 0 else "factor"]
    trial.set_user_attr(NUMBER, number)
    trial.set_user_attr(DRAW, {"settings": settings, "drawn": {"lr": lr}, "problem": ""})
    about = {"config": settings, "model": "made up", "parameters": 1000, "data_hash": "0" * 16}
    files.write_json(
        folder / run_folder.HYPERPARAMS, about | {"started": "2026-01-01T00:00:00+00:00"}
    )
    files.write_json(folder / run_folder.SCHEMA, schema)
    skill = -abs(np.log(lr / 2e-3)) / 3 + random.normal(0, 0.1)
    metrics = []
    for epoch in range(1, epochs + 1):
        chance = 1 / (1 + np.exp(-(1 + skill + ability - 2 / epoch)))
        acc = random.binomial(rows, chance) / rows
        table = pd.DataFrame(
            {
                "epoch": epoch,
                "level": "writer",
                "gid": np.arange(len(rows), dtype=np.int32),
                "split": "val",
                "n": rows,
                "acc": acc,
                "f1": acc * random.uniform(0.9, 1.0, len(rows)),
                "loss": -np.log(chance) + random.normal(0, 0.05, len(rows)),
            }
        )
        table.to_parquet(folder / run_folder.STATS / f"epoch_{epoch:04d}.parquet", index=False)
        loss = float((table["loss"] * rows).sum() / rows.sum())
        row = {"epoch": epoch, "train_loss": loss, "val_loss": loss, "val_acc": acc.mean()}
        metrics.append(row | {"seconds": 1.0, "rows_per_second": 1e4, "diverged": 0.0})
    files.write_rows(folder / run_folder.METRICS, metrics)
    outcomes.write(sweep, Outcome(trial=number, status=Status.COMPLETED, wall_seconds=epochs))
    journal.study.tell(trial, metrics[-1]["val_loss"])


def query(sweep: Path, code: str) -> str:
    """Run a query in a process of its own; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", WORK.format(query=code), str(sweep)],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


def main() -> int:
    """Make the sweep where it is not there, and time the queries."""
    options = tyro.cli(Options, description=__doc__)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory() as temporary:
        sweep = (options.folder or Path(temporary) / "sweep").resolve()
        if not sweep.exists():
            began = time.perf_counter()
            make(sweep, options)
            print(f"made in {time.perf_counter() - began:.0f} s: {sweep}")
        tables = list(sweep.glob(f"*/{run_folder.STATS}/*.parquet"))
        size = sum(path.stat().st_size for path in tables) / 1e9
        count = options.trials * options.epochs * options.groups
        print(f"{len(tables):,} tables, {count / 1e6:.1f} million rows, {size:.2f} GB")
        print("| question | seconds | of them CPU | imports, s | peak, GB | answer |")
        print("|---|---|---|---|---|---|")
        for name, code in QUERIES.items():
            print(f"| {name} {query(sweep, code)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    run_command(main)
