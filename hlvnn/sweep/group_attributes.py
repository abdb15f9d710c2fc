"""What a sweep keeps of what groups are like: its --group-table, once, in its own folder.

Trials need no such file: they run on nodes that have none, and the sweep goes on without it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hlvnn.data import data_of
from hlvnn.data.attributes import Attributes, read_attributes
from hlvnn.records.group_file import GROUPS
from hlvnn.records.sweep_folder import SWEEP, read_record

if TYPE_CHECKING:
    from hlvnn.sweep.plan import Plan

SETTING = "group_table"


def to_keep(plan: Plan) -> Attributes | None:
    """Return what is to be written into a sweep's folder; None where nothing is, or it is there.

    Raises `DataError` for a table that is not as it must be.
    """
    path = plan.fixed.get(SETTING)
    if path is None:
        return None
    is_begun = (plan.sweep / GROUPS).exists() and (plan.sweep / SWEEP).exists()
    if is_begun and read_record(plan.sweep).fixed.get(SETTING) == path:
        return None
    config = plan.sample[0].data
    schema = data_of(config).schema
    found = read_attributes(Path(path), config, [level.name for level in schema.levels])
    found.check(schema)
    return found


def told(plan: Plan) -> str:
    """Return what a sweep's table of attributes was taken for, in words."""
    found = to_keep(plan)
    if found is None:
        return f"kept in {plan.place(GROUPS)}"
    return "; ".join(found.told(data_of(plan.sample[0].data).schema))
