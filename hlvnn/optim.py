"""The optimisers: AdamW for the network, and an Adam that moves only a step's rows of group tables.

torch's optimisers import its compiler (about 2 s) when they are first used, to keep it out of their
way, and open a range for its profiler around every step and every clearing of gradients, a tenth of
a small network's step. Nothing is compiled here, so theirs are taken without either.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


class Plain(torch.optim.Optimizer):
    """torch's optimiser without what it does for its compiler and its profiler, and without hooks.

    A member's `step` is marked by `unhooked`.
    """

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients."""
        assert set_to_none
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None


def unhooked(step: Callable[..., Any]) -> Callable[..., Any]:
    """Keep torch from wrapping a class's `step` for its profiler when one is made first."""
    step.hooked = True  # type: ignore[attr-defined]
    return step


class AdamW(Plain, torch.optim.AdamW):
    """torch's AdamW (Loshchilov and Hutter 2019)."""

    step = unhooked(torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step)))


class RowwiseAdam(Plain):
    """Adam on tables [G, P] of groups, each row with a step count of its own.

    Dense Adam moves rows whose gradient is zero, by their momentum, and touches the whole table and
    its moments every step. Here a group that is not in the batch stays as it is, and the bias
    correction counts the steps in which the group took part. Kingma and Ba (2015), row by row.

    Sparse gradients cost what their rows cost. Others (see `latents.table.keeping_gradients_dense`)
    cost what the table costs, and a group is not in the batch if its row of the gradient is zero.
    """

    def __init__(
        self,
        tables: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(tables, {"lr": lr, "betas": betas, "eps": eps})

    @unhooked
    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Update the rows that have a gradient."""
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for table in group["params"]:
                if table.grad is None:
                    continue
                state = self.state[table]
                if not state:
                    state["rows"] = torch.zeros(len(table), device=table.device)
                    state["mean"] = torch.zeros_like(table)
                    state["square"] = torch.zeros_like(table)
                if not table.grad.is_sparse:
                    _dense_step(table, state, group)
                    continue
                index, gradient = coalesced(table)
                steps = state["rows"].index_select(0, index).add_(1)
                mean = state["mean"].index_select(0, index).lerp_(gradient, 1 - beta1)
                square = state["square"].index_select(0, index)
                square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
                state["rows"].index_copy_(0, index, steps)
                state["mean"].index_copy_(0, index, mean)
                state["square"].index_copy_(0, index, square)
                # mean/(1-β1ᵗ) / (sqrt(square/(1-β2ᵗ)) + ε), with the two scalars of a row as one
                # expm1: 1 - 0.999 would lose three digits in float32
                root = torch.expm1(steps * math.log(beta2)).neg_().sqrt_()
                size = (group["lr"] * root / (1 - beta1**steps)).unsqueeze_(1)
                scale = square.sqrt_().add_(root.mul_(group["eps"]).unsqueeze_(1))
                table.index_add_(0, index, mean.div_(scale).mul_(size), alpha=-1)


def _dense_step(table: nn.Parameter, state: dict[str, Any], group: dict[str, Any]) -> None:
    """Update a table whose gradient is not sparse: rows of zeros are of groups not in the batch."""
    gradient = table.grad
    assert gradient is not None
    beta1, beta2 = group["betas"]
    own = (gradient != 0).any(1, keepdim=True)  # [G, 1]
    state["rows"].add_(own[:, 0])
    mean = state["mean"].lerp_(gradient, (1 - beta1) * own)
    square = state["square"].lerp_(gradient.square(), (1 - beta2) * own)
    # steps of a group before its first have no bias correction, and no move
    steps = state["rows"].clamp(min=1).unsqueeze(1)
    root = torch.expm1(steps * math.log(beta2)).neg_().sqrt_()
    size = own * (group["lr"] * root / (1 - beta1**steps))
    table.sub_(size * mean / (square.sqrt() + group["eps"] * root))


def coalesced(table: nn.Parameter) -> tuple[Tensor, Tensor]:
    """Return a table's sparse gradient as distinct rows: index [U] int64, values [U, P]."""
    gradient = table.grad
    assert gradient is not None
    if not gradient.is_coalesced():
        gradient = gradient.coalesce()
        table.grad = gradient
    return gradient._indices()[0], gradient._values()


def clip_gradients(parameters: list[nn.Parameter], limit: float) -> None:
    """Scale the gradients of parameters to a joint norm of at most `limit`."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients]))
    factor = (limit / (norm + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factor)


def lr_factor(schedule: str, progress: float) -> float:
    """Return the learning rate's factor at a share of the run, 0..1.

    cosine: 1 falls to 0. one_cycle: 1/25 rises to 1 over the first 30 %, then falls to 0 (Smith and
    Topin 2019). constant: 1.
    """
    if schedule == "constant":
        return 1.0
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    rise = 0.3
    if progress < rise:
        return 1 / 25 + (1 - 1 / 25) * 0.5 * (1 - math.cos(math.pi * progress / rise))
    return 0.5 * (1 + math.cos(math.pi * (progress - rise) / (1 - rise)))
