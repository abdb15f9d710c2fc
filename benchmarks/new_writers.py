"""Handwriting of writers never seen: accuracy and nats against the rows that each brings.

    python benchmarks/new_writers.py [--source ../shared/data/unipen_writers.npz] [--models …]

40 of 207 writers are held out; the others' rows are split 80/20 as in handwriting.py. Small CNN,
dropout 0.25, 12 epochs, batch 100, one-cycle learning rate to 2e-3, 20 times that for posteriors
unless MODELS says less: a vector that enters everywhere starts at small SDs, and at 20 times its
network was 0.28 nats worse than the pooled one for writers who bring nothing (at twice, better).
Runs are kept in --results and not trained again; the table, its figure and what each writer fared
are written beside them. One thread.
"""

from __future__ import annotations

from pathlib import Path

import torch
import tyro
from pydantic import BaseModel
from unipen import Options as FolderOptions
from unipen import write_folder

from hlvnn.analysis.data_efficiency import SIZES, as_text, data_efficiency, write
from hlvnn.commands.data_efficiency import load
from hlvnn.config import run_config
from hlvnn.records.run_folder import RESULT
from hlvnn.training.execution import execute

HELD_OUT = 40
WRITERS = 207
LATE = "film@hidden+basis@output:rank=16"
EVERYWHERE = "film@conv1+film@conv2+film@hidden+basis@output:rank=16"
STUDY = {"norm": "batch", "augment": 1.0, "lr": 4e-3}
"""What all methods of handwriting_study.py have."""
MODELS: dict[str, dict[str, object]] = {
    "pooled": {},
    "factor": {"latent_config": "factor", "prior": "learned"},
    "amortised": {"latent_config": "factor", "prior": "learned", "posterior": "amortised"},
    "film-hidden": {"latents": [f"{LATE} level=writer width=32 prior=learned"]},
    "film": {"latents": [f"{EVERYWHERE} level=writer width=32 prior=learned"]},
    "study-pooled": {**STUDY},
    "study-film": {
        **STUDY,
        "latents": [f"{EVERYWHERE} level=writer width=32 prior=learned"],
        "kl_weight": 0.5,
    },
    "study-film-kl1": {
        **STUDY,
        "latents": [f"{EVERYWHERE} level=writer width=32 prior=learned"],
    },
}
"""What is trained, by name."""


class Options(BaseModel):
    """Which models, and how they are measured."""

    source: Path = Path("../shared/data/unipen_writers.npz")
    """The handwriting data."""
    results: Path = Path("results/new_writers")
    """Folder of the runs and of the table."""
    models: tuple[str, ...] = ("pooled", "factor", "amortised", "film-hidden", "film")
    """Names among MODELS; the first is what the others are compared with."""
    repeats: int = 1
    """Random draws of the rows that a writer brings (a draw takes about 10 minutes)."""
    num_samples: int = 20
    """Draws of z averaged in a prediction."""
    sizes: tuple[int, ...] = SIZES
    """Rows that a writer brings."""
    steps: int = 100
    """Steps of `adapt` where it optimises; what an encoder read is not refined."""
    epochs: int = 12
    """Epochs of each run."""
    seed: int = 0
    """Seed of weights and order."""


def settings(options: Options, model: str) -> dict[str, object]:
    """Return one run's settings."""
    return {
        "dataset": "femnist",
        "data_size": "large",
        "data_dir": options.results / "data",
        "val_fraction": 0.0,
        "hold_out": HELD_OUT / WRITERS,
        "unseen": "prior",
        "dropout": 0.25,
        "num_epochs": options.epochs,
        "batch_size": 100,
        "lr": 2e-3,
        "lr_schedule": "one_cycle",
        "eval_every": options.epochs,
        "device": "cpu",
        "seed": options.seed,
        **MODELS[model],
    }


def main(options: Options) -> None:
    """Train what is not there yet, measure, and print the table."""
    torch.set_num_threads(1)
    data = options.results / "data" / "femnist" / "large"
    if not data.exists():
        write_folder(FolderOptions(source=options.source, out=data))
    folders = [options.results / f"{model}" for model in options.models]
    for model, folder in zip(options.models, folders, strict=True):
        if not (folder / RESULT).exists():
            result = execute(run_config(settings(options, model), model), folder, resume=True)
            print(model, result.history.iloc[-1].to_dict(), flush=True)
    models, rows = load(folders)
    table = data_efficiency(
        models,
        rows,
        sizes=options.sizes,
        repeats=options.repeats,
        steps=options.steps,
        num_samples=options.num_samples,
    )
    print(as_text(write(table, options.results / "data_efficiency")))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__, config=(tyro.conf.FlagCreatePairsOff,)))
