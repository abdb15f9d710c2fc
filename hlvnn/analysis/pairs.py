"""Two trials side by side, fairly: at equal epochs, and row by row with errors of their own.

Rows of a group are not independent: an error over rows says how sure the difference is on these
groups, the error over groups how sure it is for others like them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from hlvnn.analysis.results import Results
from hlvnn.columns import DATA_HASH
from hlvnn.errors import RunError
from hlvnn.records.predictions import Predictions, level_columns, read_predictions
from hlvnn.selection import Selection

Floats = NDArray[np.float64]
SIGNIFICANT = 0.05
"""A difference is beyond its own error where chance alone would make one as large this rarely."""
BY_ROW = ("acc", "mse", "loss")
"""Measures that are means over rows."""


@dataclass(frozen=True)
class Fair:
    """Where two trials are compared: at each one's chosen epoch among the first `within`.

    within: epochs that both have trained; lengths: how many each has; epochs: what is compared.
    """

    within: int
    lengths: tuple[int, int]
    epochs: tuple[int, int]
    rows: tuple[dict[str, float], dict[str, float]]
    """Their metrics then."""

    @property
    def is_whole(self) -> bool:
        """Whether the two trained equally long, so that nothing of either is left out."""
        return self.lengths[0] == self.lengths[1]


def at_equal_epochs(results: Results, trial: int, other: int, *, whole: bool = False) -> Fair:
    """Return at which epochs two trials are compared.

    whole: at the chosen epoch of each, however long they trained.
    Raises `RunError` where one has measured nothing by then.
    """
    selection = Selection(results.metric, results.mode)
    frames = [results.metrics_of(number) for number in (trial, other)]
    lengths = [int(frame["epoch"].max()) for frame in frames]
    within = min(lengths)
    rows = []
    for number, frame in zip((trial, other), frames, strict=True):
        row = selection.chosen_of(frame if whole else frame[frame["epoch"] <= within])
        if row is None:
            raise RunError(f"trial {number} has no {results.metric} within {within} epochs")
        rows.append(row)
    first, second = rows
    epochs = int(first["epoch"]), int(second["epoch"])
    return Fair(within, (lengths[0], lengths[1]), epochs, (first, second))


@dataclass(frozen=True)
class RowTest:
    """A paired comparison over rows: gain is positive where the first trial is better.

    rows: their number, of all_rows in the split; gain: mean difference; error: its standard error
    over rows; p: of McNemar's exact test (accuracy) or of a paired t test; won, lost: rows that
    only the first, or only the second, predicts rightly (accuracy); group_error: the standard error
    of the same mean over the groups of the level (NaN without groups).
    """

    measure: str
    rows: int
    all_rows: int
    gain: float
    error: float
    p: float
    won: int
    lost: int
    group_error: float


def rows_of_pair(
    results: Results,
    fair: Fair,
    trials: tuple[int, int],
    split: str,
    level: str | None,
    measure: str,
) -> tuple[pd.DataFrame, int]:
    """Return the rows that both trials predicted, and how many the split has.

    Columns gid (of the level, −1 without one), gain, row (its place in the split), y, and of each
    trial prediction and log_prob, with _1 and _2 behind them. Raises `RunError` where that is not
    known: a trial keeps no predictions of the epoch compared, or they are of other rows.
    """
    if measure not in BY_ROW:
        raise RunError(f"{measure} is no mean over rows")
    tables = []
    for number, epoch in zip(trials, fair.epochs, strict=True):
        found = _of_epoch(results, number, epoch)
        tables.append(found.table[found.table["split"] == split].set_index("row"))
        all_rows = found.all_rows.get(split, 0)
    first, second = tables
    hashes = {str(results.row(number).get(DATA_HASH)) for number in trials}
    shared = first.index.intersection(second.index)
    first, second = first.loc[shared], second.loc[shared]
    if len(hashes) > 1 or not len(shared) or not np.array_equal(first["y"], second["y"]):
        raise RunError(f"trials {trials[0]} and {trials[1]} did not predict the same {split} rows")
    gid = pd.Series(-1, first.index)
    if level is not None:
        gid = first[level_columns([level])[0]]
    gain = _gain_of_rows(first, measure) - _gain_of_rows(second, measure)
    rows = pd.DataFrame({"gid": gid.to_numpy(), "gain": gain, "row": shared.to_numpy()})
    rows["y"] = first["y"].to_numpy()
    for place, table in ((1, first), (2, second)):
        for name in ("prediction", "log_prob"):
            rows[f"{name}_{place}"] = table[name].to_numpy()
    return rows, all_rows


def _of_epoch(results: Results, trial: int, epoch: int) -> Predictions:
    folder = results.row(trial)["folder"]
    found = None if pd.isna(folder) else read_predictions(Path(folder))
    if found is None:
        raise RunError(f"trial {trial} keeps no rows (it ran before there were any, or without)")
    if found.epoch != epoch:
        raise RunError(f"trial {trial} keeps its rows of epoch {found.epoch}, not of {epoch}")
    return found


def _gain_of_rows(table: pd.DataFrame, measure: str) -> Floats:
    """Return each row's measure, turned so that more is better."""
    if measure == "loss":
        return table["log_prob"].to_numpy(np.float64)
    if measure == "acc":
        return np.asarray(table["y"] == table["prediction"], dtype=np.float64)
    return -np.square(np.asarray(table["y"] - table["prediction"], dtype=np.float64))


def row_test(rows: pd.DataFrame, all_rows: int, measure: str) -> RowTest:
    """Return the paired test over rows (see `rows_of_pair`), and its error over groups."""
    gain = rows["gain"].to_numpy(np.float64)
    won, lost = int((gain > 0).sum()), int((gain < 0).sum())
    mean, number = float(gain.mean()), len(gain)
    error = float(gain.std(ddof=1) / np.sqrt(number)) if number > 1 else float("nan")
    p = float(_mcnemar(np.array([won]), np.array([lost]))[0])
    if measure != "acc":
        p = float(_t_test(np.array([mean]), np.array([error]), np.array([1.0 * number]))[0])
    return RowTest(
        *(measure, number, all_rows, mean, error, p, won, lost),
        group_error=over_groups(gain, rows["gid"].to_numpy()),
    )


def over_groups(gain: Floats, gid: NDArray[np.integer]) -> float:
    """Return the standard error of a mean over rows whose groups, not rows, are independent."""
    found, place = np.unique(gid, return_inverse=True)
    if len(found) < 2:
        return float("nan")
    sums = np.bincount(place, weights=gain - gain.mean())
    scale = len(found) / (len(found) - 1)
    return float(np.sqrt(scale * np.square(sums).sum()) / len(gain))


def of_groups(rows: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Return each group's own error: columns gid, error (standard error of its mean gain) and p.

    In nats the rows of a group are taken to spread at least as those of all groups do around their
    group's mean: a few rows seldom hold the rare large losses, without which any model that is a
    little surer seems to gain for certain.
    """
    found, place = np.unique(rows["gid"].to_numpy(), return_inverse=True)
    gain = rows["gain"].to_numpy(np.float64)
    n = np.bincount(place).astype(np.float64)
    mean = np.bincount(place, weights=gain) / n
    square = np.bincount(place, weights=np.square(gain - mean[place]))
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.sqrt(square / (n - 1) / n)
        if measure == "loss":
            error = np.fmax(error, np.sqrt(square.sum() / (n.sum() - len(n)) / n))
    if measure == "acc":
        counts = (np.bincount(place[sign], minlength=len(found)) for sign in (gain > 0, gain < 0))
        p = _mcnemar(*counts)
    else:
        p = _t_test(mean, error, n)
    return pd.DataFrame({"gid": found, "error": error, "p": p})


def _mcnemar(won: NDArray[np.int64], lost: NDArray[np.int64]) -> Floats:
    """Return the two-sided p of McNemar's exact test; 1 where the two never differ.

    Source: McNemar (1947), with the binomial law in place of its approximation.
    """
    p = 2 * stats.binom.cdf(np.minimum(won, lost), won + lost, 0.5)
    return np.minimum(1.0, np.asarray(p, dtype=np.float64))


def _t_test(mean: Floats, error: Floats, n: Floats) -> Floats:
    """Return the two-sided p of a paired t test; NaN where there is one row only."""
    with np.errstate(invalid="ignore", divide="ignore"):
        t = np.where(mean == 0, 0.0, np.abs(mean) / error)
    degrees = np.asarray(n, dtype=np.float64) - 1
    p = 2 * stats.t.sf(t, np.maximum(degrees, 1))
    return np.where(degrees > 0, p, np.nan).astype(np.float64)
