"""Which groups gain by latents: each group of a trial beside itself under the pooled model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from hlvnn.analysis import pairs
from hlvnn.analysis.results import Results
from hlvnn.columns import BETTER_HIGH, TEST, TWO_CLASSES, VAL, measure_of
from hlvnn.data.attributes import ROWS
from hlvnn.errors import HlvnnError, RunError

TIE = 1e-12


def gains(
    results: Results,
    *,
    trial: int | None = None,
    pooled: int | None = None,
    level: str | None = None,
    split: str | None = None,
    measure: str | None = None,
    whole: bool = False,
) -> pd.DataFrame:
    """Return a row per group: how it fares in a trial and in the pooled model, at equal epochs.

    Columns gid, label, rows (in training; NaN where that is not known), n (rows
    of the split), trial, pooled (the measure under each), gain: trial over pooled, turned so that
    more is better; error: the gain's own standard error over the group's rows (of nats at least
    what the spread of all groups' rows makes it: `pairs.of_groups`), and p: of McNemar's exact test
    (accuracy), else of a paired t test (NaN where the runs keep no predictions.parquet of these
    epochs). `attrs` holds measure, split, level; fair: the epochs compared
    (`pairs.Fair`); test: the same difference over all rows (`pairs.RowTest`), or None and why.

    Each trial is taken at its chosen epoch among those that both have trained (whole: among all of
    its own). trial, pooled: None = the best with latents, and the best of its `baselines` (pooled
    references, where the sweep trained some; else the best trial without latents).
    level: None = the lowest. split: None = test where it was scored.
    Raises `RunError` where one of the two is missing, or both are the same.
    """
    number = results.latent_trial if trial is None else trial
    base = pooled
    if base is None and number is not None:
        base = next(iter(results.baselines(number)), results.pooled_trial)
    if number is None or base is None:
        missing = "with latents" if number is None else "without latents"
        raise RunError(f"no trial {missing} has ended, so there is nothing to compare")
    if number == base:
        raise RunError(f"trial {number} would be compared with itself")
    groups = results.groups
    level = level or groups.lowest_level
    measure = measure or groups.main_measure
    fair = pairs.at_equal_epochs(results, number, base, whole=whole)
    tables = {}
    for name, one, epoch in zip(("trial", "pooled"), (number, base), fair.epochs, strict=True):
        frame = groups.read(
            ["gid", "split", "n", measure], trials=[one], epochs=[epoch], level=level, labels=True
        )
        tables[name] = frame.dropna(subset=[measure])  # a group of one class has no AUC
    split = split or (TEST if (tables["trial"]["split"] == TEST).any() else VAL)
    own, other = (frame[frame["split"] == split] for frame in tables.values())
    for one, epoch, frame in zip((number, base), fair.epochs, (own, other), strict=True):
        if not len(frame):
            raise RunError(f"the per-group table of trial {one}, epoch {epoch}, cannot be read")
    both = own[["gid", "label", "n", measure]].merge(
        other[["gid", measure]], on="gid", suffixes=("", "_pooled"), validate="1:1"
    )
    both = both.rename(columns={measure: "trial", f"{measure}_pooled": "pooled"})
    sign = 1.0 if measure in BETTER_HIGH else -1.0
    both["gain"] = sign * (both["trial"] - both["pooled"])
    both.insert(2, "rows", both["gid"].map(_training_rows(results, number, level)))
    test, why = None, ""
    both["error"], both["p"] = np.nan, np.nan
    try:
        rows, count = pairs.rows_of_pair(results, fair, (number, base), split, level, measure)
        test = pairs.row_test(rows, count, measure)
        errors = pairs.of_groups(rows, measure).set_index("gid")
        for name in ("error", "p"):
            both[name] = both["gid"].map(errors[name])
    except RunError as error:
        why = str(error)
    both.attrs = {"measure": measure, "split": split, "level": level}
    both.attrs |= {"trials": (number, base), "fair": fair, "test": test, "why": why}
    return both.sort_values("gid", ignore_index=True)


def alike(results: Results, most: int = 20) -> list[int]:
    """Return which of the best trials cannot be told from the best one on validation rows.

    Those whose metric, paired group by group with that of the best trial, is less than two standard
    errors (over groups) behind it, each at its own chosen epoch, as the ranking has them. Empty
    where the metric is no mean over rows.
    """
    best, measure = results.best_trial, measure_of(results.metric)
    if best is None or measure in TWO_CLASSES or measure not in results.groups.measures:
        return []
    found = []
    for number in results.placed["trial"].head(most):
        if number != best and not pd.isna(results.row(int(number))["folder"]):
            pair = gains(
                results, trial=best, pooled=int(number), split=VAL, measure=measure, whole=True
            )
            n, lead = pair["n"].to_numpy(np.float64), pair["gain"].to_numpy(np.float64)
            mean = (n * lead).sum() / n.sum()
            error = np.sqrt(np.square(n * (lead - mean)).sum()) / n.sum()
            if mean < 2 * error:
                found.append(int(number))
    return found


def _training_rows(results: Results, trial: int, level: str | None) -> dict[int, int]:
    known = results.groups.of_groups.of(trial)
    known = known[known["level"] == level]
    if known[ROWS].notna().any():
        return dict(zip(known["gid"], known[ROWS], strict=True))
    try:  # a run of before its groups' rows were kept
        latents = results.latents(trial)
    except HlvnnError:  # no weights any more: all else is known without them
        return {}
    own = latents[latents["level"] == level].drop_duplicates("gid")
    return dict(zip(own["gid"], own["rows"], strict=True))


@dataclass(frozen=True)
class Summary:
    """A table of gains in numbers: their mean with its standard error over groups, and counts.

    better, worse, same: groups by the sign of their gain. surely_better, surely_worse: those whose
    gain is beyond its own error (p below `pairs.SIGNIFICANT`), None where no such error is known.
    """

    mean: float
    error: float
    better: int
    worse: int
    same: int
    surely_better: int | None = None
    surely_worse: int | None = None

    @classmethod
    def of(cls, gains: pd.DataFrame) -> Summary:
        """Sum up what `gains` returned."""
        values = gains["gain"].to_numpy(np.float64)
        error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
        better, worse = int((values > TIE).sum()), int((values < -TIE).sum())
        same = len(values) - better - worse
        sure: tuple[int | None, int | None] = (None, None)
        if "p" in gains and gains["p"].notna().any():
            beyond = gains["p"].to_numpy(np.float64) < pairs.SIGNIFICANT
            sure = int((beyond & (values > TIE)).sum()), int((beyond & (values < -TIE)).sum())
        return cls(float(values.mean()), float(error), better, worse, same, *sure)
