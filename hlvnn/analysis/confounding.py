"""Which parameters a searcher drew otherwise with other values of a setting."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
from scipy import stats

from hlvnn.columns import PARAMETER
from hlvnn.words import number, text

if TYPE_CHECKING:
    from hlvnn.analysis.results import Results

CONFOUNDED = 0.05
"""Another parameter differs with the setting where chance alone would make it so this rarely."""


def confounded(results: Results, setting: str, values: pd.Series[Any]) -> list[str]:
    """Return which other parameters were drawn otherwise with other values of the setting."""
    table = results.table.set_index("trial").loc[values.index]
    own = {setting, f"{PARAMETER}{setting}"}
    drawn = [str(name) for name in table if str(name).startswith(PARAMETER)]
    differ, partly = [], []
    for name in drawn:
        short = name.removeprefix(PARAMETER)
        column = table[name]
        if name in own or short in own or (column.map(text) == values).all():
            continue
        known = column.notna()
        if not known.all():
            if known.any():
                partly.append(short)
            continue
        p = _association(column, values)
        if p < CONFOUNDED:
            parts = [f"{_middle(part)} where {value}" for value, part in column.groupby(values)]
            differ.append(f"{short} ({', '.join(parts)}; p = {p:.2g})")
    found = []
    if differ:
        found.append(
            f"drawn otherwise with other values of {setting}: {'; '.join(differ)}. What these do "
            f"and what {setting} does cannot be told apart here"
        )
    elif drawn:
        found.append(
            f"as far as {len(values)} trials can tell no other parameter was drawn otherwise with "
            f"other values of {setting}; all the same a gain is that of trials as they were drawn"
        )
    if partly:
        found.append(
            f"drawn with some values of {setting} only, and part of them: {', '.join(partly)}"
        )
    return found


def _association(column: pd.Series[Any], values: pd.Series[Any]) -> float:
    """Return the p of a parameter being the same over the values of a setting."""
    parts = [part for _, part in column.groupby(values)]
    if len(parts) < 2 or column.map(text).nunique() < 2:
        return 1.0
    numbers = pd.to_numeric(column, errors="coerce")
    if numbers.notna().all() and column.dtype != bool:
        return float(stats.kruskal(*(numbers[part.index] for part in parts)).pvalue)
    return float(stats.chi2_contingency(pd.crosstab(column.map(text), values))[1])


def _middle(part: pd.Series[Any]) -> str:
    numbers = pd.to_numeric(part, errors="coerce")
    if numbers.notna().all() and part.dtype != bool:
        return f"median {number(float(numbers.median()))}"
    return f"mostly {part.map(text).mode().iloc[0]}"
