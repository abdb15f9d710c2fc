"""What a fit shows by itself: a line on a terminal or in a notebook, where no report is given."""

from __future__ import annotations

import logging
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

logger = logging.getLogger("hlvnn")

SECONDS = 0.5
"""Between two lines of progress."""


def is_notebook() -> bool:
    """Return whether this process runs the cells of a notebook."""
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module is not None else None
    return type(shell).__name__ == "ZMQInteractiveShell"


class Line:
    """A line at the end of the output that is written over."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.length, self.shown = stream, 0, 0.0

    def show(self, text: str, *, at_once: bool = False) -> None:
        """Show a text in place of the last one, unless that is too young."""
        now = time.monotonic()
        if at_once or now - self.shown >= SECONDS:
            text = text[: shutil.get_terminal_size().columns - 1]
            self.stream.write(f"\r{text:<{self.length}}")
            self.stream.flush()
            self.length, self.shown = len(text), now

    def end(self) -> None:
        """Leave the line as it is; what comes next begins on a new one."""
        if self.length:
            self.stream.write("\n")
            self.stream.flush()
        self.length = 0


class _Beside(logging.StreamHandler[TextIO]):
    def __init__(self, line: Line) -> None:
        super().__init__(line.stream)
        self.line = line
        self.setFormatter(logging.Formatter("%(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self.line.end()
        super().emit(record)


@contextmanager
def showing_progress(wanted: bool, steps_too: bool) -> Iterator[Callable[[str, bool], None] | None]:
    """Yield what shows a line of progress (its text, whether it is the last), or None.

    wanted: nobody else reports. On a terminal or in a notebook the line is shown, with what the
    logger tells above it; elsewhere only the logger's lines, and only where `steps_too` (lines of
    steps were asked for). A logger that somebody listens to is left as it is.
    """
    live = wanted and (sys.stdout.isatty() or is_notebook())
    if not live and not (wanted and steps_too):
        yield None
        return
    line = Line(sys.stdout)
    listening = not logger.hasHandlers()
    handler, level = _Beside(line), logger.level
    if listening:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        yield (lambda text, last: line.show(text, at_once=last)) if live else None
    finally:
        line.end()
        if listening:
            logger.setLevel(level)
            logger.removeHandler(handler)
