"""Dataframe columns to arrays: feature coding, group labels, targets.

Numeric feature columns enter as they are. Every other column is treatment-coded: one 0/1 column per
category but the first (in sorted order, or the order of a pandas categorical), as R and lme4 do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
from pandas.api import types

from hlvnn import errors
from hlvnn.data import validation
from hlvnn.errors import DataError

Labels: TypeAlias = tuple[str | int | bool, ...]
Coding: TypeAlias = dict[str, Literal["number"] | Labels]
"""Per feature column: "number", or its categories, of which the first is the reference."""


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
    return values


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


def coding_of(frame: pd.DataFrame, features: Sequence[str], where: str) -> Coding:
    """Decide how each feature column enters."""
    coding: Coding = {}
    for name in features:
        values = column(frame, name, where)
        coding[name] = "number" if is_number(values) else categories_of(values, where)
    return coding


def column_names(coding: Coding) -> tuple[str, ...]:
    """Return the names of the design's columns: the column itself, or `column[category]`."""
    names: list[str] = []
    for name, categories in coding.items():
        if categories == "number":
            names.append(name)
        else:
            names.extend(f"{name}[{category}]" for category in categories[1:])
    return tuple(names)


def design(frame: pd.DataFrame, coding: Coding, where: str) -> np.ndarray:
    """Return the coded features: x: [N, D] float32.

    Raises `DataError` for a missing column or value, text where numbers were, an infinity, a number
    too large for float32, or a category that the coding does not know.
    """
    x = np.empty((len(frame), len(column_names(coding))), np.float32)
    at = 0
    for name, categories in coding.items():
        values = column(frame, name, where)
        if categories == "number":
            if not is_number(values):
                raise DataError(
                    f"{where}: column {name!r} held numbers in training and holds {values.dtype} "
                    "now; convert it with pandas.to_numeric"
                )
            array = numbers(values, where)
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
            codes = codes_of(values, categories, where)
            for k in range(1, len(categories)):
                x[:, at] = codes == k
                at += 1
    return x


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
    """Return a group column's labels: int64 for whole numbers, str for everything else.

    Raises `DataError` for numbers with a fraction, which are measurements and not labels.
    """
    if not is_number(values):
        return pd.Index(values.astype(object).map(str), dtype=object)
    if types.is_integer_dtype(values.dtype):
        return pd.Index(values.to_numpy(dtype=np.int64))
    array = numbers(values, where)
    fraction = array != np.floor(array)
    if fraction.any():
        row = int(fraction.argmax())
        raise DataError(
            f"{where}: group column {values.name!r}, row {row} (rows count from 0) is "
            f"{array[row]}, expected a label (text or a whole number); choose another "
            "column or round it"
        )
    return pd.Index(array.astype(np.int64))


def target_of(values: pd.Series[Any], where: str) -> tuple[np.ndarray, Labels | None]:
    """Return y: [N] float64 and None for a numeric column, else [N] int64 and the classes."""
    if is_number(values):
        return numbers(values, where), None
    labels = categories_of(values, where)
    return codes_of(values, labels, where), labels


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
    return str(label)
