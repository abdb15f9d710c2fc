"""The first step that was not finite, kept as it began, and taken once more where it stops."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hlvnn.config import TrainConfig
from hlvnn.data.batches import Batch
from hlvnn.data.grouped import GroupedDataset
from hlvnn.errors import NotFiniteError
from hlvnn.inference.objective import batch_loss
from hlvnn.models.model import HierarchicalModel
from hlvnn.random import Noise, seeding, streams, take_up_streams

MODEL, STEP, ROWS, BETA, HELD, LATER = "model", "step", "rows", "beta", "held", "later"
"""What a failure holds: the weights, the step's number (from 0), its training rows [B], the weight
of the KL, latents that were held at z = 0, and whether the weights are of some steps later."""

Failure = dict[str, Any]


def kept(
    model: HierarchicalModel, step: int, rows: Tensor, beta: float, before: dict[str, Tensor]
) -> Failure:
    """Return a failure, of a model whose parameters are those that the step began with.

    before: the random streams then; none where the step was found later, on a GPU.
    """
    model.latents.refresh()
    state = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
    held = sorted(model.latents.held)
    own: Failure = {MODEL: state, STEP: step, ROWS: rows.cpu(), BETA: beta, HELD: held}
    own |= before
    return own if before else own | {LATER: True}


def replay(
    model: HierarchicalModel, data: GroupedDataset, config: TrainConfig, failure: Failure
) -> None:
    """Take a failed step once more, on the CPU; raise where something is first not finite.

    The weights, the rows and the random streams are those of then. Raises `NotFiniteError` in the
    module that computes it, or after a loss or a gradient; returns where all is finite this time.
    """
    model.load_state_dict(failure[MODEL])
    model.train()
    with seeding(0):
        noise = Noise(0)
        if LATER not in failure:
            take_up_streams(failure, torch.device("cpu"))
            noise.take_up(failure)
        rows = failure[ROWS]
        batch = Batch(data.train.x.take(rows), data.train.groups[rows], data.train.y[rows], rows)
        _check("the weights before the step", dict(model.named_parameters()))
        _check("the step's rows", {"inputs x": batch.x, "targets y": batch.y})
        model.latents.held = set(failure[HELD])
        try:
            with stopping(model), model.latents.source.using(noise):
                loss = batch_loss(model, batch, failure[BETA], config.num_samples).loss
                if not math.isfinite(float(loss.detach())):
                    raise NotFiniteError(f"the loss is {float(loss.detach())}")
                loss.backward()
        finally:
            model.latents.held = set()
    _check("gradients", {n: p.grad for n, p in model.named_parameters() if p.grad is not None})


@contextmanager
def stopping(model: nn.Module) -> Iterator[None]:
    """Raise `NotFiniteError` in the first module whose output is not finite, inside the block."""
    handles = [
        module.register_forward_hook(_hook(name)) for name, module in model.named_modules() if name
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(name: str) -> Any:
    def hook(_: nn.Module, __: object, output: object) -> None:
        parts = output if isinstance(output, tuple | list) else (output,)
        for part in parts:
            if isinstance(part, Tensor) and _bad(part):
                raise NotFiniteError(f"the output of {name}: {_told(part)}")

    return hook


def _bad(tensor: Tensor) -> int:
    values = tensor.coalesce().values() if tensor.is_sparse else tensor
    return int((~values.isfinite()).sum()) if values.is_floating_point() else 0


def _told(tensor: Tensor) -> str:
    return f"{_bad(tensor)} of {tensor.numel()} numbers [{', '.join(map(str, tensor.shape))}]"


def _check(what: str, tensors: dict[str, Tensor]) -> None:
    bad = {name: _told(tensor.detach()) for name, tensor in tensors.items() if _bad(tensor)}
    if bad:
        listed = "; ".join(f"{name}: {told}" for name, told in list(bad.items())[:5])
        raise NotFiniteError(f"{what} are not finite: {listed}")


def streams_before(noise: Noise) -> dict[str, Tensor]:
    """Return the random streams as they are before a step, on the CPU."""
    return streams(torch.device("cpu")) | noise.state()
