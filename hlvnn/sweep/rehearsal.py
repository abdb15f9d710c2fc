"""What a sweep's searcher and journal make of a space, tried out before anything starts.

Optuna's samplers draw their first trials at random and only then look at those that ended, and a
journal brings back what it was given as JSON has it. So what a space draws may be refused by its
searcher after ten trials, and by a journal at once. Here a journal in a temporary folder
is asked for as many draws, and told made-up results.
"""

from __future__ import annotations

import random
import tempfile
import warnings
from pathlib import Path

from hlvnn.errors import ConfigError
from hlvnn.records.journal import Journal
from hlvnn.search_space import Space
from hlvnn.sweep.options import SweepConfig
from hlvnn.sweep.searchers import sampler
from hlvnn.words import Settings

TRIALS = 12
"""Draws that are tried: searchers that learn do so from the eleventh on."""
REOPENED = TRIALS - 1
"""Before this one the journal is read anew, as by a driver that goes on."""


def rehearse(options: SweepConfig, space: Space, fixed: Settings) -> None:
    """Draw some trials as the sweep will, to see that it can.

    Raises `ConfigError` where searcher or journal cannot do with what the space draws.
    """
    invented = random.Random(options.seed)
    modes = [mode for _, mode in space.objectives]
    with tempfile.TemporaryDirectory(prefix="hlvnn-rehearsal-") as folder:
        study = Journal.create(Path(folder), *modes).study
        for number in range(min(TRIALS, options.num_trials)):
            try:
                if number == REOPENED:
                    study = Journal.open(Path(folder)).study
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    study.sampler = sampler(options.searcher, options.seed, number)
                    trial = study.ask()
                    space.drawing(trial, number, options.seed, fixed)
                if number + 1 < options.num_trials:  # the last point of a grid ends its study
                    study.tell(trial, [invented.random() for _ in modes])
            except Exception as error:  # what samplers make of values has no end
                kind = "" if isinstance(error, ConfigError) else f"{type(error).__name__}: "
                raise ConfigError(
                    f"--searcher {options.searcher}: {space.path} cannot be drawn from in trial "
                    f"{number}: {kind}{error}"
                ) from error
