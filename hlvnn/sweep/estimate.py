"""`--dry-run`: what a sweep would run, and about how long it would take. Nothing is started."""

from __future__ import annotations

from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from hlvnn import search_space, words
from hlvnn.config import RunConfig
from hlvnn.errors import HlvnnError
from hlvnn.records import run_folder
from hlvnn.records.schedulers import SCHEDULERS
from hlvnn.search_space import Drawing
from hlvnn.sweep import cluster
from hlvnn.sweep.options import SweepConfig
from hlvnn.sweep.plan import Plan
from hlvnn.sweep.searchers import sampler
from hlvnn.words import duration

SHOWN = 10
"""Draws that are printed."""
PAST_RUNS = 50
"""Earlier runs, newest first, whose epochs are counted."""


def dry_run(plan: Plan, console: Console) -> int:
    """Print draws, resources and an estimate; return the exit code."""
    options, space = plan.options, plan.space
    count, proposer = min(SHOWN, options.num_trials), sampler(options.searcher, options.seed)
    draws = list(search_space.draws(space, count, options.seed, plan.fixed, proposer))
    drawn = [draw.drawn for draw in draws]
    columns = list(dict.fromkeys(name for settings in drawn for name in settings))
    table = Table(header_style="bold")
    for name in ("trial", *columns):
        table.add_column(name)
    for number, settings in enumerate(drawn):
        cells = (words.text(settings[name]) if name in settings else "" for name in columns)
        table.add_row(str(number), *cells)
    title = f"{space.name}: the first draws of seed {options.seed}"
    console.print(title, style="bold", markup=False)
    console.print(table, markup=False)
    for line in [*_settings(plan, draws), *_resources(options), *_time(plan)]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 0


def _settings(plan: Plan, draws: list[Drawing]) -> list[str]:
    space, options = plan.space, plan.options
    fixed = {**space.base, **options.fixed_settings}
    for draw in draws:  # BASE's value holds only where the space does not set it
        fixed = {name: value for name, value in fixed.items() if name not in draw.set_here}
    told = ", ".join(f"{metric} ({mode})" for metric, mode in space.objectives)
    return [
        f"fixed: {words.shown(fixed)}",
        f"selecting on {told}; {search_space.CHECKED_DRAWS} draws were checked",
        f"would write to {plan.place()}",
    ]


def _resources(options: SweepConfig) -> list[str]:
    asked = f"{options.num_trials} trials with {options.cpus_per_trial:g} CPUs"
    asked += f" and {options.gpus:g} GPUs each"
    if options.address is not None:
        return [f"{asked}, as many at a time as the cluster at {options.address} can hold"]
    machine = cluster.this_machine()
    cluster.check(options, [machine])
    has = f"{machine['CPU']:g} CPUs and {machine['GPU']:g} GPUs"
    return [f"{asked}, {cluster.slots(options, [machine])} at a time on this machine's {has}"]


def _time(plan: Plan) -> list[str]:
    options, sample = plan.options, plan.sample
    epochs = sum(config.train.num_epochs for config in sample) / len(sample)
    share = sum(expected_share(options, config.train.num_epochs) for config in sample) / len(sample)
    most = options.num_trials * epochs
    lines = [f"epochs: about {most * share:.0f} with early stopping, at most {most:.0f}"]
    times = past_seconds(Path(options.root) / sample[0].data.title, sample[0])
    if not times:
        try_one = f"python train_one.py --space {plan.space.name} --draw 0"
        return [
            *lines,
            f"time: unknown, no earlier run of these data; time one: {try_one}",
        ]
    usual = median(times)
    if options.address is not None:
        return [*lines, f"time: an epoch took {duration(usual)} before (median of {len(times)})"]
    slots = cluster.slots(options, [cluster.this_machine()])
    likely, longest = (duration(n * usual / slots) for n in (most * share, most))
    basis = f"{duration(usual)} an epoch, the median of {len(times)} epochs of earlier runs"
    return [*lines, f"time: about {likely}, at most {longest}, at {basis}"]


def expected_share(options: SweepConfig, num_epochs: int) -> float:
    """Return the share of all epochs that the sweep's scheduler is expected to train."""
    return SCHEDULERS[options.scheduler].expected_share(options.halving(num_epochs))


def past_seconds(parent: Path, like: RunConfig) -> list[float]:
    """Return the seconds of epochs of earlier runs with the same data and model size."""
    found: list[float] = []
    files = [*parent.glob(f"*/{run_folder.METRICS}"), *parent.glob(f"*/*/{run_folder.METRICS}")]
    for file in sorted(files, key=lambda file: file.stat().st_mtime, reverse=True)[:PAST_RUNS]:
        try:
            config = run_folder.read_config(file.parent)
            seconds = run_folder.read_metrics(file.parent)["seconds"].tolist()
        except (HlvnnError, KeyError):
            continue
        same = (config.data.data_size, config.model.model_size)
        if same == (like.data.data_size, like.model.model_size):
            found.extend(seconds)
    return found
