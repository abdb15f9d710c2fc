"""The data and the models of some draws, loaded and built before a sweep starts."""

from __future__ import annotations

from hlvnn.columns import VAL, measure_of, of_split
from hlvnn.config import DATA_PLACES, RunConfig
from hlvnn.data import data_of
from hlvnn.data.grouped import GroupedDataset
from hlvnn.errors import ConfigError, HlvnnError, Problems
from hlvnn.inference.predict import measured_names, why_not_measured
from hlvnn.models.build import assemble, build_model, check_own
from hlvnn.models.model import parameter_count
from hlvnn.sweep import group_attributes, sameness
from hlvnn.sweep.plan import Plan

BUILT_DRAWS = 16
"""Draws whose model is built before a sweep starts."""
SHOWN_PROBLEMS = 4
"""Problems of draws that are told at once; the others are likely of the same kind."""
COPIES, BYTES = 7, 4
"""A trial keeps two checkpoints, each of its weights and two moments of the optimizer, and its best
weights, in four bytes a number."""


def check(plan: Plan) -> int:
    """Load the data and build the models of some draws, so that what would fail fails now.

    Returns the bytes of the weights and checkpoint that a trial leaves at most, as far as these
    draws tell. Raises what loading and building raise, and `ConfigError` for a metric that is not
    measured.
    """
    largest = 0
    problems: list[HlvnnError] = []
    sameness.check_data(plan.sweep, {k: v for k, v in plan.fixed.items() if k in DATA_PLACES})
    group_attributes.to_keep(plan)
    for number, config in enumerate(plan.sample[:BUILT_DRAWS]):
        data = data_of(config.data)
        where = f"{plan.space.path}: draw {number}"
        if data.val is None:
            raise ConfigError(f"{where}: the data have no validation rows to select on")
        try:
            check_own(config.model, data.schema)
            model = assemble(config.model, data.schema)
        except ConfigError as error:
            problems.append(ConfigError(f"{where}: {error}"))
            continue
        largest = max(largest, COPIES * BYTES * parameter_count(model))
        if number == 0:
            problems += _unmeasured(plan, config, data)
    if problems:
        raise Problems.of(problems[:SHOWN_PROBLEMS])
    return largest


def _unmeasured(plan: Plan, config: RunConfig, data: GroupedDataset) -> list[HlvnnError]:
    """Return an error for each metric that is selected on and not measured on these data."""
    assert data.val is not None
    model = build_model(config.model, data)
    measured = [of_split(VAL, name) for name in measured_names(model, data.val)]
    there = f"; there are: {', '.join(measured)}"
    found: list[HlvnnError] = []
    for metric in plan.space.worsts:
        if metric not in measured:
            why = why_not_measured(model, data.val, measure_of(metric))
            what = f"{plan.space.path}: METRIC = {metric!r} is not measured on these data"
            found.append(ConfigError(f"{what}{f': {why}' if why else there}"))
    return found
