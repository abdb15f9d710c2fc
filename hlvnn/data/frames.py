"""Dataframe columns to arrays: feature coding, group labels, counts.

Numeric feature columns enter as they are. Every other column is treatment-coded: one 0/1 column per
category but the first (in sorted order, or the order of a pandas categorical), as R and lme4 do.
Text that cannot be categories is refused (`text.doubt`).
"""

from __future__ import annotations

import decimal
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
from pandas.api import types

from hlvnn import errors
from hlvnn.data import text, validation
from hlvnn.errors import DataError

Labels: TypeAlias = tuple[str | int | bool, ...]


@dataclass(frozen=True)
class Measure:
    """A numeric column that is kept as value − offset; of dates the value is days since 1970."""

    date: bool = False
    offset: float = 0.0


Coding: TypeAlias = dict[str, Literal["number"] | Labels | Measure]
"""Per feature column: "number", or a `Measure`, or its categories, of which the first is the
reference."""
UNNAMED = re.compile(r"(Unnamed: \d+|__index_level_\d+__)?")
"""What pandas calls the column of an index without a name, in a CSV and in a Parquet file."""
DAY = np.timedelta64(1, "D")
WHOLE = re.compile(r"(0|-?[1-9]\d*)(\.0+)?")
"""A whole number in a text file; with leading zeros it is a text."""
LOST = 1e-4
"""Rounding to 32 bits, as a share of a column's SD, from which on it is kept from its mean."""
EXACT = 2.0**53
"""Where floats no longer tell one whole number from the next."""


def column(frame: pd.DataFrame, name: str, where: str) -> pd.Series[Any]:
    """Return a column without missing values; raise `DataError` naming the column and the row."""
    if name not in frame.columns:
        raise DataError(f"{where}: {errors.unknown('column', name, map(str, frame.columns))}")
    values = frame[name]
    if isinstance(values, pd.DataFrame):
        raise DataError(
            f"{where}: {values.shape[1]} columns are called {name!r}; rename all but one"
        )
    missing = values.isna().to_numpy()
    if missing.any():
        raise DataError(
            f"{where}: column {name!r} has no value in row {int(missing.argmax())} (rows count "
            f"from 0; {int(missing.sum())} of {len(values)} are missing); fill them in or drop "
            "the rows"
        )
    if values.dtype == object:
        values = values.infer_objects()
        if values.map(lambda value: isinstance(value, decimal.Decimal)).all():
            values = values.astype(np.float64)
    return values


def check_columns(frame: pd.DataFrame, names: Sequence[str], where: str) -> None:
    """Raise `DataError` for columns that are not there, else for all with missing values."""
    known = list(map(str, frame.columns))
    strangers = [
        DataError(f"{where}: {errors.unknown('column', name, known)}")
        for name in names
        if name not in frame.columns
    ]
    try:
        if strangers:
            raise errors.Problems.of(strangers)
        errors.all_of(*(partial(column, frame, name, where) for name in names))
    except errors.Problems as error:
        raise DataError(str(error)) from error


def is_number(values: pd.Series[Any]) -> bool:
    """Say whether a column holds numbers (truth values are categories)."""
    return types.is_numeric_dtype(values.dtype) and not types.is_bool_dtype(values.dtype)


def numbers(values: pd.Series[Any], where: str) -> np.ndarray:
    """Return a numeric column as [N] float64; raise `DataError` for infinity."""
    array = values.to_numpy(dtype=np.float64, copy=True)  # the frame stays the user's
    bad = ~np.isfinite(array)
    if bad.any():
        row = int(bad.argmax())
        raise DataError(
            f"{where}: column {values.name!r}, row {row} (rows count from 0) is {array[row]}, "
            "expected a finite number; mend the value or drop the row"
        )
    return array


def categories_of(values: pd.Series[Any], where: str) -> Labels:
    """Return the categories that occur, sorted, or in the order of a pandas categorical."""
    if types.is_datetime64_any_dtype(values.dtype) or types.is_timedelta64_dtype(values.dtype):
        raise DataError(
            f"{where}: column {values.name!r} holds times; turn them into a number "
            "(days since …) first"
        )
    if isinstance(values.dtype, pd.CategoricalDtype):
        present = values.cat.remove_unused_categories().cat.categories
        return tuple(_plain(label) for label in present)
    plain = {_plain(label) for label in values.unique()}
    kinds = {type(label) for label in plain}
    return tuple(sorted(plain, key=str if len(kinds) > 1 else None))


def coding_of(
    frame: pd.DataFrame,
    features: Sequence[str],
    where: str,
    categories: Collection[str] = (),
    dates: Collection[str] = (),
) -> Coding:
    """Decide how each feature column enters.

    categories, dates: columns taken as such. Raises `DataError` for text that cannot be categories,
    for dates and for an index without a name.
    """
    for flag, names in (("categories", categories), ("dates", dates)):
        for name in names:
            if name not in features:
                raise DataError(f"{where}: {errors.unknown(f'feature in {flag}', name, features)}")
    coding: Coding = {}
    for name in features:
        values = column(frame, name, where)
        if UNNAMED.fullmatch(str(name)):
            raise DataError(
                f"{where}: column {name!r} has no name: it is the index that pandas wrote, which "
                "counts the rows; write the file with to_csv(…, index=False), or leave the column "
                "out (name the others in --features)"
            )
        if name in dates:
            coding[name] = Measure(date=True, offset=_offset(days(values, where)))
        elif name in categories:
            coding[name] = categories_of(values, where)
        elif is_number(values):
            offset = _offset(numbers(values, where))
            coding[name] = Measure(offset=offset) if offset else "number"
        else:
            check_text(values, where)
            coding[name] = categories_of(values, where)
    return coding


def _offset(array: np.ndarray) -> float:
    """Return the mean of a column that 32-bit floats would damage, 0 for all others."""
    with np.errstate(over="ignore", invalid="ignore"):
        lost = np.abs(array.astype(np.float32) - array).max()
        return float(array.mean()) if LOST * array.std() < lost < np.inf else 0.0


def offsets(coding: Coding) -> list[float]:
    """Return what is taken from each of the design's columns."""
    found: list[float] = []
    for kind in coding.values():
        if isinstance(kind, str | Measure):
            found.append(kind.offset if isinstance(kind, Measure) else 0.0)
        else:
            found.extend([0.0] * (len(kind) - 1))
    return found


def check_text(values: pd.Series[Any], where: str) -> None:
    """Raise `DataError` for a column of text that cannot be categories."""
    if types.is_object_dtype(values.dtype) or types.is_string_dtype(values.dtype):
        reason = text.doubt(values)
        if reason is not None:
            raise DataError(f"{where}: column {values.name!r} {reason}")


def doubts(frame: pd.DataFrame, coding: Coding) -> list[str]:
    """Return a sentence for each feature that is coded as it looks, and may be something else."""
    found = []
    for name, kind in coding.items():
        if kind == "number" and len(frame) > text.MANY:
            steps = np.diff(frame[name].to_numpy(dtype=np.float64))
            if (steps == 1).all():
                found.append(
                    f"column {name!r} counts the rows, one by one; if it is an index, leave it out"
                )
        elif not isinstance(kind, str | Measure) and len(kind) > 2 * text.MANY:
            found.append(f"column {name!r} has {len(kind)} categories, and becomes as many columns")
    return found


def column_names(coding: Coding) -> tuple[str, ...]:
    """Return the names of the design's columns: the column itself, or `column[category]`."""
    names: list[str] = []
    for name, kind in coding.items():
        if isinstance(kind, str | Measure):
            names.append(name)
        else:
            names.extend(f"{name}[{category}]" for category in kind[1:])
    return tuple(names)


def design(frame: pd.DataFrame, coding: Coding, where: str) -> np.ndarray:
    """Return the coded features: x: [N, D] float32.

    Raises `DataError` for a missing column or value, text where numbers were, an infinity, a number
    too large for float32, or a category that the coding does not know.
    """
    x = np.empty((len(frame), len(column_names(coding))), np.float32)
    at = 0
    for name, kind in coding.items():
        values = column(frame, name, where)
        if isinstance(kind, str | Measure):
            array = _measured(values, kind, where)
            large = np.abs(array) > np.finfo(np.float32).max
            if large.any():
                row = int(large.argmax())
                raise DataError(
                    f"{where}: column {name!r}, row {row} is {array[row]}, beyond 32-bit floats; "
                    "choose a larger unit"
                )
            x[:, at] = array
            at += 1
        else:
            codes = codes_of(values, kind, where)
            for k in range(1, len(kind)):
                x[:, at] = codes == k
                at += 1
    return x


def _measured(values: pd.Series[Any], kind: str | Measure, where: str) -> np.ndarray:
    """Return a column of numbers or dates as [N] float64, less its offset."""
    if isinstance(kind, Measure) and kind.date:
        return days(values, where) - kind.offset
    if not is_number(values):
        raise DataError(
            f"{where}: column {values.name!r} held numbers in training and holds {values.dtype} "
            "now; convert it with pandas.to_numeric"
        )
    return numbers(values, where) - (kind.offset if isinstance(kind, Measure) else 0.0)


def days(values: pd.Series[Any], where: str) -> np.ndarray:
    """Return dates (text such as 2024-01-31, or pandas') as days since 1970: [N] float64."""
    try:
        times = pd.to_datetime(values, utc=True).dt.tz_localize(None).to_numpy("datetime64[us]")
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(
            f"{where}: column {values.name!r} cannot be read as dates ({error}); write them as "
            "2024-01-31, or leave the column out"
        ) from error
    return np.asarray((times - np.datetime64(0, "us")) / DAY)


def codes_of(values: pd.Series[Any], categories: Labels, where: str) -> np.ndarray:
    """Return each value's place among the categories: [N] int64."""
    plain = values.astype(object).map(_plain)
    codes = pd.Index(list(categories), dtype=object).get_indexer(pd.Index(plain, dtype=object))
    unknown = codes < 0
    if unknown.any():
        row = int(unknown.argmax())
        value = plain.iloc[row]
        near = errors.unknown("category", str(value), map(str, categories))
        raise DataError(f"{where}: column {values.name!r}, row {row} (rows count from 0): {near}")
    return np.asarray(codes)


def group_labels(values: pd.Series[Any], where: str) -> pd.Index[Any]:
    """Return a group column's labels: whole numbers as int64 (or int), everything else as str.

    Numbers are their value, however they are stored (338.0 is 338); text stays text ("007").
    Raises `DataError` for numbers with a fraction, which are measurements and not labels, for
    floats too large to tell labels apart, and for a mixture of numbers and text.
    """
    if isinstance(values.dtype, pd.CategoricalDtype):
        values = values.astype(object).infer_objects()
    if not is_number(values):
        kinds = {types.is_number(value) for value in values} if values.dtype == object else {False}
        if len(kinds) > 1:
            is_text = [isinstance(value, str) for value in values]
            number, word = values.iloc[is_text.index(False)], values.iloc[is_text.index(True)]
            raise DataError(
                f"{where}: group column {values.name!r} holds numbers and text, such as {number!r} "
                f"and {word!r}, which could name the same group; convert it with .astype(str)"
            )
        return pd.Index(values.astype(object).map(str), dtype=object)
    if types.is_integer_dtype(values.dtype):
        array = values.to_numpy()
        if array.dtype.kind == "u" and len(array) and int(array.max()) > np.iinfo(np.int64).max:
            return pd.Index([int(value) for value in array], dtype=object)
        return pd.Index(values.to_numpy(dtype=np.int64))
    array = numbers(values, where)
    for bad, expected in (
        (array != np.floor(array), "a label (text or a whole number); choose another column or "),
        (np.abs(array) >= EXACT, "a label below 2^53, where floats tell all apart; "),
    ):
        if bad.any():
            row = int(bad.argmax())
            hint = "round it" if "choose" in expected else "read the column as text or as integers"
            raise DataError(
                f"{where}: group column {values.name!r}, row {row} (rows count from 0) is "
                f"{array[row]}, expected {expected}{hint}"
            )
    return pd.Index(array.astype(np.int64))


def labels_from_text(values: pd.Series[Any]) -> pd.Series[Any]:
    """Return a group column of a text file: whole numbers where all are written so, else text.

    338 and 338.0 are the same number; 007 is a text.
    """
    present = values.dropna()
    if not len(present) or not present.str.fullmatch(WHOLE).all():
        return values
    whole = values.map(lambda value: int(value.partition(".")[0]), na_action="ignore")
    return whole if values.hasnans else whole.infer_objects()


def counts_of(frame: pd.DataFrame, successes: str, trials: str, where: str) -> np.ndarray:
    """Return y: [N, 2] float64, successes and trials; `DataError` for what is not such a count."""
    columns = []
    for name in (successes, trials):
        values = column(frame, name, where)
        if not is_number(values):
            raise DataError(
                f"{where}: column {name!r} holds {values.dtype}, expected whole numbers (successes "
                "out of trials); convert it with pandas.to_numeric"
            )
        columns.append(numbers(values, where))
    y = np.stack(columns, axis=1)
    validation.check_trials(y, where, successes, trials)
    return y


def _plain(label: Any) -> str | int | bool:
    if isinstance(label, bool | np.bool_):
        return bool(label)
    if isinstance(label, int | np.integer):
        return int(label)
    if isinstance(label, float | np.floating) and float(label).is_integer():
        return int(label)
    return str(label)
