"""What Ray (2.60) gets wrong when nodes are lost, mended for as long as a sweep runs.

To mend it, private parts of Ray are replaced: those of the one version that the tests run with. In
another, or where a part is missing, nothing is replaced, and what that means is told.
"""

from __future__ import annotations

import importlib
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import ray

VERSION = "2.60."
"""Of Ray, whose private parts these are: pyproject.toml asks for it."""
NOTICE_WIDTH = 160
"""Characters of a notice that are shown."""
LOOP = "ray.tune.execution.tune_controller:TuneController"


@dataclass(frozen=True)
class Mend:
    """A part of Ray that is replaced."""

    module: str
    name: str
    """What is replaced, in the module."""
    needs: tuple[str, ...]
    """What the replacement uses besides: MODULE:NAME, or an attribute of a class."""
    without: str
    """What happens where it is not replaced."""

    @property
    def missing(self) -> list[str]:
        """What of it this Ray lacks."""
        names = (f"{self.module}:{self.name}", *self.needs)
        return [name for name in names if not is_there(name)]


LOSSES = Mend(
    module="ray.tune.tune",
    name="TuneController",
    needs=(
        f"{LOOP}._process_trial_failure",
        f"{LOOP}._resetting_trials",
        f"{LOOP}._trial_to_actor",
        f"{LOOP}._started_actors",
        f"{LOOP}.add_trial",
        "ray.tune.experiment:Trial.create_placement_group_factory",
        "ray.exceptions:RayActorError.preempted",
    ),
    without=(
        "a trial whose node is lost before it runs, or is not as it must be, may fail for good, "
        "whatever --max-failures says"
    ),
)
NOTICES = Mend(
    module="ray._private.worker",
    name="print_to_stdstream",
    needs=(),
    without="Ray's notices of lost nodes are printed at full length",
)


LOOPBACK = Mend(
    module="ray._private.services",
    name="resolve_ip_for_localhost",
    needs=(),
    without="a Ray on this machine listens on all its interfaces",
)


@contextmanager
def on_loopback() -> Iterator[None]:
    """Let Ray be started at 127.0.0.1: it takes that address for "whichever others can reach"."""
    with ExitStack() as stack:
        if not LOOPBACK.missing:
            stack.enter_context(_replacing(LOOPBACK, lambda host: host))
        yield


@contextmanager
def mending(tell: Callable[[str], None]) -> Iterator[None]:
    """Let Ray Tune use `ray_controller.Controller`, and tell Ray's notices in a line each.

    Such a notice (a node was lost, say) is up to a hundred lines of a log, which Ray prints over
    whatever is on the terminal. What cannot be mended is told in a line.
    """
    if not ray.__version__.startswith(VERSION):
        tell(
            f"Ray {ray.__version__} is not mended: its private parts are known of {VERSION}x, with "
            f"which the sweeps are tested; here {LOSSES.without}, and {NOTICES.without}"
        )
        yield
        return
    with ExitStack() as stack:
        if _is_whole(LOSSES, tell):
            from hlvnn.sweep.ray_controller import Controller

            stack.enter_context(_replacing(LOSSES, Controller))
        _is_whole(LOOPBACK, tell)  # replaced while Ray starts
        if _is_whole(NOTICES, tell):
            stack.enter_context(_replacing(NOTICES, _notice(tell)))
        yield


def is_there(name: str) -> bool:
    """Return whether a MODULE:NAME exists; the last part may be what a class's objects begin with.

    These are seen in what its `__init__` sets: there is no object yet.
    """
    module, _, path = name.partition(":")
    try:
        owner: Any = importlib.import_module(module)
    except ImportError:
        return False
    *owners, last = path.split(".")
    for part in owners:
        owner = getattr(owner, part, None)
    made = [getattr(one.__init__, "__code__", None) for one in getattr(owner, "__mro__", ())]
    return hasattr(owner, last) or any(code and last in code.co_names for code in made)


def _is_whole(mend: Mend, tell: Callable[[str], None]) -> bool:
    """Return whether a part can be replaced; where it cannot, tell why and what that means."""
    if mend.missing:
        tell(
            f"Ray {ray.__version__} is not wholly mended: it lacks {', '.join(mend.missing)}; "
            f"{mend.without}"
        )
    return not mend.missing


@contextmanager
def _replacing(mend: Mend, other: Any) -> Iterator[None]:
    module = importlib.import_module(mend.module)
    before = getattr(module, mend.name)
    setattr(module, mend.name, other)
    try:
        yield
    finally:
        setattr(module, mend.name, before)


def _notice(tell: Callable[[str], None]) -> Callable[..., None]:
    """Return what prints a notice of Ray's: its first line, once where it comes again."""
    told = ""

    def notice(data: dict[str, Any], ignore_prefix: bool) -> None:
        nonlocal told
        for text in data["lines"]:
            first, *_ = str(text).strip().splitlines() or [""]
            if first != told:
                tell(f"Ray: {textwrap.shorten(first, NOTICE_WIDTH, placeholder=' …')}")
            told = first

    return notice
