"""What `python -m hlvnn.analysis` does: a command of `COMMANDS`, or else the report."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from hlvnn.commands import (
    calibration,
    columns,
    data_efficiency,
    diff,
    find,
    generate,
    ls,
    neighbours,
    probe,
    promote,
    prune,
    report,
    space,
    watch,
)
from hlvnn.errors import ConfigError, nearest, run_command
from hlvnn.storage import is_address
from hlvnn.strict import Config
from hlvnn.terminal import to_terminal

HELP = """usage: python -m hlvnn.analysis SWEEP        the report of a sweep (its folder or address)
       python -m hlvnn.analysis COMMAND …   (each explains itself with --help)

"""


@dataclass(frozen=True)
class Command:
    """One command: what it does with its options."""

    function: Callable[[Any], None]
    options: type[Config]


COMMANDS = {
    "space": Command(space.space, space.SpaceOptions),
    "neighbours": Command(neighbours.neighbours, neighbours.NeighbourOptions),
    "probe": Command(probe.probe, probe.ProbeOptions),
    "generate": Command(generate.generate, generate.GenerateOptions),
    "calibration": Command(calibration.calibrated, calibration.CalibrationOptions),
    "data-efficiency": Command(
        data_efficiency.data_efficiency, data_efficiency.DataEfficiencyOptions
    ),
    "diff": Command(diff.diff, diff.DiffOptions),
    "ls": Command(ls.ls, ls.LsOptions),
    "columns": Command(columns.columns, columns.ColumnsOptions),
    "watch": Command(watch.watch, watch.WatchOptions),
    "find": Command(find.find, find.FindOptions),
    "promote": Command(promote.promote, promote.PromoteOptions),
    "prune": Command(prune.prune, prune.PruneOptions),
}


def run(name: str, args: Sequence[str]) -> int:
    """Run a command with its flags; return the exit code."""
    command = COMMANDS[name]
    options = tyro.cli(
        command.options,
        prog=f"python -m hlvnn.analysis {name}",
        args=args,
        config=(tyro.conf.OmitArgPrefixes,),
    )
    to_terminal()
    command.function(options)
    return 0


def summary() -> str:
    """Return a line for each command: its name and the first sentence of its options."""
    width = max(map(len, COMMANDS))
    return "\n".join(
        f"  {name:<{width}}  {(command.options.__doc__ or '').strip().splitlines()[0]}"
        for name, command in COMMANDS.items()
    )


def main(args: Sequence[str]) -> int:
    """Run a command, or write a report."""
    if not args or args[0] in ("-h", "--help"):
        print(HELP + summary())
        return 0 if args else 2
    if args[0] in COMMANDS:
        return run(args[0], args[1:])
    if not (args[0].startswith("-") or is_address(args[0]) or Path(args[0]).exists()):
        close = nearest(args[0], COMMANDS)
        raise ConfigError(
            f"{args[0]!r} is neither a folder nor a command{close or '.'} Commands: "
            f"{', '.join(COMMANDS)}."
        )
    return report.main(args)


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
