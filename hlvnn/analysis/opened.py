"""The tables that a sweep opens with: a short one to begin with, and where each column went.

`Results.table` is the whole, as `trials.parquet` has it. The others are parts of it, each column in
one of them, and have one index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
import pandas as pd

from hlvnn.columns import (
    BEST,
    BEST_EPOCH,
    FINAL,
    GROUP_MEAN,
    GROUP_WORST,
    PARAMETER,
    WORST_DECILE,
    best_of,
)
from hlvnn.config import flat_settings
from hlvnn.errors import RunError
from hlvnn.gone import GONE
from hlvnn.records.trials_table import PARETO

SETTINGS, FINALS, CHOSEN, ABOUT, TRIALS = "settings", "final", "chosen", "about", "trials"
"""The tables, by the names that `Results` gives them."""
FIRST = ("trial", "status", "reason", "structure")
"""Columns that `trials` begins with; then what was drawn."""
OVER_GROUPS = {"mean": GROUP_MEAN, WORST_DECILE: WORST_DECILE, "worst": GROUP_WORST}
"""What `trials` tells of the metric over groups, by its name in `GroupTables.spread`."""


INDEX = "sweep.trials.index"
"""Where the names of single runs stand."""


class MovedColumnError(RunError, KeyError):
    """A column was asked of `trials` that stands in another table."""

    __str__ = Exception.__str__


class _Telling:
    """What a table and its rows share: they know where the columns are which they do not have."""

    elsewhere: Mapping[str, str]
    """Column → the expression that gives it."""

    def _has(self, name: str) -> bool:
        raise NotImplementedError

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except MovedColumnError:
            raise
        except KeyError as error:
            said = str(error)
            for name in self.elsewhere:
                if not self._has(name) and repr(name) in said:
                    raise self._moved(name) from None
            raise

    def _moved(self, name: str) -> MovedColumnError:
        return MovedColumnError(
            f"trials has no column {name!r}: it is {self._place(self.elsewhere[name])}; the whole "
            "table, as trials.parquet has it, is sweep.table"
        )

    def _place(self, expression: str) -> str:
        raise NotImplementedError

    def _is_moved(self, key: object) -> bool:
        return isinstance(key, str) and key in self.elsewhere and not self._has(key)

    def __getitem__(self, key: Any) -> Any:
        with self._telling():
            return super().__getitem__(key)  # type: ignore[misc]

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and self._is_moved(name):
            raise AttributeError(str(self._moved(name)))
        return super().__getattr__(name)  # type: ignore[misc]

    def get(self, key: Any, default: Any = None) -> Any:
        """As pandas', but a column that stands elsewhere is an error and not the default."""
        if self._is_moved(key):
            raise self._moved(key)
        return super().get(key, default)  # type: ignore[misc]

    @property
    def loc(self) -> Any:
        """As pandas'."""
        return _Loc(self, super().loc)  # type: ignore[misc]


class Row(_Telling, pd.Series):  # type: ignore[misc]
    """A row of `Opened`: of a column that stands elsewhere it says where, for this row."""

    elsewhere: Mapping[str, str] = {}
    _metadata = ["_name", "elsewhere"]  # noqa: RUF012 (pandas looks for a list)

    @property
    def _constructor(self) -> Callable[..., pd.Series[Any]]:
        return pd.Series  # what is made of a row is none

    def _has(self, name: str) -> bool:
        return name in self.index

    def _place(self, expression: str) -> str:
        if expression == INDEX:
            return f"the row's own name, {self.name!r}"
        label = self.name.item() if isinstance(self.name, np.generic) else self.name
        return f"{expression}.loc[{label!r}]"


class Opened(_Telling, pd.DataFrame):  # type: ignore[misc]
    """A dataframe that knows where the columns are which it does not have, as do its rows.

    A column that stands elsewhere is never taken for one that there is not: asking for it is a
    `MovedColumnError` that says where it is. (What is made of it by other means than selecting,
    sorting and grouping may have forgotten, and raises pandas' own KeyError.)
    """

    elsewhere: Mapping[str, str] = {}
    _metadata = ["elsewhere"]  # noqa: RUF012 (pandas looks for a list)

    @property
    def _constructor(self) -> Callable[..., Opened]:
        return Opened

    @property
    def _constructor_sliced(self) -> Callable[..., pd.Series[Any]]:
        return self._sliced

    def _sliced(self, *args: Any, **kwargs: Any) -> pd.Series[Any]:
        """Return a column as pandas has it, and a row as one that tells what is elsewhere."""
        made: pd.Series[Any] = pd.Series(*args, **kwargs)
        if not made.index.is_(self.columns):
            return made
        row = Row(made)
        row.elsewhere = self.elsewhere
        return row

    def _has(self, name: str) -> bool:
        return name in self.columns

    def _place(self, expression: str) -> str:
        return f"{expression} (the same rows, the same index)"

    def sort_values(self, *args: Any, **kwargs: Any) -> Any:
        """As pandas'."""
        with self._telling():
            return super().sort_values(*args, **kwargs)

    def groupby(self, *args: Any, **kwargs: Any) -> Any:
        """As pandas'."""
        with self._telling():
            return super().groupby(*args, **kwargs)

    def set_index(self, *args: Any, **kwargs: Any) -> Any:
        """As pandas'."""
        with self._telling():
            return super().set_index(*args, **kwargs)


class _Loc:
    """`Opened.loc`: pandas' own, told where a column is that is missing."""

    def __init__(self, frame: _Telling, own: Any) -> None:
        self._frame, self._own = frame, own

    def __getitem__(self, key: Any) -> Any:
        with self._frame._telling():
            return self._own[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._own[key] = value

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)  # pandas itself asks for more

    def __call__(self, *args: Any, **kwargs: Any) -> Self:
        return type(self)(self._frame, self._own(*args, **kwargs))


def place_of(column: str, has_names: bool) -> tuple[str, str]:
    """Return in which table a column of the whole one stands, and what it is called there.

    has_names: whether the index holds the names of runs, which then are no column.
    """
    if column == BEST_EPOCH or column.startswith(PARAMETER):
        return TRIALS, column
    for prefix, table in ((FINAL, FINALS), (BEST, CHOSEN)):
        if column.startswith(prefix):
            return table, column.removeprefix(prefix)
    if column in flat_settings() or column in GONE:
        return SETTINGS, column
    if column in (*FIRST, "epochs", "seconds", PARETO):
        return TRIALS, column
    return ("index", column) if has_names and column == "name" else (ABOUT, column)


def part(whole: pd.DataFrame, table: str, index: pd.Index[Any], has_names: bool) -> pd.DataFrame:
    """Return one of the parts of the whole table: settings, final, chosen or about."""
    places = {str(name): place_of(str(name), has_names) for name in whole}
    own = {name: new for name, (where, new) in places.items() if where == table}
    return whole[list(own)].rename(columns=own).set_index(index)


def opened(
    whole: pd.DataFrame,
    over_groups: pd.DataFrame,
    metrics: list[str],
    index: pd.Index[Any],
    has_names: bool,
) -> Opened:
    """Return the table to begin with.

    over_groups: of each trial, in the order of `whole`, the columns of OVER_GROUPS. metrics: those
    of the study, the first one first.
    """
    drawn = [str(name) for name in whole if str(name).startswith(PARAMETER)]
    best = [best_of(name) for name in metrics]
    names = [*FIRST, *drawn, BEST_EPOCH, *best, "epochs", "seconds"]
    names += [PARETO] if PARETO in whole else []
    frame = Opened(whole[[name for name in names if name in whole]].set_index(index))
    after = list(frame).index(best[-1]) + 1
    for at, name in enumerate(OVER_GROUPS.values()):
        frame.insert(after + at, name, over_groups[name].to_numpy())
    elsewhere = {}
    for name in map(str, whole):
        table, new = place_of(name, has_names)
        if name not in frame:
            elsewhere[name] = INDEX if table == "index" else f"sweep.{table}[{new!r}]"
    frame.elsewhere = elsewhere
    return frame
