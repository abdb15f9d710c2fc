"""The commands of `python -m hlvnn.analysis`: each is a function and the model of its flags."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tyro

from hlvnn.analysis import (
    calibrated,
    find,
    latent_space,
    probe,
    promote,
    prune,
    sampling,
    watch,
)
from hlvnn.show import to_terminal
from hlvnn.strict import Config


@dataclass(frozen=True)
class Command:
    """One command: what it does with its options."""

    function: Callable[[Any], None]
    options: type[Config]


COMMANDS = {
    "space": Command(latent_space.space, latent_space.SpaceOptions),
    "neighbours": Command(latent_space.neighbours, latent_space.NeighbourOptions),
    "probe": Command(probe.probe, probe.ProbeOptions),
    "generate": Command(sampling.generate, sampling.GenerateOptions),
    "calibration": Command(calibrated.calibrated, calibrated.CalibrationOptions),
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
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
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
