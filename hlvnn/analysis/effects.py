"""What each value of a setting gains for each group, shrunk over groups by a two-level model.

Trials are compared at equal epochs: each at its chosen epoch among the first so many, a value's
trials by their mean over trials, group by group. The validation and the test rows of a group are
two measurements of it by different rows: what they have in common is the group's, the rest is the
chance of its rows; what trainings of one value differ by within a group is told from both.
"""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from hlvnn.analysis.confounding import confounded
from hlvnn.analysis.measured_groups import Measured, between_trials, of_trainings, read_measured
from hlvnn.analysis.opened import place_of
from hlvnn.columns import DATA_HASH, MEASURES, PARAMETER
from hlvnn.errors import RunError, unknown
from hlvnn.inference.two_level import TwoLevel, two_level
from hlvnn.selection import Selection
from hlvnn.words import number, text

if TYPE_CHECKING:
    from hlvnn.analysis.results import Results

Floats = NDArray[np.float64]
MOST_VALUES = 6
"""Different numbers of a setting from which on they are put into thirds."""
POOLED = "pooled"
"""Reference: all models without latents, the sweep's own pooled references among them."""


@dataclass(frozen=True, repr=False)
class Effects:
    """What was found.

    settings: a row per value of the setting. Columns value, trials, gain (mean over groups of the
        true gain over `reference`, on test rows where there are such; positive is better), error
        (standard error, over groups and over trials), low, high (95 %), sd (of the groups' true
        gains), sd_low, sd_high (0 where they cannot be told from none).
    groups: a row per value and group. Columns value, gid, label, n (rows scored), raw (the gain as
        measured), gain (shrunk to the mean), low, high (95 %).
    said: what is compared, and what cannot be told apart, in sentences.
    """

    setting: str
    measure: str
    reference: str
    epochs: int
    settings: pd.DataFrame
    groups: pd.DataFrame
    said: tuple[str, ...]

    def __repr__(self) -> str:
        return "\n".join([*self.said, "", self.settings.to_string(index=False)])

    def _repr_html_(self) -> str:
        """Return what a notebook shows: what is compared, and the settings."""
        told = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in self.said)
        return told + str(self.settings.to_html(index=False, border=0))


def effects(
    results: Results,
    setting: str,
    *,
    epochs: int | None = None,
    reference: object = None,
    level: str | None = None,
    measure: str | None = None,
) -> Effects:
    """Return what the values of a setting gain for each group (see `Effects`).

    setting: of the run (`latent_config`, `lr`), `structure`, or a parameter that was drawn; numbers
    of more than six values are put into thirds. epochs: trials are compared within so many; None =
    as many as all have trained, so that none is left out: a scheduler keeps the good ones alone,
    and of those that trained longer values cannot be compared fairly. reference: the value that the
    others gain over, or "pooled" (all models without latents); None = pooled for a setting of the
    structure, else the value with most trials. level: None = the lowest. measure: None = acc, or
    mse. Raises `RunError` where there is nothing to compare.
    """
    values, notes = _values(results, setting)
    groups = results.groups
    level, measure = level or groups.lowest_level, measure or groups.main_measure
    if measure not in groups.measures:
        raise RunError(f"effects: {unknown('measure', measure, groups.measures)}")
    cells = {str(value): sorted(map(int, part.index)) for value, part in values.groupby(values)}
    base, name = _reference(results, setting, cells, reference)
    cells = {value: [t for t in trials if t not in base] for value, trials in cells.items()}
    cells = {value: trials for value, trials in cells.items() if trials}
    within, chosen, left_out = _at_equal_epochs(
        results, [*dict.fromkeys([*base, *(t for cell in cells.values() for t in cell)])], epochs
    )
    notes += left_out
    base = [trial for trial in base if trial in chosen]
    cells = {value: [t for t in cell if t in chosen] for value, cell in cells.items()}
    gone = [value for value, cell in cells.items() if not cell]
    if gone:
        notes.append(f"no trial is left of {setting} = {', '.join(gone)}")
    cells = {value: cell for value, cell in cells.items() if cell}
    if not base or not cells:
        raise RunError(
            f"effects: of {setting} nothing can be compared within {within} epochs: there are "
            f"{len(base)} trials of {name}, and of others {sum(map(len, cells.values()))}"
        )
    measured = read_measured(groups, chosen, level, measure)
    found = _fit(measured, base, cells, notes)
    known = groups.of_groups.of(base[0])
    known = known[known["level"] == level].set_index("gid")
    frame = found[1]
    frame.insert(2, "label", frame["gid"].map(known["label"]))
    said = [
        _compared(setting, measure, measured, name, base, cells, within),
        *notes,
        *confounded(results, setting, values),
    ]
    return Effects(setting, measure, name, within, found[0], frame, tuple(said))


def _values(results: Results, setting: str) -> tuple[pd.Series[Any], list[str]]:
    """Return the setting's value in words of each trial that has a place, by number; and notes."""
    table = results.table[results.table["trial"].isin(results.placed["trial"])]
    table = table[table["folder"].notna()]
    column = setting if setting in table else f"{PARAMETER}{setting}"
    is_setting = column in ("structure", "pooled") or (
        column in table and place_of(column, False)[0] in ("settings", "trials")
    )
    if column not in table or not is_setting:
        known = [str(one) for one in results.settings if results.settings[one].nunique() > 1]
        known += [str(one).removeprefix(PARAMETER) for one in table if PARAMETER in str(one)]
        raise RunError(f"effects: {unknown('setting', setting, {*known, 'structure'})}")
    values = table.set_index("trial")[column]
    notes = []
    numbers = pd.to_numeric(values, errors="coerce")
    if numbers.notna().any() and numbers.nunique() > MOST_VALUES:
        values = _thirds(numbers)
        notes.append(f"the values of {setting} are put into thirds of the trials")
    lacking = values.isna()
    if lacking.any():
        notes.append(f"{int(lacking.sum())} trials have no {setting} and are left out")
    return values[~lacking].map(text), notes


def _thirds(values: pd.Series[Any]) -> pd.Series[Any]:
    known = values.dropna()
    edges = np.quantile(known, [1 / 3, 2 / 3])
    place = np.searchsorted(np.unique(edges), known)
    said = {}
    for one in np.unique(place):
        part = known[place == one]
        said[one] = f"{number(float(part.min()))} to {number(float(part.max()))}"
    return pd.Series([said[one] for one in place], known.index).reindex(values.index)


def _reference(
    results: Results, setting: str, cells: dict[str, list[int]], reference: object
) -> tuple[list[int], str]:
    """Return the trials that the others gain over, and what they are called."""
    pooled = results.placed[
        results.placed["pooled"].astype(bool) & results.placed["folder"].notna()
    ]
    without = sorted(int(trial) for trial in pooled["trial"])
    own = [] if not len(results.references) else [int(one) for one in results.references["trial"]]
    of_structure = setting in ("structure", "latent_config", "latents", "pooled")
    if reference == POOLED or (reference is None and of_structure and (without or own)):
        if not (without or own):
            raise RunError("effects: no model without latents has ended, so there is no pooled one")
        trials = without or own  # trials first: references were trained for the winner alone
        return trials, "the models without latents"
    if reference is not None:
        value = text(reference)
        if value not in cells:
            raise RunError(f"effects: {unknown(f'value of {setting}', value, cells)}")
    else:
        if len(cells) < 2:
            only = next(iter(cells), "none")
            raise RunError(f"effects: all trials have {setting} = {only}: nothing can be compared")
        value = max(cells, key=lambda one: len(cells[one]))
    return cells[value], f"{setting} = {value}"


def _at_equal_epochs(
    results: Results, trials: list[int], epochs: int | None
) -> tuple[int, dict[int, int], list[str]]:
    """Return within how many epochs trials are compared, each one's chosen epoch, and notes."""
    notes: list[str] = []
    hashes = {trial: str(results.row(trial).get(DATA_HASH)) for trial in trials}
    common = max(hashes.values(), key=list(hashes.values()).count)
    others = [trial for trial, one in hashes.items() if one != common]
    if others:
        notes.append(f"{len(others)} trials were trained on other data and are left out")
    trials = [trial for trial in trials if trial not in others]
    metrics = {trial: results.metrics_of(trial) for trial in trials}
    lengths = {trial: int(frame["epoch"].max()) for trial, frame in metrics.items()}
    within = min(lengths.values()) if epochs is None else epochs
    short = [trial for trial, length in lengths.items() if length < within]
    if short:
        notes.append(
            f"{len(short)} of {len(trials)} trials ended before epoch {within} and are left out: "
            "what is left of a value are its better trials, where a scheduler stopped the others"
        )
    longer = sum(length > within for length in lengths.values())
    if longer and epochs is None:
        notes.append(
            f"{longer} of {len(trials)} trials trained longer, to epoch {max(lengths.values())}: "
            "epochs=… compares those that came so far"
        )
    selection = Selection(results.metric, results.mode)
    chosen = {}
    for trial in trials:
        if trial in short:
            continue
        row = selection.chosen_of(metrics[trial][metrics[trial]["epoch"] <= within])
        if row is not None and int(row["epoch"]) in results.groups.files_of(trial):
            chosen[trial] = int(row["epoch"])
    unread = len(trials) - len(short) - len(chosen)
    if unread:
        notes.append(f"{unread} trials have no per-group table of that epoch and are left out")
    return within, chosen, notes


def _fit(
    measured: Measured, base: list[int], cells: dict[str, list[int]], notes: list[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the tables of `Effects`; what they leave open is noted."""
    every = [measured.of(base), *(measured.of(cell) for cell in cells.values())]
    of_trial, degrees = between_trials(every)
    interaction = of_trainings(every)
    splits = list(measured.values)
    if not degrees:
        notes.append(
            "each value has one trial: the error is over groups alone, and what a setting gains "
            "and what one training of it gains by chance cannot be told apart"
        )
    if len(splits) < 2:
        notes.append(
            f"groups were scored on {splits[0]} rows alone: what is a group's own gain and what is "
            "the chance of its rows cannot be told apart, so nothing is shrunk and no SD is known"
        )
    settings, groups = [], []
    first = every[0]
    for (value, trials), own in zip(cells.items(), every[1:], strict=True):
        share = 1 / len(trials) + 1 / len(base)
        gains = {split: own[split].mean(axis=0) - first[split].mean(axis=0) for split in splits}
        excess = 0.0 if np.isnan(interaction) else interaction * share
        model = _two_level(measured, gains, excess)
        one, table = _rows(measured, gains, model, of_trial * share, degrees)
        settings.append({"value": value, "trials": len(trials), **one})
        table.insert(0, "value", value)
        groups.append(table)
    return pd.DataFrame(settings), pd.concat(groups, ignore_index=True)


def _two_level(measured: Measured, gains: dict[str, Floats], excess: float) -> TwoLevel | None:
    """Fit the model of one value's gains; None where groups are not measured twice."""
    if len(gains) < 2:
        return None
    y, weight, group, other = [], [], [], []
    for place, (split, gain) in enumerate(gains.items()):
        known = np.flatnonzero(~np.isnan(gain) & (measured.rows[split] > 0))
        y.append(gain[known])
        weight.append(measured.rows[split][known])
        group.append(known)
        other.append(np.full(len(known), float(place)))
    whole = np.concatenate(y)
    x = np.column_stack([np.ones(len(whole)), np.concatenate(other)])
    if np.ptp(whole) == 0:
        return None
    try:
        return two_level(
            *(whole, x, np.concatenate(weight), np.concatenate(group), len(measured.gids)), excess
        )
    except ValueError:
        return None


def _rows(
    measured: Measured,
    gains: dict[str, Floats],
    model: TwoLevel | None,
    of_trials: float,
    degrees: int,
) -> tuple[dict[str, float], pd.DataFrame]:
    """Return a value's row, and its table of groups."""
    rows = np.sum([measured.rows[split] for split in gains], axis=0)
    weighted = [np.nan_to_num(gains[split]) * measured.rows[split] for split in gains]
    with np.errstate(invalid="ignore", divide="ignore"):
        raw = np.sum(weighted, axis=0) / rows
    there = rows > 0
    first = next(iter(gains.values()))
    first = first[~np.isnan(first)]
    own = float("nan")
    if model is not None:
        mean, own = model.mean, model.error
        gain, spread = model.groups, np.sqrt(model.spread**2 + of_trials)
        sds = {"sd": model.sd, "sd_low": model.sd_low, "sd_high": model.sd_high}
    else:
        mean = float(first.mean())
        own = float(first.std(ddof=1) / np.sqrt(len(first))) if len(first) > 1 else own
        gain, spread = np.full(len(raw), np.nan), np.full(len(raw), np.nan)
        sds = dict.fromkeys(("sd", "sd_low", "sd_high"), float("nan"))
    error = float(np.sqrt(own**2 + of_trials))
    reach = _quantile(own**2, max(1, len(first) - 1), of_trials, degrees)
    own_spread = float((spread**2).mean()) - of_trials if model is not None else own
    wide = _quantile(own_spread, len(first), of_trials, degrees)
    table = pd.DataFrame(
        {
            "gid": measured.gids,
            "n": rows.astype(np.int64),
            "raw": raw,
            "gain": gain,
            "low": gain - wide * spread,
            "high": gain + wide * spread,
        }
    )
    low, high = mean - reach * error, mean + reach * error
    row = {"gain": mean, "error": error, "low": low, "high": high, **sds}
    return row, table[there].reset_index(drop=True)


def _quantile(first: float, of_first: int, second: float, of_second: int) -> float:
    """Return t's quantile of 95 % for a sum of two variances (Satterthwaite 1946)."""
    below = first**2 / of_first + (second**2 / of_second if of_second else 0.0)
    degrees = (first + second) ** 2 / below if below > 0 else float(of_first)
    return float(stats.t.ppf(0.975, max(1.0, degrees))) if np.isfinite(degrees) else float("nan")


def _compared(
    setting: str,
    measure: str,
    measured: Measured,
    name: str,
    base: list[int],
    cells: dict[str, list[int]],
    within: int,
) -> str:
    counted = ", ".join(f"{value} ({len(trials)})" for value, trials in cells.items())
    rows = " and ".join(measured.values)
    trials, epochs = "trial" if len(base) == 1 else "trials", "epoch" if within == 1 else "epochs"
    return (
        f"gain in {MEASURES[measure].title} of each value of {setting} over {name} "
        f"({len(base)} {trials}), positive is better: trials of {counted}, each at its chosen "
        f"epoch within {within} {epochs}, mean over trials, {rows} rows of "
        f"{len(measured.gids)} groups"
    )
