"""What `python -m hlvnn.analysis` does: a command of `commands.COMMANDS`, or else the report."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from hlvnn.analysis import commands
from hlvnn.errors import ConfigError, nearest, run_command
from hlvnn.storage import is_address

REPORT = "hlvnn.analysis.report"
"""The module whose `main(args)` writes the report of a sweep."""
HELP = """usage: python -m hlvnn.analysis SWEEP        the report of a sweep (its folder or address)
       python -m hlvnn.analysis COMMAND …   (each explains itself with --help)

"""


def main(args: Sequence[str]) -> int:
    """Run a command, or write a report."""
    if not args or args[0] in ("-h", "--help"):
        print(HELP + commands.summary())
        return 0 if args else 2
    if args[0] in commands.COMMANDS:
        return commands.run(args[0], args[1:])
    if not (args[0].startswith("-") or is_address(args[0]) or Path(args[0]).exists()):
        close = nearest(args[0], commands.COMMANDS)
        raise ConfigError(
            f"{args[0]!r} is neither a folder nor a command{close or '.'} Commands: "
            f"{', '.join(commands.COMMANDS)}."
        )
    code: int = importlib.import_module(REPORT).main(list(args))
    return code


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
