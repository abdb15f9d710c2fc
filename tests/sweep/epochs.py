"""What Ray is told of the epochs of a trial."""

from __future__ import annotations

import math

from hlvnn.sweep.trainable import scalars


def rows(values: list[float], num_epochs: int = 9) -> list[dict[str, float]]:
    told = ({"epoch": n, "diverged": 0.0, "val_acc": value} for n, value in enumerate(values, 1))
    return [scalars(row, num_epochs, {"val_acc": -math.inf}) for row in told]
