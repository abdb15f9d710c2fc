"""What groups that gain, and groups that are weak, have in common: by their attributes.

A group counts once, whatever its rows: errors are over groups. Numbers are put into bins with about
equally many groups; categories of few groups are taken together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from hlvnn.analysis.spreads import WORST
from hlvnn.columns import BETTER_HIGH
from hlvnn.data.attributes import NUMBER, kind_of
from hlvnn.words import number

Floats = NDArray[np.float64]

BINS, IN_A_BIN = 4, 5
"""Bins of a number's groups at most, and groups in each at least."""
FEW = 3
"""Groups of a category below which it is taken together with others of its size."""
FEWEST = 6
"""Groups with a value from which on an attribute is looked at."""
LIKELY = 0.05
"""What chance alone would do this rarely is said."""
WEAKEST = "weakest"


class Part(NamedTuple):
    """A row of `ByAttribute.parts`."""

    value: str
    groups: int
    gain: float
    error: float
    weakest: int
    p: float


@dataclass(frozen=True)
class ByAttribute:
    """Groups by one attribute.

    parts: a row per bin or category. Columns value, groups, gain (mean over its groups), error
    (standard error of that, over groups), weakest (how many of its groups are among the weakest
    tenth of all), p (of as many or more there, by chance: Fisher's exact test). without: groups
    whose attribute is not known. p: of gains being alike over the attribute: of Spearman's rank
    correlation with the gain for numbers (rank, with its interval of 95 %), of Kruskal and Wallis'
    test of the categories.
    """

    name: str
    kind: str
    parts: pd.DataFrame
    without: int
    p: float
    rank: tuple[float, float, float] | None = None

    @property
    def each(self) -> list[Part]:
        """The rows of `parts`."""
        return [Part(*row) for row in self.parts.itertuples(index=False)]


def weakest_of(gains: pd.DataFrame) -> NDArray[np.int64]:
    """Return the places of the weakest tenth of groups under the trial, the weakest first."""
    sign = 1.0 if gains.attrs["measure"] in BETTER_HIGH else -1.0
    values = sign * gains["trial"].to_numpy(np.float64)
    return np.argsort(values, kind="stable")[: max(1, round(WORST * len(values)))]


def by_attribute(gains: pd.DataFrame, attributes: pd.DataFrame) -> list[ByAttribute]:
    """Return how gain and weakest tenth go with each attribute that groups can be compared by.

    gains: as of `analysis.gains.gains`. attributes: [groups], in its order, a column each. The one
    with the smallest p is the first.
    """
    weak = np.zeros(len(gains), dtype=bool)
    weak[weakest_of(gains)] = True
    gain = gains["gain"].to_numpy(np.float64)
    found = []
    for name in attributes:
        values = attributes[name].reset_index(drop=True)
        kind = kind_of(values)
        known = values.notna().to_numpy()
        if kind.is_compared and known.sum() >= FEWEST:
            one = _one(str(name), kind.name, values[known], gain[known], weak[known])
            found.append((one.p, ByAttribute(**{**vars(one), "without": int((~known).sum())})))
    return [one for _, one in sorted(found, key=lambda pair: pair[0])]


def _one(
    name: str, kind: str, values: pd.Series[Any], gain: Floats, weak: NDArray[np.bool_]
) -> ByAttribute:
    if kind == NUMBER:
        order = np.argsort(values.to_numpy(np.float64), kind="stable")
        values, gain, weak = values.iloc[order], gain[order], weak[order]
        said = _bins(values.to_numpy(np.float64))
        found = stats.spearmanr(values, gain) if np.ptp(gain) > 0 else None
        rank = None if found is None else _interval(float(found.statistic), len(gain))
        p = 1.0 if found is None else float(found.pvalue)
        return ByAttribute(name, kind, _parts(said, gain, weak), 0, p, rank)
    said = _categories(values)
    parts = [part.to_numpy() for _, part in pd.Series(gain).groupby(said)]
    is_told = len(parts) > 1 and np.ptp(gain) > 0
    p = float(stats.kruskal(*parts).pvalue) if is_told else 1.0
    table = _parts(said, gain, weak).sort_values("gain", ascending=False, ignore_index=True)
    return ByAttribute(name, kind, table, 0, p)


def _bins(values: Floats) -> list[str]:
    """Return in which bin each value is, by its words."""
    distinct = np.unique(values)
    most = max(2, min(BINS, len(values) // IN_A_BIN))
    edges = np.unique(np.quantile(values, np.arange(1, most) / most))
    place = np.searchsorted(edges, values, side="left")
    if len(distinct) <= BINS:
        place = np.searchsorted(distinct, values)
    said = np.empty(len(values), dtype=object)
    for one in np.unique(place):
        part = values[place == one]
        low, high = number(float(part.min())), number(float(part.max()))
        said[place == one] = low if low == high else f"{low} to {high}"
    return [str(one) for one in said]


def _categories(values: pd.Series[Any]) -> list[str]:
    """Return each category, those of few groups together."""
    counts = values.value_counts()
    few = {str(one) for one in counts[counts < FEW].index}
    if len(few) < 2:
        return [str(one) for one in values]
    return [f"others ({len(few)})" if str(one) in few else str(one) for one in values]


def _interval(rank: float, count: int) -> tuple[float, float, float]:
    """Return a rank correlation with its interval (Bonett and Wright 2000)."""
    if count < 4 or abs(rank) >= 1:
        return rank, rank, rank
    reach = 1.96 * np.sqrt((1 + rank**2 / 2) / (count - 3))
    low, high = np.tanh(np.arctanh(rank) - reach), np.tanh(np.arctanh(rank) + reach)
    return rank, float(low), float(high)


def _parts(said: list[str], gain: Floats, weak: NDArray[np.bool_]) -> pd.DataFrame:
    """Return the table of `ByAttribute`, in the order in which its values are met."""
    frame = pd.DataFrame({"value": said, "gain": gain, WEAKEST: weak})
    rows = []
    for value, part in frame.groupby("value", sort=False):
        count, bad = len(part), int(part[WEAKEST].sum())
        error = part["gain"].std(ddof=1) / np.sqrt(count) if count > 1 else np.nan
        p = stats.hypergeom.sf(bad - 1, len(frame), int(weak.sum()), count)
        rows.append((str(value), count, part["gain"].mean(), error, bad, float(p)))
    return pd.DataFrame(rows, columns=list(Part._fields))
