"""What a search space may choose from, and how an Optuna study keeps it.

A study is a JSON file: it brings tuples back as lists, refuses numpy's numbers and enums, and its
samplers expect choices that can be compared and hashed. So a choice that is not plain (None, a
truth value, a number, text) is kept as text, and given to the space as what it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

import numpy as np

from hlvnn.errors import ConfigError

PLAIN = (type(None), bool, int, float, str)
"""Kinds of choices that a study keeps as they are."""


def plain(value: Any) -> Any:
    """Return a value as JSON has it, as far as it can be: numpy's as Python's, an enum's value.

    >>> plain((np.int64(8), np.bool_(True), "a"))
    [8, True, 'a']
    """
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, np.generic | np.ndarray):
        return plain(value.tolist())
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def kept(choice: Any) -> Any:
    """Return what a study keeps of a choice: the same in every process.

    Raises `ConfigError` for an object of which nothing lasting can be said.

    >>> kept((16, 8)), kept(np.float64(0.5)), kept(None)
    ('[16, 8]', 0.5, None)
    """
    value = plain(choice)
    if type(value) in PLAIN:
        return value
    if not isinstance(value, list | dict):
        return _told(value)
    return json.dumps(value, default=_told, ensure_ascii=False)


def meant(value: Any) -> Any:
    """Return what a kept choice was, as it is to be shown: a list again where it was one.

    >>> meant('[16, 8]'), meant("film"), meant(0.5)
    ([16, 8], 'film', 0.5)
    """
    if not isinstance(value, str) or value[:1] not in "[{":
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def _told(value: object) -> str:
    text = repr(value)
    if " at 0x" in text:
        raise ConfigError(
            f"{text} cannot be a choice: nothing lasting tells it from others; choose among names, "
            "and look the objects up by them"
        )
    return text


class ChoosingTrial:
    """An Optuna trial, as a search space sees it: its choices may be anything.

    before: distributions by name of the trials there are already. A study begun when choices were
    not yet kept as text goes on with them as they are.
    """

    def __init__(self, trial: Any, before: Mapping[str, Any]) -> None:
        self._trial = trial
        self._before = before
        self._chosen: dict[str, Any] = {}

    def suggest_categorical(self, name: str, choices: Iterable[Any]) -> Any:
        """Return one of the choices, itself."""
        choices = list(choices)
        names = [kept(choice) for choice in choices]
        if all(type(choice) in PLAIN for choice in choices):
            return self._trial.suggest_categorical(name, choices)
        for number, one in enumerate(names):
            if any(_is_same(one, other) for other in names[:number]):
                raise ConfigError(f"the choices of {name!r} hold {one} twice")
        if name in self._before and _as_listed(self._before[name]) == plain(choices):
            names = plain(choices)
        chosen = self._trial.suggest_categorical(name, names)
        (found,) = (c for c, one in zip(choices, names, strict=True) if _is_same(one, chosen))
        self._chosen[name] = found
        return found

    @property
    def params(self) -> dict[str, Any]:
        """What was drawn so far, by name."""
        return {**self._trial.params, **self._chosen}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trial, name)


def _is_same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other)


def _as_listed(distribution: Any) -> Any:
    return plain(list(getattr(distribution, "choices", ())))
