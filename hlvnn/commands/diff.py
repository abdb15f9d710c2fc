"""Where two runs differ.

python -m hlvnn.analysis diff results/digits/RUN results/digits/SWEEP/trial_0003
"""

from __future__ import annotations

import logging
from typing import Literal

import tyro

from hlvnn.analysis import difference
from hlvnn.storage import Place
from hlvnn.strict import Config

logger = logging.getLogger("hlvnn")


class DiffOptions(Config):
    """Where two runs differ: settings, data, code, the first epoch, rows and groups."""

    a: tyro.conf.Positional[Place]
    """Folder of a run or of a sweep's trial, or its address (s3://…)."""
    b: tyro.conf.Positional[Place]
    """The other one."""
    split: Literal["val", "test"] | None = None
    """Whose rows are compared; none given = test rows where both keep some, else validation."""


def diff(options: DiffOptions) -> None:
    """Print where they differ."""
    logger.info("%s", difference.diff(options.a, options.b, split=options.split))
