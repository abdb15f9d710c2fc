"""The first step whose loss is no longer a number: which, on whose rows, and where it began."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from hlvnn.data.batches import Batch
from hlvnn.data.grouped import GroupedDataset
from hlvnn.marks import WATCH, marking
from hlvnn.models.model import HierarchicalModel
from hlvnn.random import Noise, seeding
from hlvnn.training.failure import Failure, kept, streams_before

logger = logging.getLogger("hlvnn")

EVERY = 256
"""Steps after which a GPU is asked whether a loss was no number; a CPU is asked at every step."""
NEVER = 1 << 62
"""The number of the first bad step where there is none."""
SHOWN = 5
"""Groups of a level that are named."""


class Watch:
    """Looks out for the first bad step of a fit.

    On a CPU the parameters are still those that made it. On a GPU the step's number is kept there
    and read every `EVERY` steps, when the parameters have moved on. found: its number, or None;
    failure: what it takes to take that step once more.

    beta: the weight of the KL at a step's number.
    """

    def __init__(
        self, model: HierarchicalModel, data: GroupedDataset, beta: Callable[[int], float]
    ) -> None:
        self.model, self.data, self.beta = model, data, beta
        self.before: dict[str, Tensor] = {}
        self.failure: Failure | None = None
        self.on_cpu = model.device.type == "cpu"
        self.first = torch.full((), -1, dtype=torch.int64, device=model.device)
        self.rows: dict[int, Tensor] = {}
        self.found: int | None = None

    def begin(self, noise: Noise) -> None:
        """Note where the random streams are before a step."""
        if self.on_cpu:
            with marking(WATCH):
                self.before = streams_before(noise)

    def _find(self, step: int, rows: Tensor) -> None:
        self.found, self.rows = step, {step: rows}
        self.failure = kept(self.model, step, rows, self.beta(step), self.before)

    def look(self, loss: Tensor, step: int, index: Tensor) -> None:
        """Look at the loss of a step on the training rows `index` [B]."""
        if self.on_cpu:
            if not math.isfinite(float(loss)):
                self._find(step, index)
            return
        good = loss.isfinite() | (self.first >= 0)
        self.first = torch.where(good, self.first, step)
        self.rows[step] = index
        if len(self.rows) >= EVERY:
            self.read()

    def read(self) -> None:
        """Ask the GPU; what it kept of good steps is let go."""
        if self.found is not None or self.on_cpu:
            return
        first = int(self.first)
        if first in self.rows:
            self._find(first, self.rows[first])
        elif first >= 0:
            self.found = first
        else:
            self.rows = {}

    def read_recorded(self, first: Tensor, order: Tensor, began: int, size: int) -> None:
        """Ask the GPU which of an epoch's recorded steps was the first bad one.

        began: the number of the epoch's first step, of whose rows `order` has `size` a step.
        """
        step = int(first)
        if step < NEVER:
            at = (step - began) * size
            self._find(step, order[at : at + size])

    def tell(self, per_epoch: int, *, validating: bool = False) -> None:
        """Warn of what was found; validating: it was the validation loss, after an epoch."""
        step = self.found
        parts = ["the validation loss is no longer a finite number"]
        index = torch.arange(min(len(self.data.train), EVERY))
        if step is not None:
            epoch, within = divmod(step, per_epoch)
            which = f"step {step + 1} (epoch {epoch + 1}, step {within + 1} of {per_epoch})"
            parts = [f"{which}: the loss is no longer a finite number"]
            index = self.rows.get(step, index).cpu()
            if step in self.rows:
                parts.append(self._whose(index))
        elif not validating:
            return
        where = first_not_finite(self.model, self._batch(index))
        later = "" if self.on_cpu else f", as it was found up to {EVERY} steps later"
        parts.append(f"the first tensor that is not finite: {where}{later}")
        logger.warning(
            "%s. The fit ends here, as diverged; a smaller --lr or --clip-grad 1 helps most often",
            "; ".join(parts),
        )

    def _whose(self, index: Tensor) -> str:
        groups = self.data.train.groups[index]
        told = []
        for position, level in enumerate(self.data.schema.levels):
            found, counts = groups[:, position].unique(return_counts=True)
            most = found[counts.argsort(descending=True, stable=True)][:SHOWN].tolist()
            names = ", ".join(str(level.label(group)) for group in most)
            more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
            told.append(f"{level.name} {names}{more}")
        return f"its {len(index)} rows are of {'; '.join(told) or 'no group'}"

    def _batch(self, index: Tensor) -> Batch:
        split = self.data.train
        batch = Batch(split.x.take(index), split.groups[index], split.y[index], index)
        return Batch(*(part.to(self.model.device) for part in batch))


def first_not_finite(model: HierarchicalModel, batch: Batch) -> str:
    """Return the name of the first tensor that is not finite on the way to a batch's loss."""
    with torch.no_grad(), seeding(0, model.device):
        for name, tensor in _tensors(model, batch):
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                return name
    return "none in a second try (a gradient, or a draw that does not come again)"


def _tensors(model: HierarchicalModel, batch: Batch) -> Iterator[tuple[str, Tensor]]:
    """Yield everything that the loss is made of, in the order in which it is computed."""
    for name, parameter in model.named_parameters():
        yield f"the parameter {name}", parameter
    yield from ((f"the buffer {name}", buffer) for name, buffer in model.named_buffers())
    yield "the input x", batch.x
    yield "the target y", batch.y
    rows = model.latents.at(batch.groups, unseen=False)
    for latent, q, p in zip(model.latents, rows.posteriors, rows.priors, strict=True):
        yield f"the SD of the prior of latent {latent.name}", p.stddev
        yield f"the mean of the posterior of latent {latent.name}", q.mean
        yield f"the SD of the posterior of latent {latent.name}", q.stddev
    draws = model.latents.sample(rows, 1)
    for latent, z in zip(model.latents, draws, strict=True):
        yield f"the draws of latent {latent.name}", z
    outputs: list[tuple[str, Tensor]] = []

    def keep(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def hook(_: nn.Module, __: object, output: object) -> None:
            parts = output if isinstance(output, tuple) else (output,)
            outputs.extend((name, part) for part in parts if isinstance(part, Tensor))

        return module.register_forward_hook(hook)

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if name.startswith("backbone.") or ".placements." in name:
                stack.callback(keep(f"the output of {name}", module).remove)
        eta = model(batch.x, draws)
    yield from outputs
    yield "the output of the network", eta
    yield "the log likelihood", model.likelihood.log_prob(eta, batch.y)
    for latent, kl in zip(model.latents, model.latents.kl_rows(rows), strict=True):
        yield f"the KL of latent {latent.name}", kl
