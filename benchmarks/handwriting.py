"""Accuracy and nats of the named models on handwriting by writer, over seeds on one split.

    python benchmarks/handwriting.py [--source ../shared/data/unipen_writers.npz] [--seeds 0 1 2]

62 classes, 207 writers, a random 80/20 split of each writer's rows. Small CNN, 12 epochs, batch
100, one-cycle learning rate to 2e-3 for the network; 20 times that for posteriors, 5 times for
embeddings (chosen with --validate-only among 1, 5, 10 and 20). Predictions average 10 draws of z.
One thread a run. With --validate-only the score is on a tenth cut from the training rows, the test
rows stay unread: for choosing settings.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
import tyro
from pydantic import BaseModel
from unipen import Options as FolderOptions
from unipen import write_folder

from hlvnn.config import run_config
from hlvnn.data import load_data
from hlvnn.inference.predict import evaluate
from hlvnn.models.build import build_model
from hlvnn.training.loop import fit


class Options(BaseModel):
    """Which models, how often."""

    source: Path = Path("../shared/data/unipen_writers.npz")
    """The handwriting data."""
    models: tuple[str, ...] = ("none", "factor", "lower", "double", "bias", "one-hot", "embedding")
    """Latent configurations to compare; NAME:DROPOUT sets dropout around the hidden layer."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of weights and order; the split stays."""
    split_seed: int = 0
    """Seed of the split."""
    weight_decay: float = 0.0
    """Decoupled weight decay of the network."""
    augment: float = 0.0
    """Strength of random moves of the training images (see train_one.py --help)."""
    epochs: int = 12
    """Epochs of each run."""
    lr: float = 2e-3
    """Peak of the one-cycle learning rate."""
    embedding_lr: float = 5.0
    """Learning rate of points, as a multiple."""
    z_dim: int = 10
    """Latent width."""
    prior: str = "standard"
    """Prior of the latents."""
    validate_only: bool = False
    """Score a tenth of the training rows instead of the test rows."""
    processes: int = 2
    """Runs at a time."""
    output: Path | None = None
    """JSON file for the figures."""


def settings(options: Options, model: str, data_dir: str) -> dict[str, object]:
    """Return one run's settings."""
    name, _, dropout = model.partition(":")
    return {
        "dataset": "femnist",
        "data_size": "large",
        "data_dir": data_dir,
        "val_fraction": 0.1 if options.validate_only else 0.0,
        "latent_config": name,
        "z_dim": options.z_dim,
        "prior": options.prior,
        "dropout": float(dropout or 0),
        "num_epochs": options.epochs,
        "batch_size": 100,
        "lr": options.lr,
        "embedding_lr": options.embedding_lr,
        "lr_schedule": "one_cycle",
        "weight_decay": options.weight_decay,
        "augment": options.augment,
        "eval_every": options.epochs,
        "device": "cpu",
    }


def run(options: Options, model: str, seed: int, data_dir: str) -> dict[str, object]:
    """Train one model and score it."""
    torch.set_num_threads(1)
    config = run_config(settings(options, model, data_dir), "handwriting")
    data = load_data(config.data)
    unread = data.test
    object.__setattr__(data, "test", None)  # not scored epoch by epoch
    network = build_model(config.model, data, seed)
    started = time.perf_counter()
    result = fit(network, data, config.train, seed=seed)
    scored = data.val if options.validate_only else unread
    assert scored is not None
    figures = evaluate(network, scored, config.train.eval_samples).scalars
    return {
        "model": model,
        "seed": seed,
        "name": network.name,
        "elbo": result.elbo,
        "kl": result.kl,
        "seconds": time.perf_counter() - started,
        **figures,
    }


def table(rows: list[dict[str, object]], models: tuple[str, ...]) -> str:
    """Return the Markdown table: mean over seeds, with the spread over seeds."""
    lines = [
        "| model | accuracy | nats | 10th percentile of writers | ELBO / 1000 | KL per latent |",
        "|---|---|---|---|---|---|",
    ]
    for model in models:
        of_model = [row for row in rows if row["model"] == model]
        cells = []
        for key, digits in (("acc", 4), ("loss", 4), ("group_p10", 3)):
            values = [float(str(row[key])) for row in of_model]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{statistics.mean(values):.{digits}f} ± {spread:.{digits}f}")
        elbo = statistics.mean(float(str(row["elbo"])) for row in of_model) / 1000
        kl = of_model[0]["kl"]
        assert isinstance(kl, dict)
        shares = ", ".join(f"{name.split()[-1]} {value:.0f}" for name, value in kl.items())
        lines.append(
            f"| {model} ({of_model[0]['name']}) | {' | '.join(cells)} | {elbo:.2f} | {shares} |"
        )
    return "\n".join(lines)


def main(options: Options) -> None:
    """Run all and print the table."""
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(options.processes) as pool:
        out = Path(folder) / "femnist" / "large"
        write_folder(FolderOptions(source=options.source, out=out, seed=options.split_seed))
        jobs = [
            pool.submit(run, options, model, seed, folder)
            for seed in options.seeds
            for model in options.models
        ]
        for job in jobs:
            row = job.result()
            rows.append(row)
            print({k: row[k] for k in ("model", "seed", "acc", "loss", "seconds")}, flush=True)
    print(table(rows, options.models))
    if options.output is not None:
        options.output.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__, config=(tyro.conf.FlagCreatePairsOff,)))
