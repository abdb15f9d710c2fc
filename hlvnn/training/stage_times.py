"""What a recording of torch's profiler tells of each stage that is marked (`hlvnn.marks`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from torch.autograd import DeviceType  # type: ignore[attr-defined]

from hlvnn.marks import BACKWARD, EVALUATION, OTHER, PREFIX

STEP = "step"
"""The part of a fit that is no evaluation."""
ENGINE = "autograd::engine::evaluate_function"
"""What the events of a backward pass begin with, each of one operation of the forward pass."""
FORWARD_PASS, BACKWARD_PASS = "forward", "backward"

Row = tuple[str, str, str]
"""Part, stage, pass."""


@dataclass
class _Sum:
    calls: int = 0
    cpu: float = 0.0
    gpu: float = 0.0


@dataclass
class _Marked:
    """A mark's event; inside: time of other threads while it waits, which is not its own."""

    row: Row
    start: float
    end: float
    inside: float = 0.0


@dataclass
class StageTimes:
    """Sums of recordings, by part of the fit, stage and pass; times in microseconds."""

    sums: dict[Row, _Sum] = field(default_factory=dict)
    on_gpu: bool = False

    def add(self, events: Iterable[Any], part: str = STEP) -> None:
        """Take in the events of a recording (`torch.profiler.profile.events()`).

        Time is an event's own, without that of events inside it. It is its mark's, or, of a
        backward pass, that of the mark in which the operation was done forward. part: what the
        recording is of, but for evaluations in it.
        """
        on_cpu = [e for e in events if e.device_type == DeviceType.CPU]
        on_cpu.sort(key=lambda e: (e.time_range.start, -e.time_range.end))
        threads: dict[int, list[Any]] = {}
        for event in on_cpu:
            threads.setdefault(event.thread, []).append(event)
        ordered = sorted(threads.values(), key=lambda own: not any(_mark(e) for e in own))
        forward: dict[int, Row] = {}
        waiting: list[_Marked] = []
        for number, own in enumerate(ordered):
            self._add_thread(own, part, forward, waiting, is_main=number == 0)
        for mark in waiting:
            self._of(mark.row).cpu -= min(mark.inside, mark.end - mark.start)

    def _of(self, row: Row) -> _Sum:
        return self.sums.setdefault(row, _Sum())

    def _add_thread(
        self,
        events: Sequence[Any],
        part: str,
        forward: dict[int, Row],
        waiting: list[_Marked],
        *,
        is_main: bool,
    ) -> None:
        """Take in the events of a thread; the main one comes first and says what was forward."""
        backward = (part, BACKWARD, BACKWARD_PASS)
        stack: list[tuple[float, Row]] = []
        for event in events:
            start, end = event.time_range.start, event.time_range.end
            while stack and stack[-1][0] <= start:
                stack.pop()
            name = _mark(event)
            if not stack and name is None and is_main:
                continue  # of what is done between steps
            row = stack[-1][1] if stack else (part, OTHER, FORWARD_PASS) if is_main else backward
            if name is not None:
                within = EVALUATION if EVALUATION in (name, row[0]) else row[0]
                row = (within, name, BACKWARD_PASS if name == BACKWARD else FORWARD_PASS)
                self._of(row).calls += 1
                if name == BACKWARD:
                    waiting.append(_Marked(row, start, end))
            elif event.name.startswith(ENGINE):
                row = _turned(forward.get(event.sequence_nr), backward)
                self._of(row).calls += 1
                if not is_main:
                    waited = [mark for mark in waiting if mark.start <= start < mark.end]
                    for mark in waited:
                        mark.inside += end - start
            elif event.sequence_nr >= 0 and row[2] == FORWARD_PASS:
                forward[event.sequence_nr] = row  # the last one made the node
            own = self._of(row)
            own.cpu += event.self_cpu_time_total
            kernels = [kernel for kernel in event.kernels if not kernel.name.startswith(PREFIX)]
            own.gpu += sum(kernel.duration for kernel in kernels)
            self.on_gpu |= bool(kernels)
            stack.append((end, row))

    def table(self, times: dict[str, int]) -> pd.DataFrame:
        """Return a row per stage and pass; times: by how many each part is divided.

        Columns part, stage, pass, calls (all), cpu_ms and cpu_share of its part; with a GPU also
        gpu_ms and gpu_share. The slowest come first, the parts one after the other.
        """
        rows: list[dict[str, object]] = []
        for (part, stage, direction), one in self.sums.items():
            each = times.get(part, 1) * 1000.0
            told: dict[str, object] = {"part": part, "stage": stage, "pass": direction}
            told |= {"calls": one.calls, "cpu_ms": one.cpu / each, "gpu_ms": one.gpu / each}
            rows.append(told)
        columns = ["part", "stage", "pass", "calls", "cpu_ms", "gpu_ms"]
        table = pd.DataFrame(rows, columns=columns)
        by = "gpu_ms" if self.on_gpu else "cpu_ms"
        for unit in ("cpu", "gpu"):
            total = table.groupby("part")[f"{unit}_ms"].transform("sum")
            table[f"{unit}_share"] = table[f"{unit}_ms"] / total.where(total > 0)
        table["later"] = table["part"] != STEP
        table = table.sort_values(["later", by], ascending=[True, False], kind="stable")
        left_out = ["later"] + ([] if self.on_gpu else ["gpu_ms", "gpu_share"])
        return table.drop(columns=left_out).reset_index(drop=True)


def _mark(event: Any) -> str | None:
    """Return what is marked by an event, None where it is an operation's."""
    name = str(event.name)
    return name.removeprefix(PREFIX) if name.startswith(PREFIX) else None


def _turned(row: Row | None, otherwise: Row) -> Row:
    return otherwise if row is None else (row[0], row[1], BACKWARD_PASS)
