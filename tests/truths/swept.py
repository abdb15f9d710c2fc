"""The sweep whose answers are planted: run as by its command, once for all who ask it.

The table is `worlds.rules`: slopes of the wards' own are worth a quarter of all rows, and all that
they are worth lies in three wards. Of the learning rates one learns nothing.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import pandas as pd

from hlvnn.analysis import load_sweep
from hlvnn.analysis.results import Results
from hlvnn.commands import tune_search
from tests.spaces import write_space
from tests.truths import worlds

SPACE = '''"""Wards: does a rule of the ward's own help?

python tune_search.py wards
"""

BASE = {
    "dataset": "table", "table": "wards.csv", "target": "outcome", "groups": ["ward"],
    "features": ["dose", "age"], "backbone": "linear", "num_epochs": 12, "batch_size": 100,
}
METRIC, MODE = "val_acc", "max"
SWEEP = {"num_trials": 4, "searcher": "grid", "scheduler": "none", "max_concurrent": 1}
OWN = "weights@output level=ward posterior=full_rank prior=learned_full"


def space(trial):
    own = trial.suggest_categorical("own", [False, True])
    lr = trial.suggest_categorical("lr", [1e-7, 5e-2])
    return {"lr": lr, "latents": [OWN] if own else []}
'''


class Swept:
    """A sweep that has ended: its folder and what the terminal showed."""

    def __init__(self, folder: Path, printed: str) -> None:
        self.folder, self.printed = folder, printed

    @property
    def results(self) -> Results:
        return load_sweep(self.folder)


def run_sweep(root: Path) -> Swept:
    """Run the sweep as its command does, in this process."""
    printed = io.StringIO()
    with contextlib.chdir(root):
        worlds.rules(root / "wards.csv")
        write_space(SPACE, "wards")
        with contextlib.redirect_stdout(printed):
            assert tune_search.main(["wards", "--name", "one", "--device", "cpu"]) == 0
    return Swept(root / "results" / "wards" / "one", printed.getvalue())


def winner(results: Results) -> pd.Series:
    return results.row(int(results.best_trial))
