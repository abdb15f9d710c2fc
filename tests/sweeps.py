"""A small real sweep without Ray: drawn, run and recorded by the sweep's own parts, one by one."""

from __future__ import annotations

import contextlib
import json
import traceback
from pathlib import Path

import pandas as pd

from hlvnn import search_space
from hlvnn.config import run_config
from hlvnn.errors import ConfigError
from hlvnn.records import outcomes, trials_table
from hlvnn.records.journal import Journal
from hlvnn.records.outcomes import Outcome, Status
from hlvnn.sweep import plan
from hlvnn.sweep.options import SweepConfig
from hlvnn.training import execution
from hlvnn.training.loop import EpochReport
from tests.rayless import proposer_of

SPACE = '''"""Digits: does a latent of the writer help, and <how wide> should it be?

python tune_search.py study
"""

BASE = {"dataset": "digits", "backbone": "mlp", "hidden": [24], "batch_size": 32, "num_epochs": 6}
METRIC, MODE = "val_loss", "min"
SWEEP = {"num_trials": 10, "grace_period": 1, "reduction_factor": 2}


def space(trial):
    drawn = {"lr": trial.suggest_float("lr", 3e-3, 3e-2, log=True)}
    drawn["dropout"] = trial.suggest_float("dropout", 0.0, 0.3)
    # the first trials are what the tests need: two without latents, four with
    structure = trial.suggest_categorical("structure", ["none", "factor", "double"])
    structure = ["none", "factor", "double", "none", "factor", "factor"][min(trial.number, 5)]
    drawn["latent_config"] = structure
    if structure != "none":
        drawn["z_dim"] = trial.suggest_int("z_dim", 2, 6)
    if trial.number == DIVERGED:
        drawn["lr"] = 1e30
    if trial.number == FAILED:
        drawn["likelihood"] = "gaussian"
    return drawn
'''
COMPLETED, DIVERGED, FAILED, STOPPED, RUNNING, DRAWN, TRIALS = (0, 1, 2, 3), 5, 6, 4, 7, 8, 10
"""Numbers of the trials by what becomes of them; 9 is never drawn."""
STOPPED_AFTER = 2


class _Stop(Exception):
    """Ends a run as Ray does."""


def make_sweep(root: Path, name: str = "small") -> Path:
    """Run a sweep of ten trials below `root`; return its folder.

    Four complete, one is stopped, one diverges, one fails, one is under way, one is drawn and
    waits, one is never drawn. The caller stands in `root`.
    """
    (root / search_space.FOLDER).mkdir(exist_ok=True)
    text = SPACE.replace("DIVERGED", str(DIVERGED)).replace("FAILED", str(FAILED))
    (root / search_space.FOLDER / "study.py").write_text(text, encoding="utf-8")
    options = SweepConfig(
        space="study",
        name=name,
        num_trials=TRIALS,
        grace_period=1,
        reduction_factor=2,
        description="a <small> look",
    )
    planned = plan.new_plan(options)
    planned.sweep.mkdir(parents=True)
    plan.begin(planned)
    journal = Journal.create(planned.sweep, planned.space.mode)
    journal.study.sampler = search_space.new_sampler(seed=0)
    propose = proposer_of(planned)
    for number in range(DRAWN + 1):
        trial = journal.study.ask()
        config = propose(trial)
        if number == DRAWN:
            break
        value = _run(planned.sweep, number, config)
        if number != RUNNING:
            journal.study.tell(trial, value, state=None if value is not None else _failed())
    trials_table.TrialsTable(planned.sweep, planned.space).write(
        journal.draws(), TRIALS, alive=True
    )
    return planned.sweep


def _failed() -> object:
    from optuna.trial import TrialState

    return TrialState.FAIL


def _run(sweep: Path, number: int, config: dict[str, str]) -> float | None:
    """Run one trial as far as it goes; record how it ended; return its metric."""
    folder = Path(config["folder"])
    seen: list[float] = []

    def report(epoch: EpochReport) -> None:
        seen.append(epoch.row.get("val_loss", float("inf")))
        if number in (STOPPED, RUNNING) and len(seen) == STOPPED_AFTER:
            raise _Stop

    outcome = Outcome(trial=number, status=Status.COMPLETED, wall_seconds=2.5, cpus=1, node="here")
    try:
        with contextlib.suppress(_Stop):
            settings = json.loads(config["settings"])
            result = execution.execute(
                run_config(settings, f"trial {number}"), folder, report=report
            )
            if result.diverged:
                outcome = outcome.model_copy(
                    update={"status": Status.DIVERGED, "reason": "the loss was not finite"}
                )
    except ConfigError as error:
        folder.mkdir(exist_ok=True)
        (folder / outcomes.ERROR).write_text(traceback.format_exc(), encoding="utf-8")
        outcome = outcome.model_copy(
            update={"status": Status.FAILED, "reason": "see error.txt", "error": str(error)}
        )
    if number == STOPPED:
        outcome = outcome.model_copy(
            update={
                "status": Status.STOPPED,
                "reason": f"val_loss {seen[-1]:.4g} at epoch 2 was not among the best 1/2",
            }
        )
    if number != RUNNING:
        outcomes.write(sweep, outcome)
    finite = [value for value in seen if pd.notna(value) and value != float("inf")]
    return finite[-1] if finite else None
