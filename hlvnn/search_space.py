"""Search spaces: reading one from its file, drawing from it, telling whether its draws are valid.

A search space is a file of `search_spaces/` that defines

    BASE = {...}              settings that are fixed: the flags' names with underscores
    METRIC = "val_acc"        the column of metrics.csv to select on; always a validation column
    MODE = "max"              or "min"; METRIC and MODE may be lists, for several objectives
    def space(trial): ...     an Optuna define-by-run function that returns the drawn settings
    SWEEP = {...}             optional: the study's own defaults for tune_search.py's flags

Only files of that folder are run, never one that lies in a results folder.
"""

from __future__ import annotations

import ast
import hashlib
import math
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from hlvnn.choices import ChoosingTrial, plain
from hlvnn.columns import is_validation
from hlvnn.config import RunConfig, run_config
from hlvnn.errors import ConfigError, unknown
from hlvnn.gone import GONE, refusal
from hlvnn.selection import Selection
from hlvnn.words import Settings, shown

if TYPE_CHECKING:
    import optuna
    import pandas as pd

FOLDER = "search_spaces"
CHECKED_DRAWS = 64
"""Draws that are validated before a sweep starts."""


@dataclass(frozen=True)
class Drawing:
    """One draw of a space: every setting known of the run, and what was drawn for it.

    drawn: Optuna's parameters, by their own names; set_here: the settings that space(trial)
    returned, which are not fixed even where a value equals BASE's.
    """

    settings: Settings
    drawn: Settings
    set_here: tuple[str, ...]


@dataclass(frozen=True)
class Space:
    """A search space, as its file defines it."""

    name: str
    path: Path
    base: Settings
    metric: str
    mode: str
    function: Callable[[optuna.Trial], Settings]
    """`space` of the file: its choices may be anything (see `hlvnn.choices`)."""
    sweep: Settings = field(default_factory=dict)
    others: tuple[tuple[str, str], ...] = ()
    """Further objectives, each a metric and its mode; the first one is `metric`."""

    @property
    def objectives(self) -> tuple[tuple[str, str], ...]:
        """Every objective, the first one first: its metric and its mode."""
        return ((self.metric, self.mode), *self.others)

    @property
    def selection(self) -> Selection:
        """By what the epoch of each trial is chosen: the first objective."""
        return Selection(self.metric, self.mode)

    @property
    def selects(self) -> Settings:
        """The settings of a run that say the same."""
        return {"select_on": self.metric, "select_mode": self.mode}

    @property
    def sha256(self) -> str:
        """Digest of the file, for whoever compares two of them."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    @property
    def worst(self) -> float:
        """The value of the metric that loses against every other: stands in for NaN."""
        return worst(self.mode)

    @property
    def worsts(self) -> dict[str, float]:
        """`worst` of each objective, by its metric."""
        return {metric: worst(mode) for metric, mode in self.objectives}

    def values_of(self, metrics: pd.DataFrame) -> list[float]:
        """Return each objective at the chosen epoch of a run's metrics, its worst for a NaN."""
        chosen = self.selection.chosen_of(metrics) or {}
        values = {metric: chosen.get(metric, math.nan) for metric in self.worsts}
        return [
            lowest if math.isnan(values[metric]) else values[metric]
            for metric, lowest in self.worsts.items()
        ]

    def is_better(self, value: float, than: float) -> bool:
        """Whether the metric's `value` beats another."""
        return value > than if self.mode == "max" else value < than

    def drawing(
        self, trial: optuna.Trial, number: int, seed: int, fixed: Settings | None = None
    ) -> Drawing:
        """Return one draw; its settings are BASE, then `fixed`, then what `space(trial)` returned.

        A trial's seed is the sweep's plus its number, unless the space says otherwise.
        Raises `ConfigError` when `space(trial)` fails, or draws a setting that `fixed` fixes.
        """
        fixed = {**(fixed or {}), **self.selects}
        for name in self.selects.keys() & self.base.keys():
            raise ConfigError(
                f"{self.path}: BASE sets {name!r}; METRIC and MODE say by what the epochs of its "
                "trials are chosen: leave it out"
            )
        for name in GONE.keys() & self.base.keys():
            raise ConfigError(f"{self.path}: BASE sets {name!r}: {refusal(name)}")
        asked: Any = choosing(trial)
        try:
            drawn = self.function(asked)
        except Exception as error:
            where = _place(self.path, error)
            raise ConfigError(f"{where}: space(trial) failed: {_said(error)}") from error
        if not isinstance(drawn, dict) or not all(isinstance(key, str) for key in drawn):
            raise ConfigError(
                f"{self.path}: space(trial) must return a dict of settings by name, got {drawn!r}"
            )
        for key in GONE.keys() & drawn.keys():
            raise ConfigError(f"{self.path}: space(trial) draws {key!r}: {refusal(key)}")
        for key in drawn.keys() & self.selects.keys():
            raise ConfigError(
                f"{self.path}: space(trial) draws {key!r}; METRIC and MODE say by what the epochs "
                "of its trials are chosen: leave it out"
            )
        for key in drawn.keys() & fixed.keys():
            raise ConfigError(
                f"{self.path}: space(trial) draws {key!r} itself; it cannot be fixed to "
                f"{fixed[key]!r} as well: leave out --{key.replace('_', '-')}"
            )
        settings = {"seed": seed + number, **self.base, **fixed, **drawn}
        return Drawing(settings, plain(asked.params), tuple(drawn))


def worst(mode: str) -> float:
    """Return the value that loses against every other."""
    return float("-inf") if mode == "max" else float("inf")


def folder() -> Path:
    """Return the folder of search spaces: the one here, or else the one beside the package."""
    here = Path.cwd() / FOLDER
    return here if here.is_dir() else Path(__file__).resolve().parent.parent / FOLDER


def names() -> list[str]:
    """Return the names of the search spaces there are."""
    return sorted(path.stem for path in folder().glob("*.py") if not path.stem.startswith("_"))


def load(name: str) -> Space:
    """Read a search space.

    Raises `ConfigError` when there is none of that name (the nearest is offered), when its file
    does not import, or when a name is missing or of the wrong kind.
    """
    name = _study_of(name)
    if name not in names():
        raise ConfigError(unknown("search space", name, names()) + f" They are in {folder()}.")
    path = folder() / f"{name}.py"
    values = vars(_module(path))
    base = plain(_value(path, values, "BASE", dict, "a dict of settings"))
    (metric, mode), *others = _objectives(path, values)
    return Space(
        name=name,
        path=path,
        base=base,
        metric=metric,
        mode=mode,
        others=tuple(others),
        function=_function(path, values),
        sweep=_value(path, {"SWEEP": {}, **values}, "SWEEP", dict, "a dict of flags' values"),
    )


def _study_of(name: str) -> str:
    """Return the study that is meant: by name, or by its file (search_spaces/digits.py)."""
    path = Path(name)
    is_file = path.suffix == ".py" and path.resolve().parent == folder().resolve()
    return path.stem if is_file else name


def new_sampler(seed: int) -> optuna.samplers.BaseSampler:
    """Return what draws unless another searcher is asked for: TPE of conditional parameters."""
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True)


@contextmanager
def quieting_optuna() -> Iterator[None]:
    """Have Optuna tell warnings only, and then what it told before: that is its user's to say."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(before, optuna.logging.WARNING))
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def draws(
    space: Space,
    count: int,
    seed: int,
    fixed: Settings | None = None,
    sampler: optuna.samplers.BaseSampler | None = None,
) -> Iterator[Drawing]:
    """Yield `count` draws from a throwaway study (of `new_sampler`, or `sampler`).

    They are those of a sweep's first trials with that seed, until enough trials have ended for the
    sampler to learn from them.
    """
    import optuna

    with quieting_optuna():
        study = optuna.create_study(sampler=sampler or new_sampler(seed))
    for number in range(count):
        yield space.drawing(study.ask(), number, seed, fixed)


def draw(space: Space, number: int, seed: int = 0, fixed: Settings | None = None) -> RunConfig:
    """Return draw `number` (from 0) of a space as a run's configuration."""
    if number < 0:
        raise ConfigError(f"--draw must be at least 0, got {number}")
    *_, drawing = draws(space, number + 1, seed, fixed)
    return validated(space, drawing, number)


def validated(space: Space, drawing: Drawing, number: int) -> RunConfig:
    """Return one draw's configuration; raise `ConfigError` naming the draw and its parameters."""
    where = f"{space.path}: draw {number} ({shown(drawing.drawn)})"
    config = run_config(drawing.settings, where)
    if config.data.val_fraction == 0:
        raise ConfigError(f"{where}: a sweep selects on validation; val_fraction must be above 0")
    return config


def check(space: Space, seed: int = 0, fixed: Settings | None = None) -> list[RunConfig]:
    """Validate a sample of a space's draws; return their configurations."""
    found: list[RunConfig] = []
    invalid: list[ConfigError] = []
    for number, drawing in enumerate(draws(space, CHECKED_DRAWS, seed, fixed)):
        try:
            found.append(validated(space, drawing, number))
        except ConfigError as error:
            invalid.append(error)
    if invalid:
        rate = f" ({len(invalid)} of {CHECKED_DRAWS} draws are invalid)"
        raise ConfigError(f"{invalid[0]}{rate if len(invalid) > 1 else ''}") from invalid[0]
    return found


def opening(path: Path) -> str:
    """Return how a study's docstring opens: its title and its first paragraph, no commands.

    The file is parsed, never run. "" where it cannot be read, or has no docstring.
    """
    try:
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    except (OSError, SyntaxError, ValueError):
        return ""
    paragraphs = [part for part in (docstring or "").split("\n\n") if not part.startswith(" ")]
    words = "\n\n".join(part for part in paragraphs[:2] if not part.startswith("python ")).strip()
    return f"{words[:-1]}." if words.endswith(":") else words


def _module(path: Path) -> ModuleType:
    """Run a search space's file as a module of its own.

    As it is now: Python's bytecode beside it is stale if it was changed within one second.
    """
    module = ModuleType(f"{FOLDER}.{path.stem}")
    module.__file__ = str(path)
    try:
        exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    except SyntaxError as error:
        raise ConfigError(f"{path} line {error.lineno}: does not import: {_said(error)}") from error
    except Exception as error:
        raise ConfigError(f"{_place(path, error)}: does not import: {_said(error)}") from error
    return module


def _value(path: Path, values: Settings, name: str, kind: type, what: str) -> Any:
    if name not in values:
        raise ConfigError(f"{path}: {name} is missing; a search space defines {name} = {what}")
    if not isinstance(values[name], kind):
        raise ConfigError(f"{path}: {name} must be {what}, got {values[name]!r}")
    return values[name]


def _objectives(path: Path, values: Settings) -> list[tuple[str, str]]:
    """Return each metric with its mode; METRIC and MODE are two names, or two lists of them."""
    metrics, modes = values.get("METRIC"), values.get("MODE")
    if not isinstance(metrics, list | tuple):
        return [(_metric(path, values), _mode(path, values))]
    if isinstance(modes, str):
        modes = [modes] * len(metrics)
    if not isinstance(modes, list | tuple) or len(modes) != len(metrics) or not metrics:
        raise ConfigError(
            f"{path}: METRIC lists {len(metrics)} objectives; MODE must be a list of as many of "
            f"'max' and 'min', or one for all, got {modes!r}"
        )
    if len(set(metrics)) != len(metrics):
        raise ConfigError(f"{path}: METRIC = {metrics!r} names an objective twice")
    pairs = [{"METRIC": metric, "MODE": mode} for metric, mode in zip(metrics, modes, strict=True)]
    return [(_metric(path, pair), _mode(path, pair)) for pair in pairs]


def _metric(path: Path, values: Settings) -> str:
    metric: str = _value(path, values, "METRIC", str, "a column of metrics.csv, such as 'val_acc'")
    if not is_validation(metric):
        raise ConfigError(
            f"{path}: METRIC = {metric!r}: a sweep selects on validation, so it must be one of the "
            "val_… columns of metrics.csv"
        )
    return metric


def _mode(path: Path, values: Settings) -> str:
    mode: str = _value(path, values, "MODE", str, "'max' or 'min'")
    if mode not in ("max", "min"):
        raise ConfigError(f"{path}: MODE must be 'max' or 'min', got {mode!r}")
    return mode


def _function(path: Path, values: Settings) -> Callable[[optuna.Trial], Settings]:
    if "space" not in values:
        raise ConfigError(
            f"{path}: space is missing; a search space defines a function space(trial) that "
            "returns the drawn settings"
        )
    if not callable(values["space"]):
        raise ConfigError(f"{path}: space must be a function of one trial, got {values['space']!r}")
    space = values["space"]
    return lambda trial: plain(space(choosing(trial)))


def choosing(trial: Any) -> ChoosingTrial:
    """Return an Optuna trial as a search space sees it."""
    if isinstance(trial, ChoosingTrial):
        return trial
    return ChoosingTrial(trial, _Before(trial))


class _Before(Mapping[str, Any]):
    """The distributions of a trial's study, by name, looked up when one is asked for."""

    def __init__(self, trial: optuna.Trial) -> None:
        self.trial = trial

    def __getitem__(self, name: str) -> Any:
        for other in reversed(self.trial.study.get_trials(deepcopy=False)):
            if name in other.distributions:
                return other.distributions[name]
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        names = (one.distributions for one in self.trial.study.get_trials(deepcopy=False))
        return iter({name: None for some in names for name in some})

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _place(path: Path, error: Exception) -> str:
    """Return "FILE line N" for the last line of the search space that an error went through."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    return f"{path} line {lines[-1]}" if lines else str(path)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
