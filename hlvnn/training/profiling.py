"""`--profile`: torch's profiler for some steps and an evaluation."""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.autograd.profiler import profile

from hlvnn import marks
from hlvnn.config import TrainConfig
from hlvnn.data.batches import Batch
from hlvnn.data.grouped import Split
from hlvnn.marks import EVALUATION
from hlvnn.models.model import HierarchicalModel
from hlvnn.training.callbacks import Callbacks
from hlvnn.training.passes import scored
from hlvnn.training.profile import Profile
from hlvnn.training.stage_times import STEP, StageTimes

logger = logging.getLogger("hlvnn")

WARM = 5
"""Steps before those that are recorded: the first ones make what is kept, and are slow."""
RECORDED = 20
"""Steps that are recorded; of a shorter fit three quarters."""
EVENTS = "traceEvents"
"""Where a trace has its events."""
TRAINING, REPORT = "training", "report and files"


class Profiler:
    """Records some steps of a fit, and an evaluation, where `profile` asks for it.

    evaluated: the splits that an epoch scores; total: steps that the fit has, 0 where it has none.
    """

    def __init__(
        self,
        model: HierarchicalModel,
        config: TrainConfig,
        evaluated: Mapping[str, Split],
        total: int,
    ) -> None:
        self.model, self.config, self.evaluated = model, config, evaluated
        self.gpu = model.device.type if model.device.type == "cuda" else None
        self.first = min(WARM, total // 4)
        self.wanted = min(RECORDED, total - self.first)
        self.is_over = not config.profile
        self.done = self.steps = self.rows = 0
        self.running: profile | None = None
        self.finished: list[tuple[str, profile]] = []
        self.marks = ExitStack()
        self.seconds: dict[str, float] = {TRAINING: 0.0}
        self.epoch = 0
        self.own = 0.0  # seconds of an epoch that starting and stopping took
        self.profile: Profile | None = None

    def each(self, batches: Iterable[Batch]) -> Iterable[Batch]:
        """Return the batches of an epoch; what the loop does with each is a step."""
        return batches if self.is_over else self._each(batches)

    def _each(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        iterator = iter(batches)
        while True:
            if self.done == self.first and self.running is None:
                self._start()
            with marks.marking(marks.OTHER):
                with marks.marking(marks.DATA):
                    batch = next(iterator, None)
                if batch is None:
                    return
                yield batch
            self.done += 1
            self.steps += self.running is not None
            if self.steps == self.wanted:
                self.stop()

    def _start(self) -> None:
        begun = time.perf_counter()
        self.marks.enter_context(marks.switching_on())
        if self.gpu is not None:
            with _recording(self.gpu):
                pass  # the first one loads what it needs
        self.running = _recording(self.gpu).__enter__()
        self.own += time.perf_counter() - begun

    def stop(self) -> None:
        """Record no more steps."""
        begun = time.perf_counter()
        if self.running is not None:
            self.running.__exit__(None, None, None)
            self.finished.append((STEP, self.running))
            self.marks.close()
        self.running = None
        self.own += time.perf_counter() - begun

    @contextmanager
    def timing(self, name: str) -> Iterator[None]:
        """Time a part of an epoch; an evaluation is marked."""
        if self.is_over:
            yield
            return
        begun = time.perf_counter()
        with marks.marking(name) if name == EVALUATION else nullcontext():
            yield
        self.seconds[name] = time.perf_counter() - begun
        if name == EVALUATION and self.running is not None:
            self.rows += sum(map(len, self.evaluated.values()))

    def tell(self, epoch: int, seconds: float, callbacks: Callbacks) -> None:
        """Tell of what was recorded, after an evaluated epoch, when all was.

        seconds: that the epoch was trained; callbacks: who else is told.
        """
        if self.is_over:
            return
        self.seconds[TRAINING] = seconds - self.own
        self.own = 0.0
        self.epoch = epoch
        if self.steps == self.wanted:
            self.end(callbacks)

    def end(self, callbacks: Callbacks) -> None:
        """Tell of what was recorded, of a fit that ends."""
        if self.is_over:
            return
        self.stop()
        self.is_over = True
        if not self.steps or not self.epoch:
            logger.info("--profile: the fit had no steps after the first few: nothing was recorded")
            return
        self._evaluate()
        times = StageTimes()
        trace: dict[str, Any] = {EVENTS: []}
        for part, own in self.finished:
            times.add(own.function_events, part)
            one = _trace_of(own)
            one[EVENTS] = trace[EVENTS] + one[EVENTS]
            trace = one
        self.finished = []
        table = times.table({STEP: self.steps})
        self.profile = Profile(table, self.steps, self.rows, self.epoch, self.seconds, trace)
        logger.info("%s", self.profile)
        callbacks.profile(self.profile)

    def _evaluate(self) -> None:
        """Record an evaluation of some rows, if none was."""
        for name, split in {} if self.rows else self.evaluated.items():
            number = min(len(split), RECORDED * (self.config.batch_size or len(split)))
            some = {name: split.subset(torch.arange(number, device=split.y.device))}
            own = _recording(self.gpu)
            with marks.switching_on(), own, marks.marking(EVALUATION):
                scored(self.model, some, self.config.eval_samples, self.epoch)
            self.finished.append((EVALUATION, own))
            self.rows = number
            return


def _recording(gpu: str | None) -> profile:
    """Return what records a block; `torch.profiler` is the same, and imports a compiler first."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it tells on stderr when it starts and stops
    return profile(use_device=gpu, use_kineto=True)


def _trace_of(recording: profile) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace"
        recording.export_chrome_trace(str(path))
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
