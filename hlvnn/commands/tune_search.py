"""What `tune_search.py` does: from flags to a sweep."""

from __future__ import annotations

from contextlib import ExitStack

import tyro

from hlvnn import search_space
from hlvnn.config import validated
from hlvnn.errors import ConfigError
from hlvnn.gone import refuse_flags
from hlvnn.sweep.options import SweepConfig
from hlvnn.terminal import plain_console

HELP = """Search a space: many trials, on this machine or a cluster, the bad ones stopped early.

Examples:
  python tune_search.py digits
  python tune_search.py digits --dry-run
  python tune_search.py shakespeare --num-trials 40 --time-budget 30m
  python tune_search.py femnist --num-trials 200 --gpus-per-trial 0.25 --address auto
  python tune_search.py --resume results/digits/SWEEP
  python tune_search.py digits --name wide --or-resume
  python tune_search.py --extend results/digits/SWEEP --num-trials 40
  python tune_search.py digits --warm-start results/digits/SWEEP --searcher gp --scheduler hyperband

Results are in RESULTS_DIR/DATASET/NAME: a folder per trial, and trials.parquet, a row per trial.
A search space is a file of search_spaces/; copy one to begin a study of your own.
"""


def main(args: list[str]) -> int:
    """Parse the flags, run the sweep, and return the exit code."""
    options = parse(args)
    console = plain_console()
    try:
        from hlvnn.sweep import building, driver, estimate, plan, preflight
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"a sweep needs {error.name}: install ray and optuna with pip install 'hlvnn[sweep]'"
        ) from error
    if options.dry_run:
        planned = plan.of(options)
        building.check(planned)
        return estimate.dry_run(planned, console)
    with ExitStack() as stack:
        return driver.run(preflight.checked_plan(options, console, stack), console)


def parse(args: list[str]) -> SweepConfig:
    """Return the options. Defaults are those of the sweep that is resumed, or of the space."""
    first = _parse([arg for arg in args if arg not in ("-h", "--help")], SweepConfig())
    default = SweepConfig()
    if first.resume is not None and first.extend is not None:
        raise ConfigError("--resume and --extend: give only one of them")
    if first.retry is not None and first.resume is None:
        raise ConfigError(f"--retry {first.retry} is for a sweep that goes on: say --resume SWEEP")
    if first.or_resume:
        return _parse_or_resume(args, first)
    if first.resume is not None:
        from hlvnn.sweep.plan import options_to_go_on

        default = options_to_go_on(first.resume)
    elif first.extend is not None:
        from hlvnn.sweep.plan import options_to_go_on

        default = options_to_go_on(first.extend)
        default = default.model_copy(update={"num_trials": SweepConfig().num_trials})
    elif first.space is not None:
        space = search_space.load(first.space)
        default = validated(SweepConfig, space.sweep, f"{space.path}: SWEEP")
    return _parse(args, default)


def _parse_or_resume(args: list[str], first: SweepConfig) -> SweepConfig:
    """Return the options of a sweep that goes on if it has begun: its flags stand in its record."""
    from hlvnn.sweep.naming import begun
    from hlvnn.sweep.plan import options_to_go_on

    if (
        first.resume is not None
        or first.extend is not None
        or first.name is None
        or not first.space
    ):
        raise ConfigError(
            "--or-resume begins a sweep or goes on with it: give a search space and --name NAME, "
            "and neither --resume nor --extend"
        )
    space = search_space.load(first.space)
    options = _parse(args, validated(SweepConfig, space.sweep, f"{space.path}: SWEEP"))
    place = begun(options, space)
    if place is None:
        return options
    saved = options_to_go_on(place)
    return _parse(args, saved.model_copy(update={"resume": place}))


def _parse(args: list[str], default: SweepConfig) -> SweepConfig:
    refuse_flags(args)
    return tyro.cli(
        SweepConfig,
        prog="tune_search.py",
        description=HELP,
        args=args,
        default=default,
        config=(tyro.conf.OmitArgPrefixes,),
    )
