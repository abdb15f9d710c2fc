"""A training step's time as the number of groups grows, everything else fixed.

    python benchmarks/groups_scaling.py [--groups 1000 10000 …] [--rounds 15]

The small MLP, one latent of width 10 (`concat@output`, mean field), batch 200, one thread, and the
same rows (as many as the largest G, each group equally often) in random order. The sizes take turns
inside one run, 100 steps a turn; a ratio is the median over rounds of that round's ratio to the
smallest G.
"""

from __future__ import annotations

import statistics
import time

import torch
import tyro
from pydantic import BaseModel
from train_step import Loop, endless

from hlvnn.config import ModelConfig
from hlvnn.data.batches import Batches
from hlvnn.data.grouped import GroupedDataset, Level, Schema, Split, Target, TensorRows
from hlvnn.models.build import build_model

BATCH, WIDTH, COLUMNS, CLASSES = 200, 10, 16, 10
STEPS = 100


class Options(BaseModel):
    """What to measure."""

    groups: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
    """Numbers of groups, the smallest first."""
    rounds: int = 15
    """Rounds; the first is a warm-up."""


class Trained:
    """A model with G groups, its optimisers and its batches."""

    def __init__(self, groups: int, x: TensorRows, y: torch.Tensor) -> None:
        generator = torch.Generator().manual_seed(0)
        group = (torch.arange(len(y), dtype=torch.int32) % groups)[:, None]
        schema = Schema(
            levels=(Level("group", groups),),
            x_kind="features",
            x_shape=(COLUMNS,),
            target=Target("class", "class", None, CLASSES),
        )
        data = GroupedDataset(schema, Split(x, group, y))
        config = ModelConfig(backbone="mlp", latent_config=("factor",), z_dim=(WIDTH,))
        self.loop = Loop(build_model(config, data))
        self.batches = endless(Batches(data.train, BATCH, generator=generator))

    def steps(self) -> float:
        """Train `STEPS` steps; return the seconds of one."""
        started = time.perf_counter()
        for _ in range(STEPS):
            self.loop.step(next(self.batches))
        return (time.perf_counter() - started) / STEPS

    def bytes_per_group(self) -> float:
        """Return what a group takes in memory, its steps' state and counts included."""
        (own,) = self.loop.own.steps
        held = [own.q.table, own.seen, own.counts]
        held += [buffer for buffer in own.latent.buffers() if len(buffer) == len(own.counts)]
        return sum(tensor.numel() * tensor.element_size() for tensor in held) / len(own.counts)


def main(options: Options) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(1)
    rows = max(options.groups)
    x = TensorRows(torch.randn(rows, COLUMNS, generator=generator))
    y = torch.randint(CLASSES, (rows,), generator=generator)
    models = [Trained(groups, x, y) for groups in options.groups]
    rounds = [[model.steps() for model in models] for _ in range(options.rounds + 1)][1:]
    print("| groups | ms a step | ratio to the smallest | bytes a group |")
    print("|---|---|---|---|")
    for place, (groups, model) in enumerate(zip(options.groups, models, strict=True)):
        seconds = statistics.median(times[place] for times in rounds)
        ratio = statistics.median(times[place] / times[0] for times in rounds)
        print(
            f"| {groups:,} | {1e3 * seconds:.2f} | {ratio:.2f} | {model.bytes_per_group():.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__, config=(tyro.conf.FlagCreatePairsOff,)))
