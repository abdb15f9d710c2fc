"""Handwriting of writers never seen: accuracy and nats against the rows that each brings.

    python benchmarks/new_writers.py [--source ../shared/data/unipen_writers.npz] [--seeds 0 1 2]

40 of 207 writers are held out; the others' rows are split 80/20 as in handwriting_study.py, whose
regularisation all models have. Of how groups are fitted nothing is set. A seed decides weights,
order and which rows a writer brings; who is new stays. What a writer gains over the first model is
averaged over seeds, and its ± is the standard error over writers; the SD of the seeds' mean gains
stands beside it. Runs are kept in --results and not trained again; the table and what each writer
fared are written beside them. One thread.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
import tyro
from handwriting_study import SHARED as STUDY
from pydantic import BaseModel
from unipen import Options as FolderOptions
from unipen import write_folder

from hlvnn.analysis.data_efficiency import as_text, data_efficiency, write
from hlvnn.commands.data_efficiency import load
from hlvnn.config import run_config
from hlvnn.records.run_folder import RESULT
from hlvnn.training.execution import execute

HELD_OUT = 40
WRITERS = 207
EVERYWHERE = "film@conv1+film@conv2+film@hidden+basis@output:rank=16 level=writer width=32"
MODELS: dict[str, dict[str, object]] = {
    "pooled": {},
    "factor": {"latent_config": "factor"},
    "amortised": {"latent_config": "factor", "posterior": "amortised"},
    "film": {"latents": [EVERYWHERE]},
}
"""What is trained, by name."""


class Options(BaseModel):
    """Which models, and how they are measured."""

    source: Path = Path("../shared/data/unipen_writers.npz")
    """The handwriting data."""
    results: Path = Path("results/new_writers")
    """Folder of the runs and of the table."""
    models: tuple[str, ...] = tuple(MODELS)
    """Names among MODELS; the first is what the others are compared with."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of weights, order, and of the rows that a writer brings."""
    num_samples: int = 20
    """Draws of z averaged in a prediction."""
    sizes: tuple[int, ...] = (0, 5, 20)
    """Rows that a writer brings."""
    steps: int = 100
    """Steps of `adapt` where it optimises; what an encoder read is not refined."""


def settings(options: Options, model: str, seed: int) -> dict[str, object]:
    """Return one run's settings."""
    return {
        "dataset": "femnist",
        "data_size": "large",
        "data_dir": options.results / "data",
        "val_fraction": 0.0,
        "hold_out": HELD_OUT / WRITERS,
        "unseen": "prior",
        **STUDY,
        "eval_every": STUDY["num_epochs"],
        "device": "cpu",
        "seed": seed,
        **MODELS[model],
    }


def main(options: Options) -> None:
    """Train what is not there yet, measure, and print the table."""
    torch.set_num_threads(1)
    data = options.results / "data" / "femnist" / "large"
    if not data.exists():
        write_folder(FolderOptions(source=options.source, out=data))
    found = [fared(options, seed) for seed in options.seeds]
    table = pd.concat(found, ignore_index=True)
    summary = write(table, options.results / "data_efficiency")
    print(as_text(summary))
    for (model, rows), gains in over_seeds(table, options.models[0]).items():
        told = ", ".join(f"{gain:+.4f}" for gain in gains)
        print(f"{model}, {rows} rows: nats gained by seed {told}; SD {np.std(gains, ddof=1):.4f}")


def fared(options: Options, seed: int) -> pd.DataFrame:
    """Return what each new writer fared with a seed's models, trained now or before."""
    kept = options.results / f"seed{seed}.parquet"
    folders = [options.results / f"seed{seed}" / model for model in options.models]
    for model, folder in zip(options.models, folders, strict=True):
        if not (folder / RESULT).exists():
            result = execute(run_config(settings(options, model, seed), model), folder, resume=True)
            print(model, result.history.iloc[-1].to_dict(), flush=True)
    if kept.exists():
        table = pd.read_parquet(kept)
        if set(table["model"]) == set(options.models) and set(table["rows"]) == set(options.sizes):
            return table
    models, rows = load(folders)
    how = {"sizes": options.sizes, "steps": options.steps, "num_samples": options.num_samples}
    table = data_efficiency(models, rows, **how, repeats=1, seed=seed)
    table["repeat"] = seed
    table.to_parquet(kept, index=False)
    return table


def over_seeds(table: pd.DataFrame, first: str) -> dict[tuple[str, int], list[float]]:
    """Return the nats gained on the first model by model and rows brought, one for each seed."""
    means = table.groupby(["model", "rows", "repeat"], sort=False)["loss"].mean()
    return {
        (str(model), int(rows)): (means[first, rows] - own.droplevel(["model", "rows"])).tolist()
        for (model, rows), own in means.groupby(level=["model", "rows"], sort=False)
        if model != first
    }


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__, config=(tyro.conf.FlagCreatePairsOff,)))
