"""The debugger, opened where an error came up: in our own code, not in the library under it."""

from __future__ import annotations

import importlib.util
import pdb  # noqa: T100 (it is what --debug opens)
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import hlvnn
from hlvnn.errors import HlvnnError, NotFiniteError
from hlvnn.training import failure

PACKAGE = Path(hlvnn.__file__).parent
WATCHMEN = {Path(failure.__file__), Path(__file__)}
"""Files that find an error and are not where it is."""


@contextmanager
def opening_where_it_happened() -> Iterator[None]:
    """Show an error with its traceback and, at a terminal, open the debugger where it happened.

    What a user can mend by another flag or file is told as everywhere, in one message.
    """
    try:
        yield
    except HlvnnError as error:
        if not isinstance(error, NotFiniteError):
            raise
        _show(error)
        raise
    except Exception as error:
        _show(error)
        raise


def _show(error: Exception) -> None:
    traceback.print_exception(error)
    if sys.stdin.isatty():
        post_mortem(up_to_ours(error.__traceback__))


def up_to_ours(trace: TracebackType | None) -> TracebackType | None:
    """Return a traceback that ends in the innermost frame of our code or of the user's.

    A frame of an installed library, or of what looks out for errors, is not the place to look at.
    All of it where there is no other.
    """
    frames = []
    while trace is not None:
        frames.append(trace)
        trace = trace.tb_next
    last = [number for number, one in enumerate(frames) if _is_ours(one)]
    found: TracebackType | None = None
    for one in reversed(frames[: last[-1] + 1] if last else frames):
        found = TracebackType(found, one.tb_frame, one.tb_lasti, one.tb_lineno)
    return found


def _is_ours(trace: TracebackType) -> bool:
    path = Path(trace.tb_frame.f_code.co_filename).resolve()
    if path in WATCHMEN:
        return False
    installed = {"site-packages", "dist-packages"} & set(path.parts)
    standard = path.is_relative_to(Path(traceback.__file__).parent)
    return path.is_relative_to(PACKAGE) or not (installed or standard or not path.exists())


def post_mortem(trace: TracebackType | None) -> None:
    """Open ipdb where it is installed, else pdb."""
    if importlib.util.find_spec("ipdb") is not None:
        importlib.import_module("ipdb").post_mortem(trace)
    else:
        pdb.post_mortem(trace)
