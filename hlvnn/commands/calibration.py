"""Whether a run's uncertainty comes true, as a figure.

python -m hlvnn.analysis calibration RUN
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

from pydantic import Field
from rich.table import Table

from hlvnn.analysis import canvas
from hlvnn.analysis.calibration_figures import draw_classes, draw_real
from hlvnn.analysis.places import data_of
from hlvnn.commands.run_options import RunOptions
from hlvnn.errors import DataError
from hlvnn.inference import calibration
from hlvnn.terminal import text_of

if TYPE_CHECKING:
    pass

logger = logging.getLogger("hlvnn")


WORST = 5
"""Groups that are printed: those whose confidence is furthest from what came true."""


class CalibrationOptions(RunOptions):
    """Draw how often what the model calls likely comes true."""

    split: Literal["train", "val", "test"] = "test"
    """Rows to score; training rows flatter a model."""
    num_samples: int = Field(50, gt=0)
    """Draws of z averaged in a prediction."""


def calibrated(options: CalibrationOptions) -> None:
    """Write the figure and the table by group, and print the overall row and the worst groups."""
    run = options.open()
    splits = data_of(run).splits()
    if options.split not in splits:
        raise DataError(
            f"{options.run}: its data have no {options.split} rows; there are: {', '.join(splits)}"
        )
    split, model = splits[options.split], run.model
    samples = options.num_samples
    if run.schema.target.kind == "class":
        table = calibration.scores(model, split, num_samples=samples)
        reliability = calibration.reliability(model, split, num_samples=samples)
        figure = draw_classes(reliability, table)
        off = (table["confidence"] - table["acc"]).abs()
        measures = ["acc", "confidence", "ece", "brier"]
    else:
        table = calibration.coverage(model, split, num_samples=samples)
        figure = draw_real(calibration.pit(model, split, num_samples=samples), table)
        off = (table["coverage_90"] - 0.9).abs()
        measures = [str(name) for name in table if str(name).startswith("coverage_")]
    out = options.target(f"calibration_{options.split}")
    canvas.save(figure, table, out)
    shown = Table(box=None, title=f"all {options.split} rows, and the groups furthest off")
    for name in ("level", "group", "rows", *measures):
        shown.add_column(name, justify="left" if name in ("level", "group") else "right")
    worst = off[1:].nlargest(WORST).index
    for index in [0, *worst]:
        row = table.loc[index]
        numbers = [f"{row[name]:.3f}" for name in measures]
        shown.add_row(row["level"] or "all", str(row["label"]), f"{row['n']:,}", *numbers)
    logger.info(text_of(shown))
    logger.info(canvas.written(out))
