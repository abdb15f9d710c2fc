"""A trial beside another model by every measure: which is better, and can it be told at all.

Everything is over the same rows at equal epochs, with standard errors over groups, whose rows are
not independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hlvnn.analysis.gains import gains
from hlvnn.analysis.pairs import Fair
from hlvnn.analysis.results import Results
from hlvnn.analysis.spreads import WORST
from hlvnn.columns import (
    BETTER_HIGH,
    VAL,
    VAL_ACC,
    VAL_LOSS,
    VAL_MSE,
    best_of,
    measure_of,
    on_test,
)
from hlvnn.errors import RunError
from hlvnn.selection import MAX

Floats = NDArray[np.float64]
TOLD_APART = 2.0
"""A difference of fewer standard errors cannot be told from none."""
DRAWS, MOST = 400, 2_000_000
"""Bootstrap samples for the weakest tenth, fewer where they would be more than so many numbers."""


@dataclass(frozen=True)
class Beside:
    """One measure of a trial beside that of another model.

    gain: the trial's over the other's, turned so that more is better; error: its standard error
    over groups, NaN where it is not known; tail: of how many of the groups the measure is the mean,
    where it is that of the weakest ones.
    """

    other: int
    measure: str
    own: float
    others: float
    gain: float
    error: float
    groups: int
    tail: int | None = None
    is_over_rows: bool = False
    """Whether it is a mean over all rows."""

    @property
    def is_known(self) -> bool:
        """Whether it is known how sure the gain is."""
        return bool(np.isfinite(self.error))

    @property
    def sign(self) -> int:
        """1 where the trial is better, −1 where the other is, 0 where they cannot be told apart."""
        if not self.is_known or abs(self.gain) < TOLD_APART * self.error or self.gain == 0:
            return 0
        return 1 if self.gain > 0 else -1


def over_rows(frames: Sequence[pd.DataFrame]) -> Beside:
    """Return what all rows together say.

    frames: the same pair's `gains` by each level's groups, the lowest first. The error is that of
    the level at which it is largest.
    """
    first = frames[0]
    n = first["n"].to_numpy(np.float64)
    own, others, gain = (
        float((n * first[name].to_numpy(np.float64)).sum() / n.sum())
        for name in ("trial", "pooled", "gain")
    )
    errors = [_error_over_groups(frame) for frame in frames]
    known = [error for error in errors if np.isfinite(error)]
    return Beside(
        *(first.attrs["trials"][1], str(first.attrs["measure"]), own, others, gain),
        error=max(known, default=float("nan")),
        groups=len(first),
        is_over_rows=True,
    )


def _error_over_groups(frame: pd.DataFrame) -> float:
    """Return the standard error of the mean gain over rows, where groups are independent."""
    if len(frame) < 2:
        return float("nan")
    n, gain = (frame[name].to_numpy(np.float64) for name in ("n", "gain"))
    sums = n * (gain - (n * gain).sum() / n.sum())
    return float(np.sqrt(len(n) / (len(n) - 1) * np.square(sums).sum()) / n.sum())


def weak_end(frame: pd.DataFrame) -> Beside:
    """Return what the weakest tenth of groups says, each model's own; the error is bootstrapped."""
    measure = str(frame.attrs["measure"])
    sign = 1.0 if measure in BETTER_HIGH else -1.0
    pair = sign * frame[["trial", "pooled"]].to_numpy(np.float64).T  # [2, G]
    own, others = weakest_mean(pair)
    return Beside(
        *(frame.attrs["trials"][1], measure, sign * own, sign * others, own - others),
        error=_bootstrapped(pair),
        groups=len(frame),
        tail=weakest(len(frame)),
    )


def of_metrics(results: Results, fair: Fair, pair: tuple[int, int]) -> list[Beside]:
    """Return what the sweep's metrics say that are no mean over rows of which errors are known.

    Of test rows where these were scored. Their errors are not known.
    """
    found = []
    first, second = fair.rows
    for metric, mode in results.objectives:
        if measure_of(metric) in (results.groups.main_measure, "loss"):
            continue
        column = on_test(metric)
        column = column if column in first and column in second else metric
        own, others = float(first[column]), float(second[column])
        gain = own - others if mode == MAX else others - own
        found.append(Beside(pair[1], column, own, others, gain, float("nan"), groups=0))
    return found


def weakest(groups: int) -> int:
    """Return how many groups the weakest tenth of so many is."""
    return max(1, round(WORST * groups))


def weakest_mean(values: Floats) -> Floats:
    """Return the mean of the weakest tenth of groups [..., G]; more is better."""
    count = weakest(values.shape[-1])
    return np.sort(values, axis=-1)[..., :count].mean(-1)


def _bootstrapped(pair: Floats) -> float:
    """Return the SD over samples of groups of the difference between the two weak ends."""
    groups = pair.shape[1]
    if groups < 2:
        return float("nan")
    random = np.random.default_rng(0)
    samples = random.integers(groups, size=(max(100, min(DRAWS, MOST // groups)), groups))
    own, others = (weakest_mean(values[samples]) for values in pair)
    return float((own - others).std(ddof=1))


@dataclass(frozen=True)
class Disagreement:
    """Two measures that would have chosen different trials.

    trials: that of each measure; columns: the measures, of validation rows; values: of the first
    measure, of the first trial and of the other; beside: the two over groups, by the first measure.
    """

    columns: tuple[str, str]
    trials: tuple[int, int]
    values: tuple[float, float]
    beside: Beside | None


def disagreement(results: Results) -> Disagreement | None:
    """Return where accuracy (of real targets the squared error) and nats choose other trials.

    Each trial is taken at its own chosen epoch, as the ranking has it. None where they agree, or
    one of them was not measured. The first is the measure that the sweep does not select on.
    """
    best, placed = results.best_trial, results.placed
    first = VAL_ACC if best_of(VAL_ACC) in placed else VAL_MSE
    columns = (VAL_LOSS, first) if results.metric == first else (first, VAL_LOSS)
    if best is None or any(best_of(name) not in placed for name in columns):
        return None
    winners = [_winner(results, name) for name in columns]
    if None in winners or winners[0] == winners[1]:
        return None
    one, two = (int(str(number)) for number in winners)
    value = best_of(columns[0])
    values = float(results.row(one)[value]), float(results.row(two)[value])
    if values[0] == values[1]:
        return None
    return Disagreement(columns, (one, two), values, _between(results, one, two, columns[0]))


def _winner(results: Results, column: str) -> int | None:
    if column == results.metric:
        return results.best_trial
    is_high = measure_of(column) in BETTER_HIGH
    values = results.placed.set_index("trial")[best_of(column)].dropna()
    return None if not len(values) else int(str(values.idxmax() if is_high else values.idxmin()))


def _between(results: Results, one: int, two: int, column: str) -> Beside | None:
    """Return two trials beside each other on validation rows, each at its own chosen epoch.

    None where their tables are gone or cannot be read.
    """
    if any(pd.isna(results.row(number)["folder"]) for number in (one, two)):
        return None
    measure = measure_of(column)
    if measure not in results.groups.measures:
        return None
    pair = partial(gains, results, trial=one, pooled=two, split=VAL, measure=measure, whole=True)
    try:
        frames = [pair(level=level) for level in results.groups.levels]
    except RunError:
        return None
    return over_rows(frames) if frames and len(frames[0]) else None
