"""What each column of the tables means, and its unit, from the places that define them.

Columns of metrics.csv and of the group tables are defined in `hlvnn/columns.py`, settings in
`hlvnn/config.py`, how a trial ended in `hlvnn/records/outcomes.py`.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable, Mapping
from functools import cache
from itertools import pairwise

import pandas as pd

from hlvnn import columns
from hlvnn.analysis.opened import ABOUT, CHOSEN, FINALS, FIRST, OVER_GROUPS, SETTINGS, TRIALS
from hlvnn.columns import (
    BEST,
    BEST_EPOCH,
    BETTER_HIGH,
    DATA_HASH,
    DIVERGED,
    EPOCH,
    EXACT,
    GPU_PERCENT,
    GROUP_MEASURES,
    GROUPS_OF_BOTH,
    KL,
    KNOWN,
    MEASURES,
    NEW,
    OF_EFFECTS,
    OTHERS,
    PARAMETER,
    ROWS_PER_SECOND,
    SCORED,
    SECONDS,
    SPLITS,
    TRAIN_LOSS,
    TRAIN_NLL,
    TWO_CLASSES,
    UNITS,
    Told,
    of_split,
    over_groups,
)
from hlvnn.config import DataConfig, ModelConfig, RunConfig, TrainConfig, flat_settings
from hlvnn.gone import GONE
from hlvnn.records.group_file import GROUPS
from hlvnn.records.outcomes import Outcome
from hlvnn.records.trials_table import PARETO

COLUMNS = ("column", "meaning", "unit", "table")
OF_SPLIT = {
    columns.VAL: "on validation rows",
    columns.TEST: "on test rows",
    columns.TRAIN: "on training rows",
}
EFFECTS = "effects"
"""The tables of `groups.effects`."""
OF_GROUPS = "of the metric at the chosen epoch, over the lowest level's groups on validation rows"
"""What `group_mean` and its like are of in `trials`."""
OVER_BOTH = {over_groups(measure): measure for measure in TWO_CLASSES}
"""Means over groups of the measures of two classes."""
ANY_BEST = f"{BEST}…"
"""How the page calls the column of the metric at the chosen epoch."""


@cache
def constants() -> dict[str, str]:
    """Return the columns that are constants of `hlvnn.columns`, with their docstrings."""
    nodes = ast.parse(inspect.getsource(columns)).body
    found = {}
    for node, after in pairwise(nodes):
        if not (isinstance(node, ast.Assign) and isinstance(after, ast.Expr)):
            continue
        (target,) = node.targets
        said = after.value.value if isinstance(after.value, ast.Constant) else None
        value = getattr(columns, target.id, None) if isinstance(target, ast.Name) else None
        if isinstance(value, str) and isinstance(said, str):
            found[value] = " ".join(said.split())
    return found


def setting(name: str) -> Told | None:
    """Return what a setting means; its unit stands in its sentence."""
    for cls in (DataConfig, ModelConfig, TrainConfig, RunConfig, Outcome):
        field = cls.model_fields.get(name)
        if field is not None and field.description:
            return Told(" ".join(field.description.split()), UNITS.get(name, ""))
    if name in GONE:
        return Told(f"a setting of earlier versions: {GONE[name].reason}")
    return None


def measured(name: str) -> Told | None:
    """Return what a column of metrics.csv or of the group tables means; None if unknown."""
    if name in MEASURES:
        return Told(MEASURES[name].meaning, MEASURES[name].unit)
    if name in OTHERS:
        return OTHERS[name]
    if name.startswith(KL):
        return Told("KL of the latent of this name, summed over its groups", "nats")
    if name in constants():
        return Told(constants()[name].rstrip("."), UNITS.get(name, _unit(name)))
    split, _, rest = name.partition("_")
    if split not in SPLITS:
        return None
    where = OF_SPLIT[split]
    for prefix, which in ((KNOWN, "with"), (NEW, "without")):
        if rest.startswith(prefix):
            rest, where = rest.removeprefix(prefix), f"{where} of groups {which} training rows"
    if rest in OVER_BOTH:
        of = MEASURES[OVER_BOTH[rest]]
        mean = f"mean of {of.title} over the groups with rows of both classes"
        return Told(f"{mean}, {where}", of.unit)
    known = (*MEASURES, *GROUP_MEASURES, GROUPS_OF_BOTH)
    inner = measured(rest) if rest in known else None
    return None if inner is None else Told(f"{inner.meaning}, {where}", inner.unit)


def _unit(name: str) -> str:
    """Return the unit of a constant's column: that of its measure, or of a group's."""
    rest = name.partition("_")[2] if name.partition("_")[0] in SPLITS else name
    if rest in GROUP_MEASURES:
        units = (MEASURES[BETTER_HIGH[0]].unit, MEASURES["mse"].unit)
        return " or ".join(units)
    return MEASURES[rest].unit if rest in MEASURES else ""


def of_column(name: str, table: str) -> Told | None:
    """Return what a column means in a table; None where nothing says it."""
    if table == SETTINGS:
        return setting(name)
    if table == EFFECTS and name in OF_EFFECTS:
        return OF_EFFECTS[name]
    if table in (TRIALS, ABOUT):
        if name in OVER_GROUPS.values():
            said = {"mean": "mean", "worst": "the weakest group's value"}
            word = next(key for key, value in OVER_GROUPS.items() if value == name)
            return Told(
                f"{said.get(word, 'mean of the weakest tenth')} {OF_GROUPS}", "metric's unit"
            )
        if name.startswith(PARAMETER):
            return Told("what the searcher drew for this parameter; empty where it drew none")
        if name == SECONDS:
            return Told("seconds of training and evaluation, all epochs", UNITS[SECONDS])
        if name == ANY_BEST:
            return Told(
                "the metric that the sweep selects on, at the chosen epoch", "metric's unit"
            )
        if name.startswith(BEST) and name != BEST_EPOCH:
            inner = measured(name.removeprefix(BEST))
            return inner and Told(f"{inner.meaning}, at the chosen epoch", inner.unit)
        if name in Outcome.model_fields and name not in OTHERS:
            return setting(name)
    return measured(name)


def of_tables(parts: Mapping[str, Iterable[str]]) -> pd.DataFrame:
    """Return a row for each column of some tables: column, meaning, unit, table.

    parts: the columns of each table by its name.
    """
    rows = []
    for table, names in parts.items():
        for name in names:
            told = of_column(name, table) or Told("")
            rows.append((name, told.meaning, told.unit, table))
    return pd.DataFrame(rows, columns=list(COLUMNS))


OPENING = (
    "What each column of the tables of runs and sweeps means. Made by `python -m hlvnn.analysis "
    "columns --out docs/columns.md` from the places that define them; `sweep.describe()` says the "
    "same of one sweep. `trials.parquet` has the columns of all tables of trials in one "
    "(`sweep.table`): those of the last epoch begin with `final_`, those of the chosen one with "
    "`best_`."
)


def page() -> str:
    """Return the Markdown page of all columns that tables may have (`docs/columns.md`)."""
    measures = [*MEASURES][:-1]  # nll is of training rows alone
    over = (*GROUP_MEASURES, *OVER_BOTH, GROUPS_OF_BOTH)
    scored = [of_split(s, m) for s in SCORED for m in (*measures, *over)]
    scored += [of_split(SCORED[0], f"{which}loss") for which in (KNOWN, NEW)]
    of_epochs = [EPOCH, TRAIN_LOSS, TRAIN_NLL, "elbo", f"{KL}…", *scored, "lr", "kl_weight"]
    of_epochs += [SECONDS, ROWS_PER_SECOND, GPU_PERCENT, DIVERGED, EXACT]
    outcome = [name for name in Outcome.model_fields if name not in FIRST]
    trials = [*FIRST, f"{PARAMETER}…", BEST_EPOCH, ANY_BEST, *OVER_GROUPS.values()]
    about = [*outcome, "folder", "name", "pooled", "model", "parameters", "started", DATA_HASH]
    parts = {
        TRIALS: [*trials, "epochs", SECONDS, PARETO],
        SETTINGS: [*flat_settings()],
        ABOUT: about,
        "epochs": of_epochs,
        "groups": ["trial", EPOCH, "level", "gid", "split", "n", *measures],
        GROUPS: ["level", "gid", "label", "rows"],
        EFFECTS: [*OF_EFFECTS],
        "predictions": ["split", "row", "y", "prediction", "log_prob"],
    }
    titles = {
        TRIALS: "`sweep.trials`: a row per trial, to begin with",
        SETTINGS: "`sweep.settings`: the settings of each trial, as it ran",
        ABOUT: "`sweep.about`: how each trial ran",
        "epochs": (
            "`sweep.epochs`: a row per trial and evaluated epoch (`metrics.csv`). "
            f"`sweep.{FINALS}` has the last epoch's row of each trial, `sweep.{CHOSEN}` that of "
            "the chosen one"
        ),
        "groups": "`sweep.groups.read()`: a row per trial, epoch, level, group and split "
        "(`training_stats/epoch_….parquet`)",
        GROUPS: (
            "`groups.parquet`: a row per group of a run, with the attributes of --group-table, "
            "which `sweep.groups.read(attributes=[…])` joins"
        ),
        EFFECTS: (
            "`sweep.groups.effects(setting)`: `.settings`, a row per value, and `.groups`, a row "
            "per value and group"
        ),
        "predictions": "`predictions.parquet`: a row per validation and test row at the chosen "
        "epoch; a column per level (gid), too",
    }
    lines = [
        "# Columns",
        "",
        OPENING,
    ]
    frame = of_tables(parts)
    for table, title in titles.items():
        lines += ["", f"## {title}", "", "| column | meaning | unit |", "|---|---|---|"]
        for row in frame[frame["table"] == table].itertuples():
            meaning = str(row.meaning).replace("|", "\\|")
            lines.append(f"| `{row.column}` | {meaning} | {row.unit} |")
    return "\n".join(lines) + "\n"
