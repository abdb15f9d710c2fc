"""Settings that earlier versions had: why each is gone, and what to do instead.

Files that hold one are read as before, and what it was is shown; a new configuration with one is
refused with the reason.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hlvnn.errors import ConfigError
from hlvnn.words import Settings, is_missing, shown

logger = logging.getLogger("hlvnn")

STEPS = "the steps in groups' own units"
"""The change that took settings away."""


@dataclass(frozen=True)
class Gone:
    """A setting that there was.

    usual: its default, which says nothing; since: the change that took it away; reason: why there
    is nothing to set, and what to do instead.
    """

    usual: Any
    since: str
    reason: str


GONE: dict[str, Gone] = {
    "latent_lr": Gone(
        None,
        STEPS,
        "a posterior moves in units of its own covariance, so that there is nothing to set; points "
        "(posterior point) have --embedding-lr",
    ),
    "prior_updates": Gone(
        "gradient",
        STEPS,
        "learned priors move by EM steps of their own, so that there is nothing to set",
    ),
}
"""Every setting that is gone, by its flat name."""
SAID: set[tuple[Path, tuple[str, ...]]] = set()
"""Of which folders of runs it was told in this process that they hold which of them."""


def refusal(name: str) -> str:
    """Return the sentence for a new configuration that has a setting which is gone."""
    one = GONE[name]
    return f"setting {name!r} is gone since {one.since}: {one.reason}; leave it out"


def refuse_flags(args: Iterable[str]) -> None:
    """Raise `ConfigError` where a command line has the flag of a setting that is gone."""
    for arg in args:
        name = arg.partition("=")[0].removeprefix("--").replace("-", "_")
        if arg.startswith("--") and name in GONE:
            raise ConfigError(f"{arg.partition('=')[0]}: {refusal(name)}")


def without_gone(settings: Settings) -> Settings:
    """Return settings as they can be had today."""
    return {name: value for name, value in settings.items() if name not in GONE}


def values_set(settings: Settings) -> Settings:
    """Return those settings that are gone and said something: no default, none that is missing."""
    return {
        name: settings[name]
        for name, one in GONE.items()
        if name in settings and not is_missing(settings[name]) and settings[name] != one.usual
    }


def to_show(settings: Settings) -> Settings:
    """Return settings as tables show them: of those that are gone, the ones that said something."""
    return without_gone(settings) | values_set(settings)


def tell(folder: Path, what: str, values: Settings) -> None:
    """Say that settings were set which are gone: once, of a folder of runs, in a process.

    what: which run or trials; values: as of `values_set`.
    """
    names = tuple(values)
    if not values or (folder, names) in SAID:
        return
    SAID.add((folder, names))
    logger.warning(
        "%s had %s (%s); what was trained with it is read as it is", what, shown(values), why(names)
    )


def why(names: Iterable[str]) -> str:
    """Return why settings are gone that a file holds."""
    return "; ".join(
        f"{name} is gone since {GONE[name].since}: {GONE[name].reason}" for name in names
    )
