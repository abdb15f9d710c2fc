"""On a GPU: what helps a small network's step, and what several trials on one GPU gain.

    python benchmarks/gpu.py [--models cnn lstm mlp] [--sizes small large]

The step is the bare one on a resident batch of 200 rows (see train_step.py): launched by Python, as
a CUDA graph, and as a graph with TF32 or bf16 matrix products, or compiled by `torch.compile`.
Then K trials on one GPU: K processes that replay their graphs at the same time, and, for the
network alone, K configurations in one process as one batch of networks (`torch.func`), whose steps
a second count K each. Medians of rounds; everything takes turns.
"""

from __future__ import annotations

import math
import multiprocessing
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import tyro
from pydantic import BaseModel
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap
from train_step import BATCH, SHAPES, Loop, captured, dataset

from hlvnn.config import ModelConfig
from hlvnn.data.batches import Batch
from hlvnn.models.build import build_model
from hlvnn.models.model import HierarchicalModel
from hlvnn.optim import AdamW

Step = Callable[[], Any]


class Options(BaseModel):
    """What to measure."""

    models: tuple[str, ...] = tuple(SHAPES)
    """Backbones."""
    sizes: tuple[str, ...] = ("small", "large")
    """Sizes of the backbones."""
    trials: tuple[int, ...] = (1, 2, 4, 8)
    """Trials at a time on one GPU."""
    rounds: int = 5
    """Rounds, each of a tenth of a second per way."""
    seconds: float = 2.0
    """How long trials share the GPU."""
    compile: bool = True
    """Whether torch.compile is measured, too (minutes)."""


def network(name: str, size: str, latents: str = "factor") -> tuple[HierarchicalModel, Batch]:
    """Return a model and a batch on the GPU."""
    data = dataset(name, 2)
    config = ModelConfig(backbone=name, latent_config=(latents,), model_size=size)
    one, rows = torch.arange(BATCH), data.train
    batch = Batch(rows.x.take(one), rows.groups[one], rows.y[one], one)
    return build_model(config, data).cuda(), Batch(*(part.cuda() for part in batch))


@contextmanager
def multiplying_in(kind: str) -> Iterator[None]:
    """Compute matrix products as `kind` says: float32, tf32 or bf16."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    exact = kind == "float32"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = not exact
    try:
        with torch.autocast("cuda", torch.bfloat16, enabled=kind == "bf16"):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def ways(name: str, size: str, compiled: bool) -> dict[str, Step]:
    """Return the ways to do one step, each with a model of its own."""
    found: dict[str, Step] = {}
    model, batch = network(name, size)
    loop = Loop(model)
    found["Python"] = lambda: loop.step(batch)
    for kind in ("float32", "tf32", "bf16"):
        with multiplying_in(kind):
            found[f"graph, {kind}"] = replayed(*network(name, size))
    if compiled:
        try:
            with multiplying_in("float32"):
                found["graph, compiled"] = replayed(*network(name, size), compiled=True)
        except Exception as error:  # noqa: BLE001 - a compiler may say anything
            print(f"{name} {size}: not compiled: {str(error).splitlines()[0][:150]}")
    return found


def replayed(model: HierarchicalModel, batch: Batch, compiled: bool = False) -> Step:
    """Return the recorded step; it keeps what the graph reads."""
    loop = Loop(model)
    if compiled:
        loop.loss = torch.compile(loop.loss, dynamic=False)  # type: ignore[method-assign]
    graph = loop.recorded(batch)

    def step(kept: tuple[Loop, Batch] = (loop, batch)) -> None:
        graph.replay()

    return step


def steps_a_second(step: Step, seconds: float = 0.1) -> float:
    """Return how often a second a step is done."""
    step()
    torch.cuda.synchronize()
    began, steps = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        for _ in range(20):
            step()
        torch.cuda.synchronize()
        steps += 20
    return steps / (time.perf_counter() - began)


def table_of_ways(options: Options) -> None:
    """Print the times of a step."""
    print("| model | " + " | ".join(["way", "µs a step", "times Python's speed"]) + " |")
    print("|---|---|---|---|")
    for name in options.models:
        for size in options.sizes:
            found = ways(name, size, options.compile)
            times: dict[str, list[float]] = {way: [] for way in found}
            for _ in range(options.rounds):
                for way, step in found.items():
                    times[way].append(1e6 / steps_a_second(step))
            middle = {way: statistics.median(took) for way, took in times.items()}
            for way, took in middle.items():
                gain = f"{middle['Python'] / took:.2f}"
                print(f"| {name} {size} | {way} | {took:.0f} | {gain} |", flush=True)


def fused(name: str, size: str, number: int) -> Step:
    """Return the recorded step of `number` networks (no latents) at once, on the same batch."""
    models = [network(name, size, "none")[0] for _ in range(number)]
    batch = network(name, size, "none")[1]
    parameters, buffers = stack_module_state(models)  # type: ignore[arg-type]
    base = models[0].to("meta")

    def loss(own: dict[str, Tensor], fixed: dict[str, Tensor]) -> Tensor:
        eta = functional_call(base, (own, fixed), (batch.x, []))
        return torch.nn.functional.cross_entropy(eta[0], batch.y)

    optimizer = AdamW(list(parameters.values()), lr=1e-3, fused=True, capturable=True)

    def step() -> None:
        optimizer.zero_grad()
        vmap(loss, randomness="different")(parameters, buffers).sum().backward()
        optimizer.step()

    graph = captured(step, [optimizer])

    def replay(kept: Step = step) -> None:
        graph.replay()

    return replay


def shared(name: str, seconds: float, gate: Any, count: Any) -> None:
    """Replay the small network's step as one of several processes; add up the steps."""
    model, batch = network(name, "small", "none")
    step = replayed(model, batch)
    step()
    torch.cuda.synchronize()
    gate.wait()
    speed = steps_a_second(step, seconds)
    with count.get_lock():
        count.value += speed


def as_one(name: str, number: int) -> float:
    """Return the steps a second of `number` networks in one process; NaN for an LSTM.

    (torch.func has no batched form of its fused kernels.)
    """
    if name == "lstm":
        return math.nan
    return number * steps_a_second(fused(name, "small", number), 0.5)


def table_of_trials(options: Options) -> None:
    """Print steps a second of K trials on one GPU, over those of one."""
    spawn = multiprocessing.get_context("spawn")
    print("\n| small network | K | steps/s, K processes | over one | one process | over one |")
    print("|---|---|---|---|---|---|")
    for name in options.models:
        first: tuple[float, float] | None = None
        for number in options.trials:
            gate, count = spawn.Barrier(number), spawn.Value("d", 0.0)
            arguments = (name, options.seconds, gate, count)
            workers = [spawn.Process(target=shared, args=arguments) for _ in range(number)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            together = as_one(name, number)
            first = first or (count.value, together)
            print(
                f"| {name} | {number} | {count.value:,.0f} | {count.value / first[0]:.2f} "
                f"| {together:,.0f} | {together / first[1]:.2f} |",
                flush=True,
            )


def main(options: Options) -> None:
    """Print both tables."""
    if not torch.cuda.is_available():
        raise SystemExit("no GPU here: nothing to measure")
    warnings.simplefilter("ignore")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, batch {BATCH}")
    table_of_ways(options)
    table_of_trials(options)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__, config=(tyro.conf.FlagCreatePairsOff,)))
