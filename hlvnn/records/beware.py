"""What a run that ended well is nevertheless in doubt of, in sentences."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pandas as pd

from hlvnn.columns import VAL, VAL_LOSS
from hlvnn.errors import RunError
from hlvnn.files import read_json
from hlvnn.latents.collapse import HAS_COLLAPSED
from hlvnn.models.doubts import SINGULAR
from hlvnn.records.run_folder import HYPERPARAMS, RESULT

GUESS = "guess"
"""Entry of `HYPERPARAMS`: by split the loss of guessing by what the training rows hold."""
GUESSING = "guessing by the training rows' distribution"
DOUBTS = "doubts"
"""Entry of `RESULT`, where there are any: sentences on the fit's variances."""


def told_of(folder: Path, metrics: pd.DataFrame) -> list[str]:
    """Return what is to be said of a run beside how it ended."""
    sentences = [worse_than_guessing(folder, metrics)]
    with suppress(RunError, KeyError, TypeError):  # it has not ended, or is older
        sentences += [str(sentence) for sentence in read_json(folder / RESULT)[DOUBTS]]
    return [sentence for sentence in sentences if sentence]


def is_in_doubt(reason: str) -> bool:
    """Return whether a reason has such a sentence in it."""
    return any(mark in reason for mark in (GUESSING, SINGULAR, HAS_COLLAPSED))


def worse_than_guessing(folder: Path, metrics: pd.DataFrame) -> str:
    """Return a sentence where a run's least validation loss is above that of guessing, else "".

    Guessing is by the training rows' frequencies of classes, or a real target's mean and SD (see
    `GUESS`); an older run does not know it.
    """
    if VAL_LOSS not in metrics or not metrics[VAL_LOSS].notna().any():
        return ""
    try:
        guess = float(read_json(folder / HYPERPARAMS)[GUESS][VAL])
    except (RunError, KeyError, TypeError, ValueError):
        return ""
    least = float(metrics[VAL_LOSS].min())
    if least <= guess:
        return ""
    return f"its validation loss never fell below {least:.4g}, and {GUESSING} alone has {guess:.4g}"
