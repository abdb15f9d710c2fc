"""What a table's target is: classes, a real number, or counts; said, or told from its values."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd

from hlvnn.data import frames, validation
from hlvnn.data.schema import Target
from hlvnn.errors import DataError

TargetKind: TypeAlias = Literal["class", "real", "count"]
"""A class, a real number, or a count (a whole number from 0 without an upper end)."""
FEW = 20
"""Up to so many different whole numbers, 0 to K or 1 to K, may be classes as well."""
TWICE = 2
"""Rows for each different value from which on it is plain that values come back."""


def target_of(
    frame: pd.DataFrame, name: str, trials: str | None, kind: TargetKind | None, where: str
) -> tuple[np.ndarray, Target, str]:
    """Return y, what it is, and a sentence on what was inferred ("" where it was said).

    y: [N] int64 class indices; [N] float64; with trials [N, 2] float64, successes and trials. Of
    numbers, two different whole ones are classes, others are real. Raises `DataError` where a few
    whole numbers from 0 or 1 may be either, for one class alone, for text that cannot be classes,
    and for what is not of the kind that was said.
    """
    if trials is not None:
        if trials == name:
            raise DataError(f"{where}: {trials!r} is both target and trials; expected two columns")
        if kind not in (None, "count"):
            raise DataError(
                f"{where}: target {name!r} counts successes of trials ({trials!r}) and cannot be "
                f"{kind}; leave out the trials, or the target's kind"
            )
        y = frames.counts_of(frame, name, trials, where)
        return y, Target(name, "real", trials=trials), ""
    values = frames.column(frame, name, where)
    if kind is None:
        kind, note = _inferred(values, where)
    else:
        note = ""
    if kind == "class":
        return *_classes(values, where), note
    if not frames.is_number(values):
        frames.check_text(values, where)
        raise DataError(
            f"{where}: target {name!r} is to be {kind} and holds {values.dtype}; convert it with "
            "pandas.to_numeric, or say --target-kind class"
        )
    y = frames.numbers(values, where)
    if kind == "count":
        validation.check_counts(y, where, name)
    return y, Target(name, "real", counts=kind == "count"), note


def _inferred(values: pd.Series[Any], where: str) -> tuple[TargetKind, str]:
    """Tell a target's kind from its values: the kind, and a sentence that says so."""
    name = values.name
    if not frames.is_number(values):
        frames.check_text(values, where)
        return "class", f"target {name!r}: text or categories, taken as classes"
    distinct = np.unique(frames.numbers(values, where))
    if not (distinct == np.floor(distinct)).all():
        return "real", f"target {name!r}: numbers with fractions, taken as real"
    if len(distinct) == 2:
        shown = " and ".join(f"{value:.0f}" for value in distinct)
        return "class", (
            f"target {name!r}: two whole numbers, {shown}, taken as classes "
            "(--target-kind real otherwise)"
        )
    in_a_row = distinct[0] in (0, 1) and (np.diff(distinct) == 1).all()
    if in_a_row and 2 < len(distinct) <= FEW and len(values) >= TWICE * len(distinct):
        raise DataError(
            f"{where}: target {name!r} holds the whole numbers {distinct[0]:.0f} to "
            f"{distinct[-1]:.0f}, which may be classes, measurements or counts; say which with "
            "--target-kind class, real or count (target_kind= in from_frame)"
        )
    return "real", (
        f"target {name!r}: whole numbers, taken as real (--target-kind count or class otherwise)"
    )


def _classes(values: pd.Series[Any], where: str) -> tuple[np.ndarray, Target]:
    if frames.is_number(values):
        array = frames.numbers(values, where)
        if (array != np.floor(array)).any():
            row = int((array != np.floor(array)).argmax())
            raise DataError(
                f"{where}: target {values.name!r} is to be classes and is {array[row]} in row "
                f"{row} (rows count from 0), expected whole numbers or text; say --target-kind real"
            )
    else:
        frames.check_text(values, where)
    labels = frames.categories_of(values, where)
    if len(labels) < 2:
        raise DataError(
            f"{where}: target {values.name!r} has one class, {labels[0]!r}, in all "
            f"{len(values)} rows; expected two or more; choose another column or other rows"
        )
    y = frames.codes_of(values, labels, where)
    return y, Target(str(values.name), "class", labels, len(labels))
