"""Training steps as a CUDA graph.

A small network's step is some hundred kernels of a few microseconds, which Python cannot launch as
fast as a GPU runs them. Here the step is recorded once and replayed. Which rows, learning rates and
β come next the GPU itself looks up by a counter: between two steps Python only says "again".
"""

from __future__ import annotations

import torch
from torch import Tensor

from hlvnn.data.batches import Batches
from hlvnn.latents.posteriors.joint import Joint
from hlvnn.latents.table import dense_gradients
from hlvnn.step import Step

TRIAL_STEPS = 3
"""Steps done before one is recorded, in which optimisers and libraries make what they keep."""
MIN_STEPS = 100
"""Steps of a fit from which recording, some tenths of a second, is worth while."""
MAX_TABLE = 1 << 20
"""Numbers in the tables of groups up to which a step may touch them as a whole."""


class RecordedSteps:
    """The steps of full batches of rows that lie on the GPU, replayed.

    Not the last, smaller batch of an epoch, which `Step` does. On the CPU the same steps are done
    one by one without a recording.
    """

    def __init__(self, step: Step, batches: Batches) -> None:
        self.step, self.batches = step, batches
        self.device = batches.device
        self.per_epoch = batches.size // batches.batch_size
        self.stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self.graphs: dict[bool, torch.cuda.CUDAGraph] = {}
        self.tried = dict.fromkeys((True, False), 0)
        size = self.per_epoch * batches.batch_size
        self.order = torch.zeros(size, dtype=torch.int64, device=self.device)
        schedule = [
            [lr * step.lr_factor(number) for lr in step.base_lrs] + [step.beta(number)]
            for number in range(step.total)
        ]
        self.schedule = torch.tensor(schedule, device=self.device)
        self.now = self.schedule[:1].clone()  # [1, groups + 1]: the step's learning rates and β
        self.counter = torch.zeros(2, dtype=torch.int64, device=self.device)  # batch, step
        self.loss = torch.zeros((), device=self.device)
        self.sums = torch.zeros(1 + len(step.model.latents), device=self.device)

    @staticmethod
    def possible(step: Step, batches: object) -> bool:
        """Return whether a fit's steps are the same operations on the same memory every time."""
        return (
            isinstance(batches, Batches)
            and batches.resident
            and batches.batch_size < batches.size
            and not step.encoders
            and sum(table.numel() for table in step.tables) <= MAX_TABLE
            and not any(isinstance(latent.posterior, Joint) for latent in step.model.latents)
        )

    def begin(self, order: Tensor, number: int) -> None:
        """Begin an epoch with its order of rows [N] at the fit's step `number` (from 0)."""
        self.order.copy_(order[: len(self.order)])
        self.counter.copy_(torch.tensor([0, number]))
        self.sums.zero_()
        if self.stream is not None:
            self.stream.wait_stream(torch.cuda.current_stream(self.device))
        for index, group in enumerate(self.step.groups):
            group["lr"] = self.now[0, index]

    def __call__(self, number: int) -> None:
        """Do the fit's step `number` on the epoch's next batch."""
        warming = self.step.warming(number)
        if self.stream is None:
            self._once(warming)
            return
        with torch.cuda.stream(self.stream):
            if warming in self.graphs:
                self.graphs[warming].replay()
                return
            if self.tried[warming] < TRIAL_STEPS:
                self.tried[warming] += 1
                self._once(warming)
                return
        for optimizer in self.step.optimizers:
            optimizer.zero_grad()  # gradients are made anew inside, where they stay
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            self._once(warming)
        self.graphs[warming] = graph
        with torch.cuda.stream(self.stream):
            graph.replay()

    def end(self) -> Tensor:
        """Let what comes next wait for the epoch's steps; return sums over its rows.

        Of nll and each latent's share of the KL.
        """
        if self.stream is not None:
            torch.cuda.current_stream(self.device).wait_stream(self.stream)
        return self.sums

    def _once(self, warming: bool) -> None:
        at, number = self.counter.split(1)
        torch.index_select(self.schedule, 0, number, out=self.now)
        rows = self.order.view(self.per_epoch, -1).index_select(0, at)[0]
        with dense_gradients():
            batch = self.batches.gather(rows)
            loss, means = self.step.move(batch, self.now[0, -1], warming)
        self.loss.copy_(loss)
        self.sums.add_(means, alpha=self.batches.batch_size)
        self.counter.add_(1)
