"""Norms of gradients by part of the model, and how far a step goes against the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from hlvnn.columns import GRADIENTS, STEP_SIZE
from hlvnn.models.model import HierarchicalModel

NETWORK, LOADINGS, POSTERIORS, PRIORS = GRADIENTS


class Norms:
    """Measures every step of an epoch; `read` returns its means and begins anew.

    Gradients are those of the batch's mean loss, before they are clipped. Those of the posteriors
    are of what the batch read of them. The step's size is ‖Δw‖ / ‖w‖ of the network.
    """

    def __init__(self, model: HierarchicalModel) -> None:
        self.model = model
        self.network = [p for p in model.backbone.parameters() if p.requires_grad]
        self.loadings = [p for x in model.latents for one in x.entries() for p in one.parameters()]
        self.priors = [p for x in model.latents for p in x.prior.parameters()]
        self.priors += list(model.likelihood.parameters())
        self.sums: dict[str, float] = {}
        self.steps = 0
        self.before: list[Tensor] = []

    @torch.no_grad()
    def begin(self) -> None:
        """Measure the gradients, and keep the network as it is before its step."""
        self.steps += 1
        self._add(NETWORK, _norm(p.grad for p in self.network))
        self._add(LOADINGS, _norm(p.grad for p in self.loadings))
        self._add(PRIORS, _norm(p.grad for p in self.priors))
        read = [
            leaf.grad for x in self.model.latents for _, leaf in x.posterior.reads or []
        ]  # natural steps
        tables = [table.grad for x in self.model.latents for table in x.tables()]
        self._add(POSTERIORS, _norm([*read, *tables]))
        self.before = [p.detach().clone() for p in self.network]

    @torch.no_grad()
    def end(self) -> None:
        """Measure how far the network went."""
        moved = _norm(p - was for p, was in zip(self.network, self.before, strict=True))
        size = _norm(self.before)
        self._add(STEP_SIZE, moved / size if size else math.nan)
        self.before = []

    def _add(self, name: str, value: float) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + value

    def read(self) -> dict[str, float]:
        """Return the means over the steps since the last call, by column."""
        means = {name: total / self.steps for name, total in self.sums.items()}
        self.sums, self.steps = {}, 0
        return means


def _norm(tensors: Iterable[Tensor | None]) -> float:
    """Return the Euclidean norm of all numbers together."""
    total = 0.0
    for tensor in tensors:
        if tensor is not None:
            values = tensor.coalesce().values() if tensor.is_sparse else tensor
            total += float(values.double().square().sum())
    return math.sqrt(total)
