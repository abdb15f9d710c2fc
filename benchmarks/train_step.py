"""Rows per second of a training step: the bare limit, `fit`, and a torch DataLoader, side by side.

    python benchmarks/train_step.py [--rounds 12] [--latent-config factor] [--output FILE]

(a) is the loop on one resident batch: forward, backward, optimisers, nothing else. (b) is an epoch
of `fit`, evaluation excluded. (c) is the same step fed by a `torch.utils.data.DataLoader` that
takes a batch of rows at once (`BatchSampler`; collating rows one by one takes up to twice as long).
All have the same optimisers, ours. They take turns inside one run (a and c run after each of fit's
epochs); a ratio is the median over rounds of that round's ratio, so that a machine that speeds up
or slows down in between does not decide it. One thread, batch 200, inputs of the usual shapes with
random values.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import tyro
from pydantic import BaseModel
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
)

from hlvnn.config import ModelConfig, TrainConfig
from hlvnn.data.batches import Batch, Batches
from hlvnn.data.grouped import GroupedDataset, Level, Schema, Split, Target, TensorRows
from hlvnn.inference.objective import batch_loss
from hlvnn.latents.table import keeping_gradients_dense
from hlvnn.models.build import build_model
from hlvnn.models.model import HierarchicalModel
from hlvnn.optim import AdamW, RowwiseAdam
from hlvnn.training.group_steps import GroupSteps
from hlvnn.training.loop import EpochReport, fit
from hlvnn.training.pace import PASSES, Pace

BATCH = 200
GROUPS = 207
MIDST = Pace(1 / PASSES, 1.0, 1.0, 1.0, 0.0)
"""How far groups and priors go in the midst of a fit."""
SHAPES = {
    "cnn": {"x_kind": "image", "x_shape": (28, 28), "classes": 62, "steps": 20},
    "lstm": {"x_kind": "tokens", "x_shape": (80,), "classes": 80, "steps": 20},
    "mlp": {"x_kind": "features", "x_shape": (64,), "classes": 10, "steps": 300},
}


class Options(BaseModel):
    """What to measure."""

    rounds: int = 12
    """Rounds; the first is a warm-up."""
    latent_config: str = "factor"
    """Latent structure of the models."""
    output: Path | None = None
    """JSON file for the figures."""


def dataset(name: str, steps: int | None = None) -> GroupedDataset:
    """Return random rows of the shape that a backbone reads, for `steps` batches."""
    shape = SHAPES[name]
    generator = torch.Generator().manual_seed(0)
    rows = BATCH * (steps or shape["steps"])
    size = (rows, *shape["x_shape"])
    if shape["x_kind"] == "features":
        x = torch.randn(size, generator=generator)
    else:
        high = 256 if shape["x_kind"] == "image" else 80
        x = torch.randint(0, high, size, generator=generator).to(torch.uint8)
    groups = (torch.arange(rows) % GROUPS).to(torch.int32)[:, None]
    y = torch.randint(0, shape["classes"], (rows,), generator=generator)
    schema = Schema(
        levels=(Level("group", GROUPS),),
        x_kind=shape["x_kind"],
        x_shape=shape["x_shape"],
        num_tokens=80 if shape["x_kind"] == "tokens" else None,
        target=Target("class", "class", None, shape["classes"]),
    )
    return GroupedDataset(schema, Split(TensorRows(x), groups, y))


class Loop:
    """The bare step: a model, what moves it, and nothing around them.

    per_epoch: steps of an epoch, by which groups, priors and the noise go.
    """

    def __init__(self, model: HierarchicalModel, per_epoch: int = 300) -> None:
        self.model = model.train()
        self.own = GroupSteps(model, per_epoch, 0.0, bound=False)
        natural = {id(latent) for latent in self.own.natural}
        others = [latent for latent in model.latents if id(latent) not in natural]
        tables = [table for latent in others for table in latent.tables()]
        known = {id(p) for p in [*tables, *self.own.parameters]}
        dense = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
        on_gpu = model.device.type == "cuda"
        adam = AdamW(dense, lr=1e-3, weight_decay=0.0, fused=True, capturable=on_gpu)
        self.optimizers: list[torch.optim.Optimizer] = [adam]
        if tables:
            self.optimizers.append(RowwiseAdam(tables, lr=1e-3))

    def loss(self, batch: Batch, samples: int) -> Tensor:
        return batch_loss(self.model, batch, 1.0, samples).loss

    def step(self, batch: Batch, samples: int = 1) -> None:
        self.own.watch(batch.groups)
        loss = self.loss(batch, samples)
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()
        self.own.move(float(len(batch.y)), 1.0, MIDST, warming=False)

    def recorded(self, batch: Batch) -> torch.cuda.CUDAGraph:
        """Return the step on one batch as a CUDA graph."""
        with keeping_gradients_dense():
            return captured(lambda: self.step(batch), self.optimizers)


def captured(
    step: Callable[[], None], optimizers: Sequence[torch.optim.Optimizer]
) -> torch.cuda.CUDAGraph:
    """Return a step as a CUDA graph, after three of them that are not recorded."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    for optimizer in optimizers:
        optimizer.zero_grad()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph


class BatchesOfRows(Dataset[list[Tensor]]):
    """Rows as `torch.utils.data` takes them, a batch at a time."""

    def __init__(self, split: Split) -> None:
        self.tensors = (split.x.all(), split.groups, split.y)

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, index: list[int]) -> list[Tensor]:
        return [tensor[index] for tensor in self.tensors]


def loader_of(split: Split, size: int, *, shuffle: bool, pinned: bool = False) -> DataLoader[Any]:
    """Return torch's loader of a split's rows, x, groups and y, without a Python loop over rows."""
    rows = BatchesOfRows(split)
    order: Sampler[int] = RandomSampler(rows) if shuffle else SequentialSampler(rows)
    sampler = BatchSampler(order, size, drop_last=False)
    return DataLoader(rows, sampler=sampler, batch_size=None, pin_memory=pinned)


def endless(batches: Batches) -> Iterator[Batch]:
    """Yield the batches of pass after pass."""
    while True:
        yield from batches


def measure(name: str, options: Options) -> dict[str, float]:
    """Return rows per second of (a), (b) and (c), medians over rounds, and fit's two ratios."""
    data = dataset(name)
    config = ModelConfig(backbone=name, latent_config=options.latent_config)
    bare, loader_loop = (Loop(build_model(config, data)) for _ in range(2))
    train, steps = data.train, SHAPES[name]["steps"]
    one = torch.arange(BATCH)
    batch = Batch(train.x.take(one), train.groups[one], train.y[one], one)
    loader = loader_of(train, BATCH, shuffle=True)
    speeds: dict[str, list[float]] = {"bare": [], "fit": [], "loader": []}

    def timed(key: str, started: float) -> None:
        speeds[key].append(BATCH * steps / (time.perf_counter() - started))

    def take_turns(epoch: EpochReport, checkpoint: object) -> None:
        speeds["fit"].append(epoch.row["rows_per_second"])
        started = time.perf_counter()
        for _ in range(steps):
            bare.step(batch)
        timed("bare", started)
        started = time.perf_counter()
        for x, groups, y in loader:
            loader_loop.step(Batch(x, groups, y, one))
        timed("loader", started)

    train_config = TrainConfig(num_epochs=options.rounds + 1, batch_size=BATCH, device="cpu")
    fit(build_model(config, data), data, train_config, take_turns)
    pairs = list(zip(speeds["fit"], speeds["bare"], speeds["loader"], strict=True))[1:]
    return {
        **{key: statistics.median(values[1:]) for key, values in speeds.items()},
        "fit_to_bare": statistics.median(fit / bare for fit, bare, _ in pairs),
        "fit_to_loader": statistics.median(fit / loader for fit, _, loader in pairs),
    }


def main(options: Options) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print(f"one thread, batch {BATCH}, latents: {options.latent_config}, {options.rounds} rounds")
    print(
        "| model | bare rows/s | fit rows/s | DataLoader rows/s | fit / bare | fit / DataLoader |"
    )
    print("|---|---|---|---|---|---|")
    figures = {}
    for name in SHAPES:
        speed = measure(name, options)
        figures[name] = speed
        print(
            f"| {name} | {speed['bare']:,.0f} | {speed['fit']:,.0f} | {speed['loader']:,.0f} "
            f"| {speed['fit_to_bare']:.3f} | {speed['fit_to_loader']:.2f} |",
            flush=True,
        )
    if options.output is not None:
        options.output.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__, config=(tyro.conf.FlagCreatePairsOff,)))
