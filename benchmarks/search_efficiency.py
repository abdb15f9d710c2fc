"""How many epochs a search needs: ASHA and TPE against random search, on recorded runs.

    python benchmarks/search_efficiency.py

Random search trains 64 configurations of `recorded.py`'s table for all 27 epochs. The others stop
when they have seen a value as good as its best, or after as many epochs: they count as infinite
then. Samplers and schedulers are those of a sweep, called as Ray calls them, one trial after the
other; the trials' results are read from the table. The target: on the accuracy, ASHA with TPE needs
at most a fifth of random search's epochs, in the median over 20 seeds.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import optuna

from benchmarks import recorded
from hlvnn.sweep.schedulers import MAKERS, Rules
from hlvnn.sweep.searchers import sampler

SEEDS, CONFIGURATIONS = 20, 64
METRICS = {"val_acc": "max", "val_loss": "min"}
SEARCHES = (
    ("tpe", "asha", 1),
    ("tpe", "asha", 9),
    ("tpe", "none", 1),
    ("random", "asha", 1),
    ("random", "median", 3),
)
"""Searcher, scheduler, grace period."""


@dataclass(frozen=True)
class Curves:
    """One metric of the recorded runs, as functions of the epoch."""

    metric: str
    mode: str
    values: dict[tuple[Any, ...], list[float]]
    """A configuration (in the grid's order) -> its value after each epoch."""

    @classmethod
    def read(cls, metric: str, mode: str) -> Curves:
        table = recorded.load()[metric].unstack("epoch")
        rows = zip(table.index, table.to_numpy().tolist(), strict=True)
        return cls(metric, mode, dict(rows))

    def is_better(self, value: float, than: float) -> bool:
        return value > than if self.mode == "max" else value < than

    def best(self, values: Iterable[float]) -> float:
        return max(values) if self.mode == "max" else min(values)


def space(trial: optuna.Trial) -> dict[str, Any]:
    """Draw a configuration of the table."""
    lr = trial.suggest_int("log_lr", 0, len(recorded.GRID["lr"]) - 1)  # its values are in order
    drawn = {"lr": recorded.GRID["lr"][lr]}
    for name in ("batch_size", "latent_config", "dropout", "weight_decay"):
        drawn[name] = trial.suggest_categorical(name, recorded.GRID[name])
    return drawn


def values(
    curves: Curves, searcher: str, scheduler: str, grace_period: int, seed: int
) -> Iterator[float]:
    """Yield the value after every epoch that a search trains, in its order, for ever."""
    direction = "maximize" if curves.mode == "max" else "minimize"
    study = optuna.create_study(sampler=sampler(searcher, seed), direction=direction)
    rules = Rules(curves.metric, curves.mode, recorded.EPOCHS, grace_period, reduction_factor=3)
    stopping = MAKERS[scheduler](rules)
    while True:
        trial = study.ask()
        curve = curves.values[tuple(space(trial)[name] for name in recorded.GRID)]
        running = Running(str(trial.number), trial.number)
        stopping.on_trial_add(None, running)
        result: dict[str, Any] = {}
        for epoch, value in enumerate(curve, 1):
            yield value
            result = {"epoch": epoch, "num_epochs": len(curve), "diverged": 0, curves.metric: value}
            trial.report(value, epoch)
            if stopping.on_trial_result(None, running, result) == "STOP":
                break
        stopping.on_trial_complete(None, running, result)
        study.tell(trial, result[curves.metric])


class Running:
    """What a scheduler reads of one of Ray's trials."""

    status = "RUNNING"

    def __init__(self, trial_id: str, number: int) -> None:
        self.trial_id, self.config = trial_id, {"trial": number}


def epochs_to(level: float, search: Iterator[float], curves: Curves, limit: int) -> float:
    """Return how many epochs a search trains until its best is as good as `level`."""
    for epochs, value in enumerate(search, 1):
        if not curves.is_better(level, value):
            return epochs
        if epochs == limit:
            break
    return float("inf")


def quartiles(found: list[float], budget: int) -> str:
    """Return the quartiles over seeds of epochs, as shares of a budget."""
    ordered, half = sorted(found), len(found) // 2
    lower, upper = statistics.median(ordered[:half]), statistics.median(ordered[-half:])
    return f"{lower / budget:.2f} to {upper / budget:.2f}".replace("inf", "never")


def compare(curves: Curves) -> None:
    budget = CONFIGURATIONS * recorded.EPOCHS
    levels = []
    for seed in range(SEEDS):
        random = values(curves, "random", "none", 1, 1000 + seed)
        levels.append(curves.best(next(random) for _ in range(budget)))
    best = curves.best(curves.best(curve) for curve in curves.values.values())
    print(
        f"random search of {CONFIGURATIONS} configurations, {budget} epochs: best {curves.metric} "
        f"{statistics.median(levels):.4f}, the median of {SEEDS} seeds (the table's: {best:.4f})"
    )
    print(f"| {curves.metric} | epochs until as good | share of random's | quartiles | seeds |")
    print("|---|---|---|---|---|")
    for search in SEARCHES:
        searcher, scheduler, grace_period = search
        found = [
            epochs_to(
                level, values(curves, searcher, scheduler, grace_period, seed), curves, budget
            )
            for seed, level in enumerate(levels)
        ]
        middle = statistics.median(found)
        grace = "" if scheduler == "none" else f", grace {grace_period}"
        reached = sum(epochs <= budget for epochs in found)
        print(
            f"| {scheduler} + {searcher}{grace} | {middle:.0f} | {middle / budget:.3f} "
            f"| {quartiles(found, budget)} | {reached}/{SEEDS} |",
            flush=True,
        )
    print()


def main() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for metric, mode in METRICS.items():
        compare(Curves.read(metric, mode))


if __name__ == "__main__":
    main()
