"""What a sweep ends with: leaderboard, report, kept weights, and how to go on."""

from __future__ import annotations

import shlex
import time
from pathlib import Path

import pandas as pd

from hlvnn.columns import best_of
from hlvnn.records import trials_table, weight_files
from hlvnn.records.beware import is_in_doubt
from hlvnn.records.outcomes import PLACED, open_ones
from hlvnn.records.perturbations import PERTURBATIONS, params_now
from hlvnn.storage import Remote, readable, shown_path
from hlvnn.sweep.context import Context
from hlvnn.terminal import front, leaderboard
from hlvnn.words import duration


def conclude(context: Context, frame: pd.DataFrame) -> int:
    """Print the leaderboard of the trials, and where everything is; return the exit code."""
    plan, space = context.plan, context.space
    ranked = trials_table.ranked(frame, space)
    drawn = {
        number: draw.drawn | params_now(context.folder(number))
        for number, draw in context.journal.draws().items()
    }
    shown = leaderboard(ranked, space, drawn, context.console.width)
    context.console.print(shown, markup=False)
    numbers = frame["status"].value_counts().items()
    counts = ", ".join(f"{count} {status}" for status, count in numbers)
    lines = [
        f"{len(frame)} trials in {duration(time.monotonic() - context.board.started)}: {counts}",
        f"every trial: {plan.place(trials_table.TRIALS)}",
        f"everything: {plan.place()}",
    ]
    if context.options.report:
        lines.append(write_report(context.sweep, plan.remote))
    best = ranked.iloc[0]
    found = best["status"] in PLACED and not pd.isna(best.get(best_of(space.metric)))
    if found and is_in_doubt(best["reason"]):
        lines.append(f"beware of trial {best['trial']}, the best: {best['reason']}")
    if found:
        lines.append(_repeat_line(context, int(best["trial"])))
    lines = [*front(ranked, space), *lines, *_prune(context, ranked)]
    if open_ones(frame).any():
        lines.append(f"go on: {plan.resume_command}")
    for line in lines:
        context.print(line)
    if context.ending.interrupted:
        return 130
    return 1 if context.ending.has_failed or not found else 0


def write_report(sweep: Path, remote: Remote | None = None) -> str:
    """Write the report of a sweep; return a line that says where it is, or why there is none.

    remote: the address at which it lives, when `sweep` is the driver's copy of a part of it.
    The sweep is over and recorded by then, so that nothing here may fail it.
    """
    place = shown_path(sweep) if remote is None else shlex.quote(str(remote))
    again = f"python -m hlvnn.analysis {place}"
    try:
        from hlvnn.analysis import report

        written = report.of_ended_sweep(sweep if remote is None else readable(str(remote)))
        if remote is not None:
            remote.write(written.name, written.read_bytes())
        return f"report: {shown_path(written)}"
    except ModuleNotFoundError as error:
        return f"no report: it needs {error.name}; pip install 'hlvnn[analysis]', then {again}"
    except Exception as error:  # noqa: BLE001
        return f"no report: {type(error).__name__}: {error}; to see why: {again}"


def _repeat_line(context: Context, number: int) -> str:
    """Return a line that says how the best trial is repeated."""
    folder = context.folder(number)
    place = context.plan.place(folder.name)
    if (folder / PERTURBATIONS).exists():
        return f"the best took over other trials, see {place}/{PERTURBATIONS}"
    return f"repeat the best: python train_one.py --from-trial {place}"


def _prune(context: Context, ranked: pd.DataFrame) -> list[str]:
    """Delete the weights that are not to be kept; return what is to be told of it."""
    keep = context.options.keep_checkpoints
    if keep is None:
        return []
    try:
        freed = weight_files.prune(context.plan.remote or context.sweep, ranked, keep)
    except OSError as error:
        return [f"weights: not all that was to go could be deleted: {error}"]
    return [f"weights: kept the best {keep} trials', freed {freed.bytes / 1e6:.1f} MB"]
