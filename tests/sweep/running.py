"""Sweeps that really run, in this process."""

from __future__ import annotations

import io

from rich.console import Console

from hlvnn.commands import tune_search
from hlvnn.sweep import driver, plan


def sweep(*args: str) -> tuple[int, str]:
    """Run a sweep by the flags of its command; return its exit code and what it printed."""
    planned = plan.of(tune_search.parse(list(args)))
    output = io.StringIO()
    code = driver.run(planned, Console(file=output, width=160))
    return code, output.getvalue()
