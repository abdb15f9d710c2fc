"""Families: folders in which each file is one member, and the file's name is what a user types.

A family (placements, posteriors, priors, likelihoods, backbones, data sources) is a package. Adding
a member is adding a file; nothing else lists the members.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from hlvnn.errors import ConfigError, unknown

T = TypeVar("T")
ROOT = Path(__file__).parent


@cache
def members(family: str) -> tuple[str, ...]:
    """Return the sorted names of a family's members, from file names alone (nothing imported).

    `family` is the package below `hlvnn`, dotted: "latents.posteriors". Files that begin with an
    underscore and the family's `base.py` are not members. Raises `OSError` where the folder cannot
    be listed: a copy of this package that is damaged, or is gone, has not merely few members.
    """
    folder = ROOT.joinpath(*family.split("."))
    names = (path.stem for path in folder.iterdir() if path.suffix == ".py")
    return tuple(sorted(name for name in names if name != "base" and not name.startswith("_")))


def check_member(family: str, name: str, what: str) -> str:
    """Return `name` if it is a member of the family; raise `ConfigError` with the nearest one."""
    if name not in members(family):
        raise ConfigError(unknown(what, name, members(family)))
    return name


def member_module(family: str, name: str, what: str) -> ModuleType:
    """Import and return a member's module."""
    check_member(family, name, what)
    return importlib.import_module(f"hlvnn.{family}.{name}")


def member_class(family: str, name: str, base: type[T], what: str) -> type[T]:
    """Return the one subclass of `base` that a member's file defines.

    Raises `ConfigError` where there is not one, or it leaves out what a member has to say.
    """
    module = member_module(family, name, what)
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, base)
        and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise ConfigError(
            f"{module.__file__}: expected one subclass of {base.__name__}, found {len(found)}"
        )
    unsaid = _unsaid(found[0])
    if unsaid:
        raise ConfigError(
            f"{module.__file__}: {found[0].__name__} does not say {', '.join(unsaid)}; every "
            f"{what} has to (see {base.__module__.replace('.', '/')}.py)"
        )
    return found[0]


def _unsaid(member: type) -> list[str]:
    """Return what a member's bases declare without a value, and it does not give."""
    declared = {
        name
        for cls in member.__mro__
        for name, kind in inspect.get_annotations(cls).items()
        if str(kind).startswith("ClassVar") and cls.__module__.startswith(f"{__package__}.")
    }
    abstract: frozenset[str] = getattr(member, "__abstractmethods__", frozenset())
    return sorted({name for name in declared if not hasattr(member, name)} | abstract)


def members_with(family: str, base: type[T], wanted: Callable[[type[T]], bool]) -> tuple[str, ...]:
    """Return the sorted names of the members whose class is as wanted; it imports them all."""
    return tuple(
        name for name in members(family) if wanted(member_class(family, name, base, family))
    )
