"""A sweep without Ray: drawn, trained and recorded as by its driver, one trial after the other."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from rich.console import Console

from hlvnn.commands import tune_search
from hlvnn.config import run_config
from hlvnn.records import outcomes
from hlvnn.records.journal import Journal
from hlvnn.records.outcomes import Outcome, Status
from hlvnn.sweep import plan
from hlvnn.sweep.context import Context
from hlvnn.sweep.proposer import Proposer
from hlvnn.training import execution


def run_sweep(root: Path, space: str, trials: int, flags: list[str] | None = None) -> Path:
    """Run the first trials of a search space called `study`; return the sweep's folder.

    Raises what a trial raises: none may fail.
    """
    (root / "search_spaces").mkdir(parents=True)
    (root / "search_spaces" / "study.py").write_text(space, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        planned = plan.new_plan(tune_search.parse(["study", "--name", "s", *(flags or [])]))
        planned.sweep.mkdir(parents=True)
        plan.begin(planned)
        journal = Journal.create(planned.sweep, planned.space.mode)
        journal.study.sampler = optuna.samplers.RandomSampler(seed=0)
        proposer = proposer_of(planned)
        for number in range(trials):
            proposer(journal.study.ask())
            folder = outcomes.trial_folder(planned.sweep, number)
            execution.execute(run_config(journal.draws()[number].settings, "test"), folder)
            outcomes.write(planned.sweep, Outcome(trial=number, status=Status.COMPLETED))
    return planned.sweep


def proposer_of(planned: plan.Plan) -> Proposer:
    """Return what draws a sweep's trials into its journal, as its driver would."""
    return Proposer(Context.of(planned, 1, Console(quiet=True)))
