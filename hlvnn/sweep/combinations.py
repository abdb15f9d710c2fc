"""Which searcher, scheduler and search space go together."""

from __future__ import annotations

from collections.abc import Iterator

from hlvnn.config import RunConfig, flatten
from hlvnn.errors import ConfigError, HlvnnError, Problems
from hlvnn.records.schedulers import SCHEDULERS
from hlvnn.records.searchers import SEARCHERS
from hlvnn.search_space import Space
from hlvnn.storage import is_address
from hlvnn.sweep.options import SweepConfig
from hlvnn.sweep.searchers import check_grid
from hlvnn.words import text

PERTURBED = ("lr", "embedding_lr", "weight_decay", "kl_weight", "dropout", "augment", "clip_grad")
"""Settings that may change while a trial runs: its weights and its schedule fit all the same."""


def check(options: SweepConfig, space: Space, sample: list[RunConfig]) -> None:
    """Raise `ConfigError` (or several as one) for what cannot work as it is asked to.

    sample: draws of the space; none where they could not be made.
    """
    searcher, scheduler = SEARCHERS[options.searcher], SCHEDULERS[options.scheduler]
    if searcher.is_exhaustive and not scheduler.perturbs:
        check_grid(space, options.num_trials)
    if scheduler.is_waiting and options.max_concurrent is not None:
        raise ConfigError(
            f"--max-concurrent {options.max_concurrent}: {scheduler.name}'s trials wait for "
            "each other, and those that wait would count; leave it out, or give trials more "
            "--cpus-per-trial"
        )
    if scheduler.perturbs:
        problems: list[HlvnnError] = [
            ConfigError(f"--scheduler {scheduler.name}: {problem}")
            for problem in _population_problems(options, space, sample)
        ]
        if problems:
            raise Problems.of(problems)


def check_more(before: SweepConfig, more: int) -> None:
    """Raise `ConfigError` where a sweep cannot be given more trials."""
    if SCHEDULERS[before.scheduler].perturbs and more > 0:
        raise ConfigError(
            f"--scheduler {before.scheduler}: a population of {before.num_trials} trials cannot be "
            "joined later; start a new sweep of as many as you need"
        )


def _population_problems(
    options: SweepConfig, space: Space, sample: list[RunConfig]
) -> Iterator[str]:
    """Yield what a population cannot do."""
    if SEARCHERS[options.searcher].learns:
        yield (
            f"--searcher {options.searcher} takes what a trial reached for the doing of the "
            "settings that it was drawn with, and these change as it runs; give --searcher "
            + " or ".join(one.name for one in SEARCHERS.values() if not one.learns)
        )
    smallest = SCHEDULERS[options.scheduler].smallest
    if options.num_trials < smallest:
        yield f"--num-trials {options.num_trials} is no population; give at least {smallest}"
    if is_address(options.root):
        yield (
            f"weights are handed over from folder to folder, and {options.root} is an address; "
            "give a folder that all nodes share as --results-dir"
        )
    if not sample:
        return
    settings = [flatten(config) for config in sample]
    drawn = sorted(name for name in settings[0] if len({text(one[name]) for one in settings}) > 1)
    if fixed := [name for name in drawn if name not in (*PERTURBED, "seed")]:
        yield (
            f"{space.path} draws {', '.join(fixed)}, which cannot change while a trial runs, so "
            "that no trial could take over another's weights; fix it in BASE (what may be drawn: "
            f"{', '.join(PERTURBED)})"
        )
    if not set(drawn) & set(PERTURBED):
        yield f"{space.path} draws none of {', '.join(PERTURBED)}, so nothing could be changed"
    train = sample[0].train
    if options.perturb_every >= train.num_epochs:
        yield (
            f"--perturb-every {options.perturb_every} must be below the {train.num_epochs} epochs "
            "of a trial, or there is no round"
        )
    if options.perturb_every % train.eval_every:
        yield (
            f"--perturb-every {options.perturb_every} must be a multiple of --eval-every "
            f"{train.eval_every}: trials are compared when they are evaluated"
        )
    if train.checkpoint_every != 1:
        yield (
            f"--checkpoint-every {train.checkpoint_every} must be 1: a round hands over the "
            "weights of its own epoch"
        )
