"""How a training step's time grows: with rows, latent width, samples, levels and groups.

    python benchmarks/growth.py [--rounds 7]

The small MLP (64 columns, 10 classes), one latent of width 10 that enters by `concat@output` unless
said otherwise, batch 200, one thread, random rows. One thing grows at a time; its sizes take turns
inside one run, and a ratio is the median over rounds of that round's ratio to the smallest.
`per unit` is the time that one more unit takes, by the largest and the smallest size.
`groups_scaling.py` takes the groups to ten millions.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import tyro
from pydantic import BaseModel
from train_step import Loop, endless

from hlvnn.config import ModelConfig
from hlvnn.data.batches import Batches
from hlvnn.data.grouped import GroupedDataset, Level, Schema, Split, Target, TensorRows
from hlvnn.models.build import build_model

COLUMNS, CLASSES, STEPS = 64, 10, 50


class Options(BaseModel):
    """How often."""

    rounds: int = 7
    """Rounds; a warm-up comes before them."""


@dataclass(frozen=True)
class Size:
    """One size of everything that can grow."""

    rows: int = 20_000
    batch: int = 200
    groups: int = 200
    width: int = 10
    samples: int = 1
    levels: int = 1


GROWING: dict[str, tuple[Callable[[int], Size], tuple[int, ...]]] = {
    "rows of the data": (lambda n: Size(rows=n), (2_000, 20_000, 200_000)),
    "rows of a batch": (lambda n: Size(batch=n), (100, 200, 400, 800, 1600)),
    "groups": (lambda n: Size(groups=n), (20, 200, 2_000, 20_000)),
    "latent width": (lambda n: Size(width=n), (2, 8, 32, 128)),
    "samples of z": (lambda n: Size(samples=n), (1, 2, 4, 8, 16)),
    "levels of groups": (lambda n: Size(levels=n), (1, 2, 4)),
}


class Steps:
    """A model of one size, its optimisers and its endless batches."""

    def __init__(self, size: Size) -> None:
        self.size = size
        generator = torch.Generator().manual_seed(0)
        shape = (size.rows, size.levels)
        groups = torch.randint(size.groups, shape, generator=generator, dtype=torch.int32)
        first = torch.arange(min(size.groups, size.rows), dtype=torch.int32)
        groups[: len(first)] = first[:, None]  # every group has a row
        rows = Split(
            TensorRows(torch.randn(size.rows, COLUMNS, generator=generator)),
            groups,
            torch.randint(CLASSES, (size.rows,), generator=generator),
        )
        schema = Schema(
            levels=tuple(Level(f"level{i}", len(first)) for i in range(size.levels)),
            x_kind="features",
            x_shape=(COLUMNS,),
            target=Target("class", "class", None, CLASSES),
        )
        config = ModelConfig(backbone="mlp", latent_config=("factor",), z_dim=(size.width,))
        self.loop = Loop(build_model(config, GroupedDataset(schema, rows)))
        self.batches = endless(Batches(rows, size.batch, generator=generator))

    def seconds(self) -> float:
        """Train some steps; return the seconds of one."""
        began = time.perf_counter()
        for _ in range(STEPS):
            self.loop.step(next(self.batches), self.size.samples)
        return (time.perf_counter() - began) / STEPS


def main(options: Options) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print("| what grows | from … to | ms a step | ratio to the first | per unit, µs |")
    print("|---|---|---|---|---|")
    for name, (size_of, sizes) in GROWING.items():
        models = [Steps(size_of(size)) for size in sizes]
        rounds = [[model.seconds() for model in models] for _ in range(options.rounds + 1)][1:]
        seconds = [statistics.median(times) for times in zip(*rounds, strict=True)]
        ratios = [
            statistics.median(times[i] / times[0] for times in rounds) for i in range(len(sizes))
        ]
        slope = 1e6 * (seconds[-1] - seconds[0]) / (sizes[-1] - sizes[0])
        print(
            f"| {name} | {', '.join(f'{size:,}' for size in sizes)} "
            f"| {', '.join(f'{1e3 * s:.2f}' for s in seconds)} "
            f"| {', '.join(f'{ratio:.2f}' for ratio in ratios)} | {slope:.3g} |",
            flush=True,
        )


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__, config=(tyro.conf.FlagCreatePairsOff,)))
