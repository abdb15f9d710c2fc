"""What the schedulers share: which results they compare, and whom they compare them with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hlvnn.columns import DIVERGED

Row = Mapping[str, float]
NO_CONTROLLER: Any = None
"""Ray's schedulers take their controller as an argument; for a result alone they do not use it."""


@dataclass(frozen=True)
class PastTrial:
    """Stands for a trial of an earlier driver, whose results count as if they had just come."""

    trial_id: str


def is_compared(row: Row) -> bool:
    """Whether a result takes part in comparisons."""
    return not row[DIVERGED] and row["epoch"] < row["num_epochs"]
