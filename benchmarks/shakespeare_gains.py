"""Shakespeare: which characters gain by latents, and by which structure, against the pooled LSTM.

    python benchmarks/shakespeare_gains.py [--seeds 0 1 2] [--models none factor film]

60 characters in 35 plays, small LSTM, the next character from 80. Every structure is made for
characters and plays, with the same settings: Adam to 1e-2 with a cosine, batch 200, dropout 0.25,
clipped gradients, the epoch with the best validation loss, test rows scored once with 10 draws of
z. A gain is the pooled network's loss minus the structure's on the same test rows, same seed. ± of
a mean over rows is its standard error from resampling characters with all their rows, which knows
nothing of seeds: each seed's gain stands beside it. ± of one character's gain is that from its
rows.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from pydantic import BaseModel

from hlvnn.config import run_config
from hlvnn.data import load_data
from hlvnn.inference.predict import score_rows
from hlvnn.models.build import build_model
from hlvnn.training.loop import EpochReport, fit

Floats = NDArray[np.float64]
RESAMPLES = 2000
SHOWN = 5
"""Characters of the most and of the least gain."""


class Options(BaseModel):
    """Which structures, how often."""

    models: tuple[str, ...] = ("none", "factor", "lower", "double", "bias", "step-input", "film")
    """Latent configurations; the first is what the others are compared with."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of weights and order."""
    epochs: int = 6
    """Epochs of each run."""
    z_dim: int = 8
    """Latent width."""
    data_dir: Path = Path("data")
    """Root of the data."""
    processes: int = 2
    """Runs at a time."""


class Scored(NamedTuple):
    """A run's test rows: each one's loss, whether its prediction is right, and its character."""

    loss: Floats
    hit: Floats
    character: NDArray[np.int64]


def run(options: Options, model: str, seed: int) -> Scored:
    """Train one network, and score its test rows at the epoch with the best validation loss."""
    torch.set_num_threads(1)
    settings: dict[str, Any] = {
        "dataset": "shakespeare",
        "data_dir": options.data_dir,
        "backbone": "lstm",
        "latent_config": model,
        "z_dim": options.z_dim,
        "prior": "learned",
        "dropout": 0.25,
        "num_epochs": options.epochs,
        "batch_size": 200,
        "lr": 1e-2,
        "lr_schedule": "cosine",
        "clip_grad": 1.0,
        "device": "cpu",
    }
    config = run_config(settings, "shakespeare_gains")
    data = load_data(config.data)
    test = data.test
    assert test is not None
    object.__setattr__(data, "test", None)  # not scored epoch by epoch
    network = build_model(config.model, data, seed)
    best: dict[str, Any] = {}

    def keep(epoch: EpochReport, checkpoint: Callable[[], dict[str, Any]]) -> None:
        if epoch.is_best:
            best.update(copy.deepcopy(checkpoint()["model"]))

    fit(network, data, config.train, keep, seed=seed)
    network.load_state_dict(best)
    network.latents.refresh()
    scores = score_rows(network, test, 10)
    hit = (scores.y == scores.prediction).astype(np.float64)
    return Scored(scores.loss, hit, scores.groups[:, 0].astype(np.int64))


def by_character(values: Floats, character: NDArray[np.int64], size: int) -> Floats:
    """Return the sum over each character's rows: [size]."""
    return np.bincount(character, weights=values, minlength=size)


def resampled(sums: Floats, rows: Floats) -> float:
    """Return the standard error of Σ sums / Σ rows when characters are drawn anew."""
    random = np.random.default_rng(0)
    again = random.integers(0, len(rows), (RESAMPLES, len(rows)))
    return float((sums[again].sum(1) / rows[again].sum(1)).std())


def main(options: Options) -> None:
    """Run all and print the tables."""
    config = run_config({"dataset": "shakespeare", "data_dir": options.data_dir}, "names")
    level = load_data(config.data).schema.levels[0]
    jobs = [(model, seed) for seed in options.seeds for model in options.models]
    found: dict[tuple[str, int], Scored] = {}
    with ProcessPoolExecutor(options.processes) as pool:
        futures = {job: pool.submit(run, options, *job) for job in jobs}
        for job, future in futures.items():
            found[job] = future.result()
            print(*job, f"{found[job].hit.mean():.4f} {found[job].loss.mean():.4f}", flush=True)
    pooled, size = options.models[0], level.size
    character = found[pooled, options.seeds[0]].character
    rows = by_character(np.ones(len(character)), character, size)
    gains: dict[str, Floats] = {}
    print(
        "| structure | accuracy | nats | gain over pooled, nats | by seed | characters that gain |"
    )
    print("|---|---|---|---|---|---|")
    for model in options.models:
        scored = [found[model, seed] for seed in options.seeds]
        nats = [s.loss.mean() for s in scored]
        spread = f" ± {np.std(nats, ddof=1):.4f}" if len(nats) > 1 else ""
        told = f"| {model} | {np.mean([s.hit.mean() for s in scored]):.4f} "
        told += f"| {np.mean(nats):.4f}{spread} "
        if model == pooled:
            print(f"{told}| | | |")
            continue
        gain = np.mean(
            [found[pooled, seed].loss - found[model, seed].loss for seed in options.seeds], 0
        )
        gains[model] = gain
        sums = by_character(gain, character, size)
        error = resampled(sums, rows)
        better = int((sums > 0).sum())
        told += f"| {gain.mean():+.4f} ± {error:.4f} "
        each = [
            found[pooled, seed].loss.mean() - s.loss.mean()
            for s, seed in zip(scored, options.seeds, strict=True)
        ]
        told += f"| {', '.join(f'{one:+.3f}' for one in each)} "
        print(f"{told}| {better} of {size} |", flush=True)
    best = max(gains, key=lambda model: float(gains[model].mean()))
    gain = gains[best]
    mean = by_character(gain, character, size) / rows
    square = by_character(gain**2, character, size) / rows - mean**2
    error_of = np.sqrt(square / rows)
    order = np.argsort(-mean)
    print(f"\n{best}: the characters of the most and of the least gain")
    print("| character | test rows | gain, nats |")
    print("|---|---|---|")
    for gid in [*order[:SHOWN], *order[-SHOWN:]]:
        told = f"{mean[gid]:+.3f} ± {error_of[gid]:.3f}"
        print(f"| {level.label(int(gid))} | {rows[gid]:.0f} | {told} |")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__, config=(tyro.conf.FlagCreatePairsOff,)))
