"""A pass through a backbone whose stages are marked, for who profiles it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.autograd.profiler import record_function

from hlvnn import marks
from hlvnn.backbones.base import Backbone
from hlvnn.stages import Enter, Recurrence


class _Marked:
    """The hook of such a pass; it marks each stage with all that follows it until the next.

    A stage begins where the module of its name is called, or the latents of a recurrence are asked
    for; one without such a module where the stage before it has ended.
    """

    def __init__(self, backbone: Backbone, enter: Enter) -> None:
        self.enter, self.order = enter, list(backbone.stages)
        self.modules: dict[str, nn.Module] = {}
        for path, module in backbone.named_modules():
            name = path.rpartition(".")[2]
            if name in backbone.stages:
                self.modules.setdefault(name, module)
        self.name = marks.INPUT
        self.open: record_function | None = None

    def begin(self, name: str | None) -> None:
        """End the mark that is open, and begin another unless it is the same."""
        if name == self.name and self.open is not None:
            return
        if self.open is not None:
            self.open.__exit__(None, None, None)
        self.open = None
        if name is not None:
            self.name, self.open = name, record_function(marks.PREFIX + name)
            self.open.__enter__()

    def __call__(self, stage: str, h: Tensor, pre: Tensor) -> Tensor:
        with marks.marking(marks.latents_at(stage)):
            pre = self.enter(stage, h, pre)
        after = self.order[self.order.index(stage) + 1 :] if stage in self.order else []
        if after and after[0] not in self.modules:
            self.begin(marks.stage(after[0]))
        return pre

    def recurrence(self, stage: str) -> Recurrence:
        self.begin(marks.stage(stage))
        with marks.marking(marks.latents_at(stage)):
            return self.enter.recurrence(stage)


@contextmanager
def marking_stages(backbone: Backbone, enter: Enter) -> Iterator[Enter]:
    """Give the hook for a pass whose stages are marked; `enter`: the one that it would have."""
    marked = _Marked(backbone, enter)

    def beginning(name: str) -> Any:
        return lambda *_: marked.begin(marks.stage(name))

    hooks = [
        module.register_forward_pre_hook(beginning(name)) for name, module in marked.modules.items()
    ]
    marked.begin(marks.INPUT)
    try:
        yield marked
    finally:
        marked.begin(None)
        for hook in hooks:
            hook.remove()
