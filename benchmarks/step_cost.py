"""A training step's time in this working tree and in another one, side by side.

    git worktree add /tmp/before 2c002a4
    python benchmarks/step_cost.py /tmp/before [--models mlp cnn] [--structures factor film]

Each tree trains the same model on the same random rows (`train_step`) in a process of its own, with
the packages of this environment. They take turns, an epoch of `fit` each, evaluation excluded; a
ratio is the median over rounds of this tree's seconds by the other's, so that a machine that slows
down in between does not decide it. One thread, batch 200. The first epochs, in which latents that
start small wait, are no rounds.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Self

import torch
import tyro
from pydantic import BaseModel

HERE = Path(__file__).resolve().parent
STEPS = {"cnn": 48, "lstm": 48, "mlp": 600}
"""Steps of an epoch: enough for groups to take theirs as in a long fit."""
STRUCTURES = {
    "cnn": ("none", "factor", "film"),
    "lstm": ("none", "factor", "film", "step-input"),
    "mlp": ("none", "factor", "film", "bias"),
}
WARM_UP = 2
"""Epochs before the first round."""


class Options(BaseModel):
    """What to measure."""

    other: tyro.conf.Positional[Path] = HERE.parent
    """The other working tree; this one itself shows the error of the comparison."""
    models: tuple[str, ...] = ("mlp", "cnn", "lstm")
    """Backbones."""
    structures: tuple[str, ...] = ()
    """Latent structures; none given = some of each kind that the backbone has."""
    rounds: int = 20
    """Pairs of epochs."""


class Trainer:
    """A fit in a process of its own, which goes on by one epoch when it is told to."""

    def __init__(self, tree: Path, model: str, structure: str, rounds: int) -> None:
        path = os.pathsep.join([str(tree), str(tree / "benchmarks")])
        environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        # -P: what it imports is the tree's, not beside this file
        args = [sys.executable, "-P", __file__, "--train", model, structure, str(rounds)]
        self.process = subprocess.Popen(
            args, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def epoch(self) -> float:
        """Train an epoch; return the milliseconds of a step."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("on\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())


def train(name: str, structure: str, rounds: int) -> None:
    """Train with the `hlvnn` that is imported, an epoch for each line that is read."""
    from train_step import BATCH, dataset

    from hlvnn.config import ModelConfig, TrainConfig
    from hlvnn.models.build import build_model
    from hlvnn.training.loop import EpochReport, fit

    torch.set_num_threads(1)
    data = dataset(name, STEPS[name])
    names = {"latent_config": (structure,), "posterior": "mean_field", "prior": "learned"}
    model = build_model(ModelConfig(backbone=name, **names), data)
    epochs = rounds + WARM_UP
    config = TrainConfig(num_epochs=epochs, batch_size=BATCH, device="cpu", prior_warmup=1 / epochs)

    def wait(epoch: EpochReport, checkpoint: object) -> None:
        print(1e3 * BATCH / epoch.row["rows_per_second"], flush=True)
        sys.stdin.readline()

    sys.stdin.readline()
    fit(model, data, config, wait)


def pair(other: Trainer, this: Trainer, turn: int) -> tuple[float, float]:
    """Have both train an epoch, another one first each time."""
    if turn % 2:
        now = this.epoch()
        return other.epoch(), now
    return other.epoch(), this.epoch()


def main(options: Options) -> None:
    """Print the table."""
    print("| model | structure | other, ms | this, ms | this / other |")
    print("|---|---|---|---|---|")
    for name in options.models:
        for structure in options.structures or STRUCTURES[name]:
            args = (name, structure, options.rounds)
            with Trainer(options.other, *args) as other, Trainer(HERE.parent, *args) as this:
                pairs = [pair(other, this, turn) for turn in range(options.rounds + WARM_UP)]
            pairs = pairs[WARM_UP:]
            before, now = (statistics.median(times) for times in zip(*pairs, strict=True))
            ratio = statistics.median(now / before for before, now in pairs)
            print(f"| {name} | {structure} | {before:.2f} | {now:.2f} | {ratio:.3f} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--train"]:
        train(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        main(tyro.cli(Options, description=__doc__, config=(tyro.conf.FlagCreatePairsOff,)))
