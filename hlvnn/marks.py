"""Marks of what a fit does, by which `--profile` tells where the time goes.

While nobody profiles, a mark is a look at one variable.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

from torch.autograd.profiler import record_function

T = TypeVar("T")

PREFIX = "hlvnn: "
"""What a mark begins with in a trace."""
DATA = "data: a batch's rows"
AUGMENTATION = "data: augmentation"
INPUT = "network: input"
"""What the network does before its first stage."""
LAWS = "latents: laws and draws"
KL = "latents: KL"
LIKELIHOOD = "likelihood"
LOSS = "loss, the rest"
BACKWARD = "backward, the rest"
OPTIMISER = "optimiser"
GROUPS = "steps of groups, priors and noise"
OTHER = "other, between the marks"
NORMS = "gradient norms"
WATCH = "watch for what is not finite"
TOLD = "callbacks and progress"
EPOCH_END = "end of an epoch"
EVALUATION = "evaluation"
METRICS = "metrics by row and group"


class _Nothing:
    """A mark while nobody profiles."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass


_nothing = _Nothing()
_on = [False]


def are_on() -> bool:
    """Whether somebody profiles."""
    return _on[0]


def marking(name: str) -> AbstractContextManager[object]:
    """Mark what the block does, where somebody profiles."""
    return record_function(PREFIX + name) if _on[0] else _nothing


@contextmanager
def switching_on() -> Iterator[None]:
    """Let marks be written as long as the block runs."""
    before, _on[0] = _on[0], True
    try:
        yield
    finally:
        _on[0] = before


def marked_each(items: Iterable[T], name: str) -> Iterator[T]:
    """Yield the items, what it takes to get each being marked."""
    iterator = iter(items)
    end = object()
    while True:
        with marking(name):
            item = next(iterator, end)
        if item is end:
            return
        yield item  # type: ignore[misc]


def stage(name: str) -> str:
    """Return the mark of a backbone's stage, with all that follows it until the next."""
    return f"network: {name}"


def latents_at(name: str) -> str:
    """Return the mark of what latents do at a stage."""
    return f"latents: enter at {name}"
