"""Training steps as a CUDA graph.

A small network's step is some hundred kernels of a few microseconds, which Python cannot launch as
fast as a GPU runs them. Here the step is recorded once and replayed. Which rows, learning rates and
β come next the GPU itself looks up by a counter: between two steps Python only says "again".
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from hlvnn.data.batches import Batch, Batches
from hlvnn.errors import ResourceError
from hlvnn.latents.table import keeping_gradients_dense
from hlvnn.training.not_finite import NEVER
from hlvnn.training.pace import Pace
from hlvnn.training.step import Step

logger = logging.getLogger("hlvnn")

TRIAL_STEPS = 3
"""Steps done before one is recorded, in which optimisers and libraries make what they keep."""
AT_ONCE = 8
"""Steps of one recording."""
MIN_STEPS = 100
"""Steps of a fit from which recording, some tenths of a second, is worth while."""
MAX_TABLE = 1 << 20
"""Numbers in the tables of groups up to which a step may touch them as a whole."""


class RecordedSteps:
    """The steps of full batches of rows that lie on the GPU, replayed.

    Not the last, smaller batch of an epoch, which `Step` does. at_once: steps of one recording,
    which share the looking up. On the CPU the same steps are done without a recording.
    """

    def __init__(self, step: Step, batches: Batches, at_once: int = AT_ONCE) -> None:
        self.step, self.batches, self.at_once = step, batches, at_once
        self.device = batches.device
        self.per_epoch = batches.full
        self.stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self.graphs: dict[tuple[bool, int], torch.cuda.CUDAGraph] = {}
        # one graph's memory may be another's: none reads what was made before it began
        self.pool = torch.cuda.graph_pool_handle() if self.stream is not None else None
        self.tried = dict.fromkeys((True, False), 0)
        size = self.per_epoch * batches.batch_size
        self.order = torch.zeros(size, dtype=torch.int64, device=self.device)
        schedule = [
            [lr * step.lr_factor(number) for lr in step.base_lrs]
            + [step.beta(number), *step.pace(number)]
            for number in range(step.total)
        ]
        self.schedule = torch.tensor(schedule, device=self.device)
        self.ahead = torch.arange(at_once, device=self.device)
        self.counter = torch.zeros(2, dtype=torch.int64, device=self.device)  # batch, step
        self.loss = torch.zeros((), device=self.device)
        self.bad = torch.full((), NEVER, dtype=torch.int64, device=self.device)
        self.sums = torch.zeros(1 + len(step.model.latents), device=self.device)

    @staticmethod
    def is_possible(step: Step, batches: object) -> bool:
        """Return whether a fit's steps are the same operations on the same memory every time."""
        return (
            isinstance(batches, Batches)
            and batches.resident
            and batches.batch_size < batches.size
            and batches.full > 0
            and not step.encoders
            and sum(table.numel() for table in step.all_tables) <= MAX_TABLE
            and all(x.posterior.recordable and x.is_drawn_by_noise for x in step.model.latents)
        )

    def begin(self, order: Tensor, number: int) -> None:
        """Begin an epoch with its order of rows [N] at the fit's step `number` (from 0)."""
        self.order.copy_(order[: len(self.order)])
        self.counter.copy_(torch.tensor([0, number]))
        self.sums.zero_()
        if self.stream is not None:
            self.stream.wait_stream(torch.cuda.current_stream(self.device))

    def __call__(self, number: int, left: int) -> int:
        """Do the fit's step `number`, and some of the `left` of its epoch; return how many."""
        warming = self.step.is_warming(number)
        with torch.cuda.stream(self.stream):  # after the steps before; none on the CPU
            self.step.start_if_due(number)
        last = number + self.at_once - 1
        together = left >= self.at_once and self.step.is_warming(last) == warming
        steps = self.at_once if together else 1
        if self.stream is None:
            self._do(warming, steps)
            return steps
        if self.tried[warming] < TRIAL_STEPS:
            self.tried[warming] += 1
            with torch.cuda.stream(self.stream):
                self._do(warming, 1)
            return 1
        if (warming, steps) not in self.graphs:
            self.graphs[warming, steps] = self._record(warming, steps)
        with torch.cuda.stream(self.stream):
            self.graphs[warming, steps].replay()
        return steps

    def _record(self, warming: bool, steps: int) -> torch.cuda.CUDAGraph:
        for optimizer in self.step.optimizers:
            optimizer.zero_grad()  # gradients are made anew inside, where they stay
        graph = torch.cuda.CUDAGraph()
        noise = self.step.model.latents.source.noise
        if noise is not None:  # torch registers its own
            graph.register_generator_state(noise.generators[self.device.type])
        try:
            with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
                self._do(warming, steps)
        except RuntimeError as error:
            raise ResourceError(
                "the training step cannot be recorded as a CUDA graph: something in it waits for "
                f"the GPU ({str(error).splitlines()[0]}); use --cuda-graph off (a posterior of "
                "your own says so by recordable = False)"
            ) from error
        return graph

    def end(self) -> Tensor:
        """Let what comes next wait for the epoch's steps; return sums over its rows.

        Of nll and each latent's share of the KL.
        """
        if self.stream is not None:
            torch.cuda.current_stream(self.device).wait_stream(self.stream)
        return self.sums

    def _do(self, warming: bool, steps: int) -> None:
        at, number = (first + self.ahead[:steps] for first in self.counter.split(1))
        schedule = self.schedule.index_select(0, number)
        rows = self.order.view(self.per_epoch, -1).index_select(0, at).flatten()
        parts = (part.split(self.batches.batch_size) for part in self.batches.gather(rows))
        rates = len(self.step.base_lrs)
        told: list[Tensor] = []
        losses: list[Tensor] = []
        with keeping_gradients_dense():
            for now, *batch in zip(schedule, *parts, strict=True):
                for index, group in enumerate(self.step.groups):
                    group["lr"] = now[index]
                loss, means = self.step.move(
                    Batch(*batch), now[rates], warming, Pace(*now[rates + 1 :])
                )
                told += means
                losses.append(loss)
        self.loss.copy_(losses[-1])
        bad = torch.where(torch.stack(losses).isfinite(), NEVER, number).min()
        self.bad.copy_(torch.minimum(self.bad, bad))
        sums = torch.stack(told).view(steps, -1).sum(0)
        self.sums.add_(sums, alpha=self.batches.batch_size)
        self.counter.add_(steps)


def recorded(
    step: Step, batches: object, device: torch.device, *, is_each_told: bool
) -> RecordedSteps | None:
    """Return the steps of a fit as a CUDA graph, where that is possible and worth while.

    is_each_told: whether a callback looks at each, which forbids it. What does so is told.
    """
    config = step.config
    wanted = device.type == "cuda" and config.cuda_graph == "auto" and not config.debug
    if not wanted or step.total < MIN_STEPS or not RecordedSteps.is_possible(step, batches):
        return None
    asked = {"an on_step": is_each_told, "--grad-norms": config.grad_norms}
    asked |= {"--profile": config.profile}
    if slow := " and ".join(name for name, is_asked in asked.items() if is_asked):
        logger.info("with %s steps are not recorded as a CUDA graph, and are slower", slow)
        return None
    assert isinstance(batches, Batches)
    return RecordedSteps(step, batches, 1 if config.print_freq else AT_ONCE)
