"""Reading a large sweep: 500 trials × 50 epochs × 3,500 groups, 87 million rows of group tables.

    git worktree add /tmp/before 9043608
    python benchmarks/analysis.py /tmp/before [--folder FOLDER]

The sweep is made up, but its folder is what a real one leaves: sweep.json, the Optuna journal, and
in each trial hyperparams.json, schema.json, metrics.csv, outcome.json, predictions.parquet and a
Parquet file of group tables per epoch. How good a trial is follows from its learning rate, in
STEPS steps, and from whether it has latents: trials that are equally good are linked to the same
tables, so that making it takes a minute and 300 MB and not a quarter of an hour and 4 GB. (What is
read again is then in the system's memory: a disk's time is not measured.) With --folder it is kept.

Each question is asked in a process of its own, which tells its time after the imports and the most
memory it held. Where another tree is given the two take turns, with the packages of this
environment, and a ratio is the median over rounds of this tree's seconds by the other's. What the
other one has not got is told of this one alone.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import tyro
from numpy.typing import NDArray
from pydantic import BaseModel

from hlvnn import files
from hlvnn.analysis import load_sweep
from hlvnn.config import RunConfig, flatten
from hlvnn.data.schema import Level, Schema, Target
from hlvnn.errors import run_command
from hlvnn.records import outcomes, run_folder, trials_table
from hlvnn.records.journal import DRAW, NUMBER, Journal
from hlvnn.records.outcomes import Outcome, Status
from hlvnn.records.predictions import PREDICTIONS, write_predictions
from hlvnn.records.sweep_folder import Record, write_record

HERE = Path(__file__).resolve().parent
STEPS = 10
"""How many sorts of learning rates there are."""
POOLED = 10
"""Every so many trials one has no latents."""
GAIN = 0.4
"""What latents add to the log odds of a group that is hard."""
CLASSES = 62


@dataclass(frozen=True)
class Question:
    """What is asked: code that has `sweep` and `path`, and leaves an `answer`."""

    code: str
    is_new: bool = False
    """Whether the other tree is not asked."""


QUESTIONS = {
    "loading": Question('answer = f"best is trial {sweep.best_trial}"'),
    "worst decile of the best trial, 50 epochs": Question(
        "spread = sweep.groups.spread(trials=[sweep.best_trial])\n"
        "answer = f\"{spread['worst_decile'].iloc[-1]:.4f} in the last epoch\""
    ),
    "worst decile of every trial and epoch": Question(
        "spread = sweep.groups.spread()\n"
        "answer = f\"{len(spread):,} epochs, mean {spread['worst_decile'].mean():.4f}\""
    ),
    "one group in every trial and epoch": Question(
        "import pyarrow.dataset as ds\n"
        'data = sweep.groups.dataset().to_table(["trial", "acc"], filter=ds.field("gid") == 7)\n'
        'answer = f"{data.num_rows:,} rows"'
    ),
    "metrics of every epoch": Question('answer = f"{len(sweep.epochs):,} epochs"'),
    "the report": Question(
        "from pathlib import Path\n"
        "import tempfile\n"
        "from hlvnn.analysis.report import headless, write_report\n"
        "headless()\n"
        "with tempfile.TemporaryDirectory() as folder:\n"
        '    size = write_report(sweep, Path(folder) / "report.html").stat().st_size\n'
        'answer = f"{size / 1e6:.2f} MB"'
    ),
    "the trials with their groups": Question(
        'answer = f"{len(sweep.trials.columns)} columns, worst decile '
        "{sweep.trials['worst_decile'].max():.4f}\"",
        is_new=True,
    ),
    "one group in all trials": Question(
        'one = sweep.group("w0007", trial=0)\nanswer = f"{len(one.trials)} trials"', is_new=True
    ),
    "effects of the structure": Question(
        'made = sweep.groups.effects("latent_config")\n'
        "row = made.settings.iloc[-1]\n"
        'answer = f"{row.value}: {row.gain:.4f} ± {row.error:.4f}, {len(made.groups):,} gains"',
        is_new=True,
    ),
    "diff of two trials": Question(
        'made = hlvnn.analysis.diff(f"{path}/trial_0000", f"{path}/trial_0001")\n'
        'answer = f"{len(made.rows):,} rows, {len(made.groups):,} groups"',
        is_new=True,
    ),
}
WORK = """
import time
began = time.perf_counter()
import gc, sys
import hlvnn.analysis
gc.collect()  # of what imports left: a pass over it belongs to no question
imported, used = time.perf_counter(), time.process_time()
path = sys.argv[1]
sweep = hlvnn.analysis.load_sweep(path)
{code}
done, used = time.perf_counter(), time.process_time() - used
import resource
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(done - imported, used, imported - began, peak, answer, sep="\\t")
"""


class Options(BaseModel):
    """Size of the sweep, where it is kept, and what it is read by."""

    other: tyro.conf.Positional[Path | None] = None
    """Another working tree to read it by, too; this one itself shows the comparison's error."""
    trials: int = 500
    """Trials."""
    epochs: int = 50
    """Epochs of each."""
    groups: int = 3500
    """Groups of one level, scored on validation rows."""
    rounds: int = 5
    """How often each question is asked."""
    only: tuple[str, ...] = ()
    """Words of the questions to ask; none given = all."""
    folder: Path | None = None
    """Where the sweep is, or is to be made; None = a temporary folder, removed at the end."""


@dataclass
class Sorts:
    """Tables and metrics of trials that are equally good, made once and linked to."""

    root: Path
    rows: NDArray[np.int64]
    ability: NDArray[np.float64]
    epochs: int
    random: np.random.Generator
    made: dict[tuple[int, bool], tuple[Path, list[dict[str, float]]]] = field(default_factory=dict)

    def of(self, step: int, is_pooled: bool) -> tuple[Path, list[dict[str, float]]]:
        """Return the folder of such trials' tables, and their metrics."""
        if (step, is_pooled) not in self.made:
            self.made[step, is_pooled] = self.make(step, is_pooled)
        return self.made[step, is_pooled]

    def make(self, step: int, is_pooled: bool) -> tuple[Path, list[dict[str, float]]]:
        folder = self.root / f"{step}_{is_pooled}"
        (folder / run_folder.STATS).mkdir(parents=True)
        gain = 0.0 if is_pooled else GAIN * (self.ability < 0)
        metrics = []
        for epoch in range(1, self.epochs + 1):
            chance = 1 / (1 + np.exp(-(1 - step / 5 + self.ability + gain - 2 / epoch)))
            table = self.table(epoch, chance)
            table.to_parquet(folder / run_folder.STATS / run_folder.stats_name(epoch), index=False)
            loss = float(np.average(table["loss"], weights=self.rows))
            row = {"epoch": epoch, "train_loss": loss, "val_loss": loss}
            row |= {"val_acc": float(np.average(table["acc"], weights=self.rows))}
            metrics.append(row | {"seconds": 1.0, "rows_per_second": 1e4, "diverged": 0.0})
        write_predictions(folder, self.epochs, {"val": self.predicted(chance)}, 200_000)
        return folder, metrics

    def table(self, epoch: int, chance: NDArray[np.float64]) -> pd.DataFrame:
        acc = self.random.binomial(self.rows, chance) / self.rows
        return pd.DataFrame(
            {
                "epoch": epoch,
                "level": "writer",
                "gid": np.arange(len(acc), dtype=np.int32),
                "split": "val",
                "n": self.rows,
                "acc": acc,
                "f1": acc * self.random.uniform(0.9, 1.0, len(acc)),
                "loss": -np.log(chance) + self.random.normal(0, 0.05, len(acc)),
            }
        )

    def predicted(self, chance: NDArray[np.float64]) -> pd.DataFrame:
        """Return the validation rows, the same in all trials, as they are predicted."""
        gid = np.repeat(np.arange(len(chance), dtype=np.int32), self.rows)
        y = (7 * np.arange(len(gid)) + gid) % CLASSES
        is_right = self.random.random(len(gid)) < chance[gid]
        noise = self.random.normal(0, 0.5, len(gid)).astype(np.float32)
        return pd.DataFrame(
            {
                "row": np.arange(len(gid)),
                "writer": gid,
                "y": y,
                "prediction": np.where(is_right, y, (y + 1) % CLASSES),
                "log_prob": np.log(np.where(is_right, 0.8, 0.05)).astype(np.float32) + noise,
            }
        )


def make(sweep: Path, options: Options) -> None:
    """Leave the folder of a sweep behind, by the parts that write real ones."""
    random = np.random.default_rng(0)
    sweep.mkdir(parents=True)
    recorded = {"num_trials": options.trials, "grace_period": 1, "reduction_factor": 3}
    objectives = (("val_loss", "min"),)
    write_record(sweep, Record("made_up", "", objectives, {}, {}, recorded, []))
    level = Level("writer", options.groups, tuple(f"w{i:04d}" for i in range(options.groups)))
    target = Target("y", "class", num_classes=CLASSES)
    schema = Schema((level,), "image", (28, 28), target).to_json()
    rows = random.integers(5, 60, options.groups)
    ability = random.normal(0, 0.5, options.groups)
    journal = Journal.create(sweep, "min")
    journal.study.sampler = optuna.samplers.RandomSampler(seed=0)
    with tempfile.TemporaryDirectory(dir=sweep.parent) as root:
        sorts = Sorts(Path(root), rows, ability, options.epochs, random)
        for number in range(options.trials):
            one_trial(sweep, number, journal, schema, sorts)
    selection = load_sweep(sweep)
    trials_table.TrialsTable(sweep, selection).write(journal.draws(), options.trials, alive=False)


def one_trial(sweep: Path, number: int, journal: Journal, schema: dict, sorts: Sorts) -> None:
    folder = outcomes.trial_folder(sweep, number)
    trial = journal.study.ask()
    lr = trial.suggest_float("lr", 1e-4, 1e-2, log=True)
    is_pooled = number % POOLED == 0
    settings = flatten(RunConfig(seed=number)) | {"lr": lr, "num_epochs": sorts.epochs}
    settings["latent_config"] = ["none" if is_pooled else "factor"]
    trial.set_user_attr(NUMBER, number)
    trial.set_user_attr(DRAW, {"settings": settings, "drawn": {"lr": lr}, "problem": ""})
    away = abs(np.log(lr / 2e-3)) / np.log(20)  # 0 at the best rate, 1 at the lowest
    tables, metrics = sorts.of(int(away * (STEPS - 1)), is_pooled)
    (folder / run_folder.STATS).mkdir(parents=True)
    for path in (tables / run_folder.STATS).iterdir():
        os.link(path, folder / run_folder.STATS / path.name)
    os.link(tables / PREDICTIONS, folder / PREDICTIONS)
    about = {"config": settings, "model": "made up", "parameters": 1000, "data_hash": "0" * 16}
    files.write_json(
        folder / run_folder.HYPERPARAMS, about | {"started": "2026-01-01T00:00:00+00:00"}
    )
    files.write_json(folder / run_folder.SCHEMA, schema)
    worse = sorts.random.exponential(1e-4)
    own = [row | {"val_loss": row["val_loss"] + worse} for row in metrics]
    files.write_rows(folder / run_folder.METRICS, own)
    seconds = float(sorts.epochs)
    outcomes.write(sweep, Outcome(trial=number, status=Status.COMPLETED, wall_seconds=seconds))
    journal.study.tell(trial, own[-1]["val_loss"])


@dataclass(frozen=True)
class Asked:
    """What one process told: seconds, of them CPU, of the imports; most memory, GB; the answer."""

    seconds: float
    cpu: float
    imports: float
    peak: float
    answer: str


def ask(sweep: Path, question: Question, tree: Path) -> Asked:
    """Ask a question by a tree's code, in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(tree)}
    # -P: what it imports is the tree's
    done = subprocess.run(
        [sys.executable, "-P", "-c", WORK.format(code=question.code), str(sweep)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{tree}: {done.stderr}")
    *numbers, answer = done.stdout.rstrip("\n").split("\t")
    return Asked(*map(float, numbers), answer)


def line(name: str, asked: list[Asked], others: list[Asked]) -> str:
    """Return a question's row: this tree's seconds, CPU, peak, and the same of the other."""

    def told(some: list[Asked]) -> list[str]:
        median = statistics.median
        return [
            f"{median(one.seconds for one in some):.2f}",
            f"{median(one.cpu for one in some):.2f}",
            f"{median(one.peak for one in some):.2f}",
        ]

    cells = [name, *told(asked)]
    if others:
        pairs = list(zip(asked, others, strict=True))
        ratios = [
            statistics.median(a.seconds / b.seconds for a, b in pairs),
            statistics.median(a.cpu / b.cpu for a, b in pairs),
        ]
        cells += [*told(others), *(f"{ratio:.2f}" for ratio in ratios)]
    else:
        cells += [""] * 5
    return f"| {' | '.join([*cells, asked[-1].answer])} |"


def main() -> int:
    """Make the sweep where it is not there, and ask."""
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
        print(f"{len(tables):,} tables, {count / 1e6:.1f} million rows, {size:.2f} GB as read")
        before = "| before: seconds | CPU | peak, GB | ratio | of CPU "
        print(f"| question | seconds | CPU | peak, GB {before}| answer |")
        print("|---|---|---|---|---|---|---|---|---|---|")
        for name, question in QUESTIONS.items():
            if options.only and not any(word in name for word in options.only):
                continue
            asked, others = [], []
            for _ in range(options.rounds):
                asked.append(ask(sweep, question, HERE.parent))
                if options.other is not None and not question.is_new:
                    others.append(ask(sweep, question, options.other.resolve()))
            print(line(name, asked, others), flush=True)
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))
    run_command(main)
