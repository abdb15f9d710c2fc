"""`--gpus-per-trial auto`: how many trials fit on a GPU, found by training the largest."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from dataclasses import replace

import ray
import torch

from hlvnn.config import RunConfig, flatten, run_config
from hlvnn.data import data_of
from hlvnn.data.grouped import GroupedDataset, Split
from hlvnn.errors import ConfigError, ResourceError
from hlvnn.models.build import assemble, build_model
from hlvnn.models.model import parameter_count
from hlvnn.sweep import cluster
from hlvnn.sweep.plan import Plan
from hlvnn.training.loop import fit

STEPS = 3
"""Steps that the probe trains: the optimizer's state is there after the first …"""
EPOCHS = 40
"""… times this on a GPU, enough for the step to be recorded (`hlvnn.training.cuda_graph`)."""
PROBED = 3
"""Draws that are trained, those of the most parameters and rows a step."""
MARGIN = 1.2
"""Room over what the probe saw."""
MOST = 16
"""Trials that share a GPU at most."""


def propose(plan: Plan, nodes: Sequence[cluster.Resources]) -> float:
    """Return the share of a GPU that a trial needs: 1, 1/2, 1/3 and so on.

    Ray must not have started yet, or be connected to the cluster that has the GPUs. Raises
    `ResourceError` when a trial needs more than a GPU has, and `ConfigError` when the GPUs'
    memory is unknown.
    """
    settings = [flatten(config) for config in largest(plan.sample)]
    with cluster.connecting(plan.options.address):
        task = ray.remote(num_gpus=1, num_cpus=min(1, plan.options.cpus_per_trial), max_calls=1)
        used, has = ray.get(task(measure).remote(settings))
    if plan.options.gpu_memory is not None:
        has = int(plan.options.gpu_memory * 2**30)
    if has == 0:
        raise ConfigError(
            "--gpus-per-trial auto: the GPUs are only declared, so their memory is not known; say "
            "what each has with --gpu-memory, or say how much of one a trial gets"
        )
    return share(used, has, _by_cpu(plan, nodes))


def share(used: int, has: int, most: int) -> float:
    """Return a trial's share of a GPU of `has` bytes when it used `used`; at most `most` share."""
    fitting = int(has / (MARGIN * used))
    if fitting == 0:
        raise ResourceError(
            f"--gpus-per-trial auto: the largest draw needs {size(int(MARGIN * used))} of a GPU's "
            f"memory, and a GPU has {size(has)}; make the space's models or batches smaller"
        )
    return 1 / max(1, min(fitting, most, MOST))


def largest(sample: Sequence[RunConfig]) -> list[RunConfig]:
    """Return the draws that are likely to need the most memory."""

    def weight(config: RunConfig) -> tuple[int, int]:
        data = data_of(config.data)
        rows = config.train.batch_size or len(data.train)
        return parameter_count(assemble(config.model, data.schema)), rows

    by_size = sorted(sample[: 4 * PROBED], key=weight, reverse=True)
    by_rows = sorted(sample, key=lambda config: config.train.batch_size or 10**9, reverse=True)
    return [*by_size[: PROBED - 1], by_rows[0]]


def measure(settings: Sequence[dict[str, object]]) -> tuple[int, int]:
    """Train each draw for a few steps; return the most bytes that it took, and that the GPU has.

    Where the GPU is only a number of Ray's, memory of this process stands for it, and what it has
    is 0.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        free, has = torch.cuda.mem_get_info()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for one in settings:
        config = run_config({**one, "device": device.type}, "probe")
        _train(config, _few_rows(data_of(config.data), config.train.batch_size))
    if device.type == "cuda":
        context = max(0, free - torch.cuda.mem_get_info()[0] - torch.cuda.memory_reserved())
        return torch.cuda.max_memory_reserved() + context, has
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return max(1, grown) * 1024, 0


def _train(config: RunConfig, data: GroupedDataset) -> None:
    model = build_model(config.model, data, config.seed)
    epochs = EPOCHS if config.train.device == "cuda" else 1
    short = config.train.model_copy(update={"num_epochs": epochs, "eval_every": epochs})
    fit(model, data, short, seed=config.seed)


def _few_rows(data: GroupedDataset, batch_size: int | None) -> GroupedDataset:
    """Return a data set of the same groups with the rows of a few steps."""

    def some(split: Split | None) -> Split | None:
        if split is None or batch_size is None:
            return split
        return split.subset(torch.arange(min(len(split), STEPS * batch_size)))

    train = some(data.train)
    assert train is not None
    return replace(data, train=train, val=some(data.val), test=None)


def _by_cpu(plan: Plan, nodes: Sequence[cluster.Resources]) -> int:
    """Return how many trials a GPU's share of its node's CPUs can feed."""
    fed = [
        int(node["CPU"] / node["GPU"] / plan.options.cpus_per_trial + 1e-9)
        for node in nodes
        if node["GPU"]
    ]
    return max(1, *fed) if fed else 1


def size(amount: float) -> str:
    """Return a number of bytes as it is said: 1.5 GB."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if amount < 1000:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:.3g} PB"
