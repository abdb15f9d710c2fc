"""What a report's first screen says of the search: settings and ranges, how, how long, where."""

from __future__ import annotations

from typing import Any

import pandas as pd

from hlvnn.analysis.report.comparing import plural
from hlvnn.analysis.report.tables import Cell, Table
from hlvnn.analysis.results import Results
from hlvnn.analysis.searched import parameters
from hlvnn.columns import RAN_ON
from hlvnn.config import DATA_PLACES, NOT_REPEATED, RunConfig, flat_settings, flatten
from hlvnn.records.schedulers import Scheduler
from hlvnn.records.searchers import SEARCHERS
from hlvnn.records.trials_table import cells
from hlvnn.words import Settings, duration, is_missing, text

OPTIONS = {
    "grace_period": "grace period",
    "reduction_factor": "factor",
    "perturb_every": "epochs between rounds",
}
"""A scheduler's options, as they are called in a report."""
ASIDE = {
    *("description", "device", "threads", "seed", "select_on", "select_mode"),
    *DATA_PLACES,
    *NOT_REPEATED,
}
"""Settings that say where, how and how often a trial ran, and not what was tried."""
NOBODY = "not drawn"
SHOWN = 6
"""Values of a setting that are shown where it is no parameter of the space."""


def settings(results: Results) -> Table | None:
    """Return the best trial's settings that were searched, or differ from BASE, beside it.

    Where the space's BASE says nothing, its column has the default. Of single runs those settings
    that differ between them.
    """
    best = results.best_trial
    if best is None:
        return None
    row, base, usual = results.row(best), _base(results), cells(flatten(RunConfig()))
    drawn = parameters(results.drawn)
    names = [*drawn, *(name for name in _differing(results, base, usual) if name not in drawn)]
    tried = len([one for one in results.drawn.optuna if one in set(results.table["trial"])])
    rows = []
    for name in names:
        is_setting = name in flat_settings()
        was, own, searched = "", "", ""
        if is_setting:
            was = _shown(base[name]) if name in base else _default(usual[name])
            own = _shown(row.get(name))
        if name in drawn:
            one = drawn[name]
            own = own or (_shown(one.values[best]) if best in one.values else NOBODY)
            searched = one.range
            if len(one.values) < tried:
                searched += f"; {plural(len(one.values), 'trial')} of {tried} drew it"
        else:
            values = results.table[name].map(_shown).replace("", None).dropna().unique()
            if len(values) > 1:
                searched = "" if results.record is None else "with others: "
                searched += ", ".join(sorted(values)[:SHOWN])
                searched += f", … ({len(values)})" if len(values) > SHOWN else ""
        rows.append([Cell(name), Cell(was), Cell(own), Cell(searched)])
    if not rows:
        return None
    columns = [("setting", False), ("BASE" if base else "default", False)]
    last = "searched" if results.record is not None else "in all runs"
    columns += [(results.called(best), False), (last, False)]
    return Table("settings", _caption(results, base, row, usual), columns, rows)


def _caption(results: Results, base: Settings, row: pd.Series[Any], usual: Settings) -> str:
    stayed = [
        f"{name}={_shown(value)}"
        for name, value in base.items()
        if name not in ASIDE and _shown(row.get(name)) == _shown(value)
    ]
    held = f" As BASE has it: {', '.join(stayed)}." if stayed else ""
    whose = f"The settings of {results.called(int(row['trial']))}"
    if results.record is None:
        return f"{whose} that differ between runs."
    return f"{whose}, and what was searched.{held} All else is at its default."


def _base(results: Results) -> Settings:
    """Return what is the same for all trials: BASE, and what was fixed by flags."""
    record = results.record
    return {} if record is None else {**record.base, **record.fixed}


def _differing(results: Results, base: Settings, usual: Settings) -> list[str]:
    """Return the settings of the best trial that are others than BASE's, or the defaults'."""
    table, best = results.table, results.row(results._number(None))
    names = [name for name in flat_settings() if name in table and name not in ASIDE]
    if results.record is None:
        return [name for name in names if table[name].map(_shown).nunique() > 1]
    return [name for name in names if _shown(best[name]) != _shown(base.get(name, usual[name]))]


def _default(value: object) -> str:
    return f"{_shown(value) or 'none given'} (default)"


def _shown(value: object) -> str:
    return "" if is_missing(value) else text(value)


def of_search(results: Results, damaged: int) -> list[tuple[str, str]]:
    """Return how trials were chosen and ended, how long that took, on what, and what is damaged.

    Pairs of a word and what it is; damaged: how many things are told below.
    """
    trials, record = results.table, results.record
    numbers = trials["status"].value_counts().items()
    counted = ", ".join(f"{count} {status}" for status, count in numbers)
    known = [("trials", f"{len(trials)}: {counted}")]
    if record is not None:
        name = str(record.options.get("searcher", ""))
        sentence = SEARCHERS[name].sentence if name in SEARCHERS else "not recorded"
        known.append(("searcher", ": ".join(filter(None, [name, sentence]))))
        if results.scheduler is not None:
            known.append((results.scheduler.title, _paces(results, results.scheduler)))
    known.append(("time", _time(trials)))
    if machines := _machines(trials):
        known.append(("machines", machines))
    told = f"{plural(damaged, 'note')} below, under “Beware”" if damaged else "none was noticed"
    known.append(("damage", told))
    return known


def _paces(results: Results, scheduler: Scheduler) -> str:
    """Return when a scheduler compared trials: its options, and the rungs that follow."""
    options = results.record.options if results.record is not None else {}
    said = [f"{OPTIONS[name]} {text(options.get(name))}" for name in scheduler.options]
    parts = [", ".join(said)] if said else []
    if scheduler.has_rungs:
        rungs = ", ".join(map(str, results.rungs)) or "none"
        parts.append(f"rungs at epochs {rungs}")
    return "; ".join(parts) or scheduler.sentence


def _time(trials: pd.DataFrame) -> str:
    trained = duration(float(trials["seconds"].sum()))
    wall = wall_seconds(trials)
    if wall is None:
        return f"{trained} in trials"
    return f"{duration(wall)} by the clock while trials ran; {trained} in trials, all together"


def wall_seconds(trials: pd.DataFrame) -> float | None:
    """Return for how long at least one trial ran; None where no trial says when it began.

    A trial ran from its start for as long as its driver saw it run, or at least as long as it
    trained; pauses between the drivers of a sweep that went on do not count.
    """
    began = trials[trials["started"].notna()]
    if not len(began):
        return None
    start = (began["started"] - began["started"].min()).dt.total_seconds()
    seen = began["wall_seconds"] if "wall_seconds" in began else 0.0 * start
    ran = pd.concat([seen, began["seconds"]], axis="columns").max(axis="columns").fillna(0.0)
    total, until = 0.0, 0.0
    for first, length in sorted(zip(start, ran, strict=True)):
        last = first + length
        total += max(0.0, last - max(first, until))
        until = max(until, last)
    return total


def _machines(trials: pd.DataFrame) -> str:
    """Return on which machines trials ran, and on what there."""
    nodes = trials["node"].replace("", None).value_counts() if "node" in trials else pd.Series()
    names = ", ".join(
        f"{node} ({plural(count, 'trial')})" if len(nodes) > 1 else str(node)
        for node, count in nodes.items()
    )
    return "; ".join(filter(None, [names, ran_on(trials)]))


def ran_on(trials: pd.DataFrame) -> str:
    """Return the devices that trials were trained on, and how many on each where they differ."""
    if RAN_ON not in trials:  # of older sweeps
        return ""
    counts = trials[RAN_ON].replace("", None).value_counts()
    if len(counts) == 1:
        return str(counts.index[0])
    return ", ".join(f"{device} ({count} trials)" for device, count in counts.items())
