"""Text in a table: what a column of it most likely is, where it cannot be categories."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd

MANY = 20
"""Distinct texts up to which a column is taken for categories."""
NEAR_UNIQUE = 0.5
"""Distinct texts, as a share of the rows, above which they can tell nothing of other rows."""
MANY_NUMBERS = 10
"""Distinct numbers among a column's texts from which on they are no categories such as 1, 2, 3+."""
COMMA = re.compile(r"\s*[-+]?\d[\d.]*,\d+\s*|\s*[-+]?\d+\s*")
DATE = re.compile(
    r"\s*(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4})([ T]\d.*)?\s*"
)
DATES = 0.9
"""Share of the distinct texts that look like dates, from which on the column is one of dates."""


def doubt(values: pd.Series[Any]) -> str | None:
    """Say why a column of text cannot be taken for categories, and what to do; None where it can.

    values: [N] text. The sentence goes on after "column 'age' ".
    """
    distinct = pd.Series(values.astype(str).unique())
    if distinct.map(lambda text: COMMA.fullmatch(text) is not None).all() and (
        distinct.str.contains(",").any()
    ):
        return (
            f"holds numbers with a decimal comma ({_shown(values, distinct.str.contains(','))}); "
            "read the file with --decimal , (in pandas: read_csv(…, decimal=','))"
        )
    if distinct.map(lambda text: DATE.fullmatch(text) is not None).mean() >= DATES:
        return (
            f"looks like dates ({_shown(values)}); name it in --dates (in Python dates=[…]) to "
            "make it days, or in --categories if each date is a category"
        )
    is_number = pd.to_numeric(distinct, errors="coerce").notna()
    if is_number.sum() >= MANY_NUMBERS and NEAR_UNIQUE * len(distinct) < is_number.sum():
        if is_number.all():
            return (
                f"holds numbers written as text ({_shown(values)}); convert it with "
                "pandas.to_numeric, or name it in --categories (categories=[…])"
            )
        wrong = values.astype(str).isin(distinct[~is_number])
        row = int(wrong.to_numpy().argmax())
        return (
            f"holds numbers but for {int(wrong.sum())} of {len(values)} rows, the first "
            f"{values.iloc[row]!r} in row {row} (rows count from 0); mend those or drop the rows, "
            "or name the column in --categories (categories=[…])"
        )
    if len(distinct) > MANY and len(distinct) > NEAR_UNIQUE * len(values):
        words = distinct.str.strip().str.contains(r"\s").mean() > 0.5
        return (
            f"holds {len(distinct)} different texts in {len(values)} rows ({_shown(values)}): "
            f"{'free text' if words else 'names or ids'}, which say nothing of other rows; leave "
            "it out (name the others in --features), or name it in --groups if a text is a group"
        )
    return None


def _shown(values: pd.Series[Any], which: pd.Series[Any] | None = None) -> str:
    """Return the first two texts, of those that are meant."""
    distinct = pd.Series(values.astype(str).unique())
    chosen = distinct if which is None else distinct[which]
    return ", ".join(repr(text if len(text) < 30 else text[:29] + "…") for text in chosen.iloc[:2])
