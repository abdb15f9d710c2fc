"""Taking up what an earlier driver left: its trials, how they ended, and which go on."""

from __future__ import annotations

from dataclasses import dataclass

from optuna.trial import TrialState

from hlvnn.columns import DIVERGED
from hlvnn.records import outcomes, run_folder, trials_table
from hlvnn.records.journal import Draw
from hlvnn.records.outcomes import Outcome, Status
from hlvnn.search_space import Space
from hlvnn.sweep.comparing import Row
from hlvnn.sweep.context import Context
from hlvnn.sweep.schedulers import EpochScheduler
from hlvnn.sweep.trainable import scalars
from hlvnn.training.going_on import SUPERSEDED


@dataclass(frozen=True)
class Remaining:
    """What there is still to do."""

    to_run: int
    """Trials, those that go on among them."""
    open_trials: list[int]
    """Ids of the Optuna trials that go on."""


def take_up(context: Context, scheduler: EpochScheduler) -> Remaining:
    """Put what was done on the board, into the study and before the scheduler; return the rest."""
    board, journal = context.board, context.journal
    draws = journal.draws()
    ended: list[list[Row]] = []
    told_otherwise: list[int] = []
    known = journal.latest()
    unfinished: dict[int, list[Row]] = {}
    retried: list[int] = []
    for number, draw in draws.items():
        board.add(draw)
        rows = _rows(context, draw)
        for row in rows:
            board.told(number, dict(row))
        board.entries[number].first_epoch = board.entries[number].epoch
        outcome = outcomes.read(context.sweep, number)
        if outcome is None and (outcome := _missed_outcome(context, number, rows)) is not None:
            outcomes.write(context.sweep, outcome)
        if outcome is not None and _is_retried(context, draw, outcome):
            _reopen(context, number)
            retried.append(number)
            outcome = None
        if outcome is None or outcome.is_open:
            unfinished[number] = rows
        else:
            board.ended(outcome)
            values = _values(context, outcome)
            journal.settle(number, values)
            before = known[number].values
            if values is not None and before is not None and before != values:
                told_otherwise.append(number)
            ended.append(rows)
    if context.options.retry is not None:
        _tell_retried(context, retried)
    if told_otherwise:
        context.print(_of_older_rule(context.space, told_otherwise))
    scheduler.refill(ended, unfinished)
    to_run = len(unfinished) + max(0, context.options.num_trials - len(draws))
    return Remaining(to_run, journal.to_continue(sorted(unfinished)))


def _is_retried(context: Context, draw: Draw, outcome: Outcome) -> bool:
    """Whether --retry tries a trial again; a draw that cannot be valid it does not."""
    return outcome.status == context.options.retry and not draw.problem


def _tell_retried(context: Context, numbers: list[int]) -> None:
    retry = context.options.retry
    if numbers:
        again = ", ".join(f"trial {number}" for number in numbers)
        context.print(f"--retry {retry}: tried again: {again}")
    else:
        context.print(f"--retry {retry}: there is no such trial that could end otherwise")


def _reopen(context: Context, number: int) -> None:
    """Let a trial that failed go on; its error is kept where its first measures are."""
    context.journal.reopen(number)
    folder = context.folder(number)
    if (folder / outcomes.ERROR).exists():
        (folder / SUPERSEDED).mkdir(exist_ok=True)
        (folder / outcomes.ERROR).replace(folder / SUPERSEDED / outcomes.ERROR)
    outcomes.forget(context.sweep, number)


def _rows(context: Context, draw: Draw) -> list[Row]:
    """Return what Ray would have been told of a trial so far."""
    frame = trials_table.metrics(context.sweep, draw.number)
    if frame is None or draw.problem or not draw.settings:
        return []
    epochs = draw.settings["num_epochs"]
    return [scalars(row, epochs, context.space.worsts) for row in frame.to_dict("records")]


def _missed_outcome(context: Context, number: int, rows: list[Row]) -> Outcome | None:
    """Return the outcome of a trial that ended just before its driver was killed."""
    trial = context.journal.latest()[number]
    folder = context.folder(number)
    if trial.state == TrialState.FAIL:
        return Outcome(trial=number, status=Status.FAILED, reason=f"see {outcomes.ERROR}")
    if trial.state != TrialState.COMPLETE:
        return None
    last = rows[-1] if rows else None
    if last is not None and last[DIVERGED]:
        reason = f"the loss was not finite in epoch {last['epoch']:g}"
        return Outcome(trial=number, status=Status.DIVERGED, reason=reason)
    if trial.values == [*context.space.worsts.values()] and (folder / outcomes.ERROR).exists():
        reason = f"see {outcomes.ERROR}"
        return Outcome(trial=number, status=Status.OUT_OF_MEMORY, reason=reason)
    if last is None:
        return None
    if (folder / run_folder.RESULT).exists():
        return Outcome(trial=number, status=Status.COMPLETED)
    reason = f"stopped early at epoch {last['epoch']:g}, as the driver was killed"
    return Outcome(trial=number, status=Status.STOPPED, reason=reason)


def _values(context: Context, outcome: Outcome) -> list[float] | None:
    """Return what Optuna is told of a trial that ended: its chosen epoch's metrics.

    None for one that failed.
    """
    space, facts = context.space, outcome.status.facts
    frame = trials_table.metrics(context.sweep, outcome.trial)
    if facts.is_lost:
        return [*space.worsts.values()]
    if not facts.teaches or frame is None:
        return None
    return space.values_of(frame)


def _of_older_rule(space: Space, numbers: list[int]) -> str:
    """Return what is to be known of trials that an earlier program told Optuna otherwise."""
    return (
        f"{len(numbers)} trials that ended before (the first: {numbers[0]}) stand in the study "
        f"with another epoch's {space.metric} than that of the epoch that counts, as earlier "
        "versions told the last one's; their rows in the tables are right, the searcher knows them "
        "as they stand"
    )
