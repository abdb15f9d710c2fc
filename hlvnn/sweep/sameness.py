"""Whether a sweep that goes on is the same still: its steps, what it is drawn from, its data.

A space is the same when every draw that the journal holds replays to the same distributions and
settings, whatever its file looks like; data are the same when they have the hash that the trials
began with, wherever they lie.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FixedTrial, FrozenTrial

from hlvnn.choices import ChoosingTrial
from hlvnn.columns import DATA_HASH
from hlvnn.config import (
    NOT_REPEATED,
    PLACES,
    flatten,
    in_todays_terms,
    run_config,
    with_posteriors,
)
from hlvnn.data import data_of, why_changed
from hlvnn.errors import ConfigError, DataError, RunError
from hlvnn.files import read_json
from hlvnn.gone import GONE, STEPS
from hlvnn.records import begun_before, outcomes, run_folder
from hlvnn.records.journal import DRAW, Draw, read_journal
from hlvnn.records.sweep_folder import SPACE_COPY, Record, read_record
from hlvnn.search_space import Space
from hlvnn.storage import shown_path, typed
from hlvnn.words import Settings, text

MAY_DIFFER = {"device", "threads", "description", *PLACES, *NOT_REPEATED}
"""Settings that say where and how a trial is run, not what it computes."""


def check_steps(sweep: Path, place: str) -> None:
    """Raise `RunError` where a sweep was begun before the steps in groups' own units.

    place: the sweep, as the user names it.
    """
    record = read_record(sweep)
    asked = record.options.get("fixed")
    fixed = {*record.fixed, *(asked if isinstance(asked, dict) else ())}
    if GONE.keys() & fixed or is_of_before(sweep):
        raise RunError(
            f"{place} was begun before {STEPS} and cannot go on by other steps; it is read and "
            f"reported as ever (python -m hlvnn.analysis {typed(place)}), python train_one.py "
            "--from-trial repeats one of its trials by today's steps, and a new sweep begins with: "
            f"python tune_search.py {record.space}"
        )


def is_of_before(sweep: Path) -> bool:
    """Whether trials of a sweep were trained before the steps in groups' own units."""
    drawn = (trial.user_attrs.get(DRAW, {}) for trial in read_journal(sweep, []).optuna.values())
    valid = (draw.get("settings", {}) for draw in drawn if not draw.get("problem"))
    return any(GONE.keys() & settings.keys() for settings in valid) or any(
        begun_before.is_run(folder) for folder in outcomes.trial_folders(sweep).values()
    )


def check_space(sweep: Path, record: Record, space: Space, seed: int) -> None:
    """Raise `ConfigError` where a space would not draw again what the sweep drew from it."""
    difference = next(_differences(sweep, record, space, seed), None)
    if difference is not None:
        raise ConfigError(
            f"{space.path} is not the space that {shown_path(sweep)} draws from: {difference}. Put "
            f"it back (its copy is {shown_path(sweep / SPACE_COPY)}), or start a new sweep that "
            f"learns from this one: python tune_search.py {space.name} --warm-start {typed(sweep)}"
        )


def _differences(sweep: Path, record: Record, space: Space, seed: int) -> Iterator[str]:
    if space.objectives != record.objectives:
        was, now = (
            ", ".join(f"{metric} ({mode})" for metric, mode in one)
            for one in (record.objectives, space.objectives)
        )
        yield f"it selects on {now}, it was on {was}"
    known = read_journal(sweep, [])
    for number, trial in known.optuna.items():
        if DRAW in trial.user_attrs:
            for difference in _replayed(space, seed, record.fixed, trial, known.draws[number]):
                yield f"trial {number} would not be drawn again: {difference}"


def _replayed(
    space: Space, seed: int, fixed: Settings, trial: FrozenTrial, draw: Draw
) -> Iterator[str]:
    """Yield how a draw differs when it is drawn again from its own parameters."""
    again = FixedTrial(trial.params, number=trial.number)
    try:
        asked: Any = ChoosingTrial(again, trial.distributions)
        settings = space.drawing(asked, draw.number, seed, fixed).settings
    except ConfigError as error:
        if not draw.problem:
            yield str(error)
        return
    for name in {**trial.distributions, **again.distributions}:
        was, now = (one.distributions.get(name) for one in (trial, again))
        if was != now:
            yield f"{name} is drawn from {_ranged(now)}, it was from {_ranged(was)}"
    if draw.problem:
        return
    try:
        before, after = (
            with_posteriors(flatten(run_config(one, "")))
            for one in (in_todays_terms(draw.settings), settings)
        )
    except ConfigError:  # a rule of this program's version, and no other space
        return
    for name in draw.settings.keys() - MAY_DIFFER:
        if before[name] != after[name]:
            yield f"{name} = {text(after[name])}, it was {text(before[name])}"


def _ranged(distribution: BaseDistribution | None) -> str:
    """Return what a parameter is drawn from, in words."""
    if distribution is None:
        return "nothing"
    if isinstance(distribution, CategoricalDistribution):
        return " or ".join(text(choice) for choice in distribution.choices)
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    on = " on a logarithmic scale" if distribution.log else ""
    steps = "" if distribution.step in (None, 1) else f" in steps of {text(distribution.step)}"
    return f"{text(distribution.low)} … {text(distribution.high)}{steps}{on}"


def check_data(sweep: Path, places: Settings) -> None:
    """Raise `DataError` where the trials' data are not those that they began with.

    places: where the data are now (`DATA_PLACES`). Of trials with the same data one is looked at.
    """
    seen = set()
    for number, folder in outcomes.trial_folders(sweep).items():
        if not (folder / run_folder.HYPERPARAMS).exists():
            continue
        data = run_folder.read_config(folder).data
        now = data.model_validate({**data.model_dump(), **places})
        if now in seen:
            continue
        seen.add(now)
        expected = read_json(folder / run_folder.HYPERPARAMS).get(DATA_HASH)
        digest = data_of(now).digest()
        if digest != expected:
            why = why_changed(now, str(expected))
            raise DataError(
                f"the data {now.place} are not those that trial {number} began with (hash "
                f"{digest}, was {expected}){'; ' + why if why else ''}; restore them, or say where "
                "they are with --data-dir or --table"
            )
