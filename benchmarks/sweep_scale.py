"""Whether a sweep's driver slows down: 1,000 trials of one epoch of a tiny model, two at a time.

    python benchmarks/sweep_scale.py [--trials 1000]

Printed: seconds a trial over the first and the last hundred, the sampler's own time (drawing, and
telling it the results) apart, the time that the driver's other parts take, and its peak memory. The
trials' own epochs take about 0.02 s. Targets: at most 0.15 s a trial at the end as at the start;
without the sampler's time the last hundred at most 1.3 times the first.
"""

import contextlib
import io
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import tyro
from pydantic import BaseModel
from rich.console import Console

from hlvnn import search_space
from hlvnn.sweep import building, cluster, driver, plan
from hlvnn.sweep.options import SweepConfig
from hlvnn.sweep.ray_callback import Recorder
from hlvnn.sweep.ray_search import JournaledSearch

SLOTS, WINDOW = 2, 100
MOST_SECONDS, MOST_GROWTH = 0.15, 1.3
SPACE = """
BASE = {"dataset": "digits", "backbone": "mlp", "hidden": [4], "batch_size": 1000, "num_epochs": 1,
        "eval_samples": 1}
METRIC, MODE = "val_acc", "max"

def space(trial):
    return {"lr": trial.suggest_float("lr", 1e-3, 1e-1, log=True),
            "weight_decay": trial.suggest_float("weight_decay", 0.0, 0.1)}
"""


class Clock:
    """Adds up what chosen functions of the driver take, and notes it as each trial ends."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.ends: list[tuple[float, dict[str, float]]] = []

    def watch(self, owner: Any, name: str, part: str) -> None:
        """Time a method from now on."""
        method: Callable[..., Any] = getattr(owner, name)
        self.seconds.setdefault(part, 0.0)

        def timed(*args: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return method(*args, **named)
            finally:
                self.seconds[part] += time.perf_counter() - began

        setattr(owner, name, timed)

    def note_ends(self, owner: Any, name: str) -> None:
        """Note the time whenever a method was called: once for each trial."""
        method: Callable[..., Any] = getattr(owner, name)

        def noting(*args: Any, **named: Any) -> Any:
            result = method(*args, **named)
            self.ends.append((time.perf_counter(), dict(self.seconds)))
            return result

        setattr(owner, name, noting)

    def between(self, first: int, last: int) -> tuple[float, dict[str, float]]:
        """Return seconds a trial from the end of one to the end of another: in all, and by part."""
        (began, before), (ended, after) = self.ends[first], self.ends[last]
        count = last - first
        return (ended - began) / count, {p: (after[p] - before[p]) / count for p in after}


class Options(BaseModel):
    """How many."""

    trials: int = 1000
    """Trials of the sweep."""


def main(options: Options) -> None:
    """Run the sweep and print the table."""
    trials = options.trials
    clock = Clock()
    clock.watch(JournaledSearch, "suggest", "sampler")
    clock.watch(JournaledSearch, "on_trial_complete", "sampler")
    clock.watch(Recorder, "on_trial_start", "recorder")
    clock.watch(Recorder, "on_trial_complete", "recorder")
    clock.watch(Recorder, "on_trial_result", "recorder")
    clock.watch(Recorder, "on_step_end", "table")
    clock.note_ends(Recorder, "on_trial_complete")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        Path(search_space.FOLDER).mkdir()
        (Path(search_space.FOLDER) / "tiny.py").write_text(SPACE, encoding="utf-8")
        config = SweepConfig(
            space="tiny", name="sweep", num_trials=trials, max_concurrent=SLOTS, report=False
        )
        planned = plan.new_plan(config)
        building.check(planned)
        with cluster.connecting(None):
            driver.run(planned, Console(file=io.StringIO(), width=200))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    window = min(WINDOW, trials // 3)
    first = clock.between(window // 10, window)  # not the workers' start
    last = clock.between(trials - 1 - window, trials - 1)
    print(f"{trials} trials of one epoch, {SLOTS} at a time")
    print(f"| ms a trial | first {window} | last {window} | last over first |")
    print("|---|---|---|---|")
    rows = {"in all": (first[0], last[0])}
    rows |= {part: (first[1][part], last[1][part]) for part in first[1]}
    rows["in all, without the sampler"] = tuple(
        whole - parts["sampler"] for whole, parts in (first, last)
    )
    for name, (early, late) in rows.items():
        ratio = f"{late / early:.2f}" if early else ""
        print(f"| {name} | {1000 * early:.1f} | {1000 * late:.1f} | {ratio} |")
    print(f"\npeak memory of the driver: {memory:.0f} MB")
    print(
        f"targets: in all at most {1000 * MOST_SECONDS:.0f}; without the sampler, last / first at "
        f"most {MOST_GROWTH}"
    )


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
