"""The best runs kept: a copy of each in results/sota/DATASET, and a leaderboard made of them.

    python -m hlvnn.analysis promote results/digits/SWEEP/trial_0007

The leaderboard (README.md to read, leaderboard.csv to load) is made anew from the copies each time.
Only runs on the same data (by hash) that are measured by the same metric are ranked against each
other. The metric is a validation one, at the best epoch; the test rows' beside it chose nothing.
"""

from __future__ import annotations

import logging
import os
import shutil
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tyro

from hlvnn import files
from hlvnn.analysis import sweep_files
from hlvnn.errors import ConfigError, RunError, unknown
from hlvnn.runs import BEST, HYPERPARAMS, RESULT, load_run, read_config, read_metrics
from hlvnn.spaces import number_text
from hlvnn.storage import folder_here
from hlvnn.strict import Config, validated
from hlvnn.sweep import outcomes
from hlvnn.sweep.plan import SWEEP
from hlvnn.trial import command_line

logger = logging.getLogger("hlvnn")

SOTA = "sota"
"""Folder below the results for the best runs."""
PROMOTED = "promoted.json"
"""In a promoted run's folder: where it came from, and the metric it is ranked by."""
LEADERBOARD = "leaderboard.csv"
READABLE = "README.md"
DEFAULT_METRICS = {"val_acc": "max", "val_mse": "min", "val_loss": "min"}
"""What a single run is ranked by: the first of these that was measured."""
COLUMNS = (
    *("rank", "name", "model", "metric", "value", "test", "epoch", "parameters", "seed"),
    *("data_hash", "description", "source", "promoted", "command"),
)
"""Columns of leaderboard.csv: value is the metric at epoch, test the same measure of test rows."""


class Promoted(Config):
    """What is kept of a promotion."""

    metric: str
    """Column of metrics.csv that ranks it."""
    mode: str
    """max or min."""
    source: str
    """Folder it was copied from."""
    promoted: str
    """Day of the copy."""


class PromoteOptions(Config):
    """Copy a run or trial into results/sota, and bring its leaderboard up to date."""

    trial: tyro.conf.Positional[str]
    """Folder of the run, or of the sweep's trial."""
    name: str | None = None
    """Name of the copy; none given = that of the run, after its sweep's."""
    metric: str | None = None
    """Column of metrics.csv to rank by; none given = the sweep's own, or val_acc, val_mse, val_loss
    of a single run. With --mode."""
    mode: str | None = None
    """max or min, for --metric."""
    into: Path | None = None
    """Folder of the copies, a folder below for each data set; none given = sota beside DATASET."""


def promote(options: PromoteOptions) -> None:
    """Copy the run, and write the leaderboard."""
    trial = folder_here(options.trial, "promoting needs").resolve()
    config = read_config(trial)
    _check_ended(trial)
    kept = _ranked_by(trial, options)
    load_run(trial, "best")  # so that nothing damaged is kept
    in_sweep = _is_trial(trial)
    name = options.name or (f"{trial.parent.name}-{trial.name}" if in_sweep else trial.name)
    root = options.into or (trial.parent.parent.parent if in_sweep else trial.parent.parent) / SOTA
    folder = root / config.data.title
    target = folder / name
    if target.resolve().parent != folder.resolve():
        raise RunError(f"--name {name}: a plain name is expected, not a path")
    if target.exists():
        raise RunError(f"{target} exists already; nothing was overwritten. Give another --name")
    _copy(trial, target, kept)
    table = write_leaderboard(folder)
    row = table[table["name"] == name].iloc[0]
    rivals = table[(table["data_hash"] == row["data_hash"]) & (table["metric"] == row["metric"])]
    logger.info(
        "promoted to %s: rank %d of %d by %s (%s)",
        *(target, row["rank"], len(rivals), kept.metric, number_text(row["value"])),
    )
    logger.info("leaderboard: %s", folder / READABLE)


def _is_trial(folder: Path) -> bool:
    return (folder.parent / SWEEP).exists()


def _check_ended(trial: Path) -> None:
    if (trial / RESULT).exists():
        return
    if _is_trial(trial):
        ended = trial.name.removeprefix("trial_")
        outcome = outcomes.read(trial.parent, int(ended)) if ended.isdigit() else None
        if outcome is not None and not outcome.unfinished:
            return
    raise RunError(
        f"{trial} has not ended (no {RESULT}); wait for it, or go on with it by --resume"
    )


def _ranked_by(trial: Path, options: PromoteOptions) -> Promoted:
    """Return by what the run is ranked; `ConfigError` where it has not measured that."""
    measured = [str(name) for name in read_metrics(trial) if str(name).startswith("val_")]
    if options.mode not in (None, "max", "min"):
        raise ConfigError(f"--mode {options.mode}: expected max or min")
    if (options.metric is None) != (options.mode is None):
        raise ConfigError("--metric and --mode belong together: --metric val_group_p10 --mode max")
    metric, mode = options.metric, options.mode
    if metric is None and _is_trial(trial):
        record = sweep_files.read_record(trial.parent)
        metric, mode = record.metric, record.mode
    if metric is None:
        known = [name for name in DEFAULT_METRICS if name in measured]
        if not known:
            raise ConfigError(
                f"{trial}: it was trained without validation rows, so that nothing fair can rank it"
            )
        metric, mode = known[0], DEFAULT_METRICS[known[0]]
    if metric not in measured:
        raise ConfigError(f"--metric: {unknown('validation column', metric, measured)}")
    today = date.today().isoformat()
    return Promoted(metric=metric, mode=mode or "max", source=str(trial), promoted=today)


def _copy(trial: Path, target: Path, kept: Promoted) -> None:
    """Copy a run's folder, whole or not at all."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(trial, temporary, symlinks=True, ignore=shutil.ignore_patterns(".*.tmp"))
        files.write_json(temporary / PROMOTED, kept.model_dump())
        temporary.rename(target)
    except OSError as error:
        raise RunError(f"{target}: cannot be written ({error}); nothing was kept") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def leaderboard(folder: Path) -> pd.DataFrame:
    """Return a row for each promoted run in a data set's folder, in the columns of `COLUMNS`.

    Ranks count anew for each pair of data hash and metric. Raises `RunError` for a damaged copy.
    """
    rows = [_row(path.parent) for path in sorted(folder.glob(f"[!.]*/{PROMOTED}"))]
    if not rows:
        return pd.DataFrame(columns=[*COLUMNS])
    frame = pd.DataFrame(rows)
    better = np.where(frame.pop("mode") == "max", -frame["value"], frame["value"])
    by = [frame["data_hash"], frame["metric"]]
    frame["rank"] = pd.Series(better).groupby(by).rank(method="min").astype(int)
    frame["loss"] = frame["loss"].fillna(np.inf)
    order = ["data_hash", "metric", "rank", "loss", "name"]
    return frame.sort_values(order, ignore_index=True)[[*COLUMNS]]


def _row(folder: Path) -> dict[str, Any]:
    kept = validated(Promoted, files.read_json(folder / PROMOTED), str(folder / PROMOTED))
    record, config = files.read_json(folder / HYPERPARAMS), read_config(folder)
    metrics = read_metrics(folder)
    if kept.metric not in metrics or not np.isfinite(metrics[kept.metric]).any():
        raise RunError(f"{folder}: its metrics hold no {kept.metric}; remove it, or restore it")
    values = metrics[kept.metric].where(np.isfinite(metrics[kept.metric]))
    best = metrics.iloc[int(values.argmax() if kept.mode == "max" else values.argmin())]
    return {
        "name": folder.name,
        "model": record.get("model", ""),
        "metric": kept.metric,
        "mode": kept.mode,
        "value": float(best[kept.metric]),
        "test": float(best.get(kept.metric.replace("val_", "test_", 1), np.nan)),
        "loss": float(best.get("val_loss", np.nan)),
        "epoch": int(best["epoch"]),
        "parameters": record.get("parameters", 0),
        "seed": config.seed,
        "data_hash": record.get("data_hash", ""),
        "description": config.description,
        "source": kept.source,
        "promoted": kept.promoted,
        "command": f"python train_one.py {command_line(config)}",
    }


def write_leaderboard(folder: Path) -> pd.DataFrame:
    """Write both forms of a data set's leaderboard; return it."""
    table = leaderboard(folder)
    with files.replacing(folder / LEADERBOARD) as temporary:
        table.to_csv(temporary, index=False)
    with files.replacing(folder / READABLE) as temporary:
        temporary.write_text(readable(table, folder.name), encoding="utf-8")
    return table


def readable(table: pd.DataFrame, dataset: str) -> str:
    """Return the leaderboard as Markdown: a table for each metric and data hash, and commands."""
    lines = [f"# The best of {dataset}", ""]
    for (digest, metric), part in table.groupby(["data_hash", "metric"], sort=False):
        lines += [f"## {metric} on data {digest}", ""]
        lines += ["| rank | run | model | validation | test | epoch | description |"]
        lines += ["|---|---|---|---|---|---|---|"]
        for row in part.itertuples():
            values = [number_text(row.value), number_text(row.test)]  # type: ignore[arg-type]
            cells = [row.rank, row.name, row.model, *values, row.epoch, row.description]
            lines.append("| " + " | ".join(_cell(value) for value in cells) + " |")
        lines += ["", "To train them again:", ""]
        lines += [f"    {row.command}" for row in part.itertuples()]
        lines.append("")
    lines.append(
        f"{HYPERPARAMS} and {BEST} in each folder are the run itself; "
        '`hlvnn.load_run(folder, "best")` reads it.'
    )
    return "\n".join(lines) + "\n"


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
