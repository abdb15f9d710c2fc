"""ASHA: a diverged trial, the last epoch, and a sweep that goes on."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from hlvnn.errors import ConfigError
from hlvnn.sweep.schedulers import MAKERS, Rules
from hlvnn.sweep.trainable import scalars


def trial(number: int) -> SimpleNamespace:
    return SimpleNamespace(trial_id=f"id {number}", config={"trial": number})


def row(epoch: int, value: float, diverged: int = 0) -> dict[str, float]:
    return {"epoch": epoch, "num_epochs": 9, "val_acc": value, "diverged": diverged}


def asha() -> Any:
    return MAKERS["asha"](Rules("val_acc", "max", max_epochs=9, grace_period=1, reduction_factor=3))


def decisions(scheduler: Any, number: int, values: list[float]) -> str:
    """Report a trial's values, an epoch each; return "STOP at" that epoch, or ""."""
    scheduler.on_trial_add(None, trial(number))
    for epoch, value in enumerate(values, start=1):
        if scheduler.on_trial_result(None, trial(number), row(epoch, value)) == "STOP":
            return f"STOP at {epoch}"
    return ""


def test_a_diverged_trial_neither_stalls_nor_softens_asha() -> None:
    scheduler = asha()
    for number in range(6):  # infinities in a rung would make its percentile NaN
        scheduler.on_trial_add(None, trial(number))
        told = row(1, -math.inf, diverged=1)
        assert scheduler.on_trial_result(None, trial(number), told) == "CONTINUE"
        scheduler.on_trial_complete(None, trial(number), told)
    assert decisions(scheduler, 10, [0.5]) == ""
    assert decisions(scheduler, 11, [0.4]) == "STOP at 1"
    assert "val_acc 0.4 at epoch 1" in scheduler.reasons["id 11"]


def test_the_last_epoch_is_not_stopped() -> None:
    scheduler = asha()
    assert decisions(scheduler, 0, [0.9] * 9) == ""
    assert decisions(scheduler, 1, [0.91] * 8 + [0.1]) == ""


def test_a_refilled_asha_decides_as_an_uninterrupted_one() -> None:
    history = {0: [0.5, 0.6, 0.7], 1: [0.6, 0.65, 0.68], 2: [0.3]}
    whole, resumed = asha(), asha()
    for number, values in history.items():
        decisions(whole, number, values)
    rows = {
        number: [row(epoch, value) for epoch, value in enumerate(values, 1)]
        for number, values in history.items()
    }
    resumed.refill([rows[0], rows[2]], {1: rows[1]})
    resumed.on_trial_add(None, trial(1))
    rungs = [
        [sorted(recorded.values()) for _, recorded in scheduler.inner._brackets[0]._rungs]
        for scheduler in (whole, resumed)
    ]
    assert rungs[0] == rungs[1]
    # its own earlier results do not count twice
    assert resumed.on_trial_result(None, trial(1), row(3, 0.68)) == "CONTINUE"
    assert decisions(resumed, 3, [0.4]) == "STOP at 1"


def test_what_ray_is_told_of_an_epoch() -> None:
    known = {"epoch": 2, "val_acc": 0.5, "val_group_worst": 0.1, "diverged": 0.0}
    assert scalars(known, 9, {"val_acc": -math.inf})["val_acc"] == 0.5
    assert scalars(known | {"val_acc": math.nan}, 9, {"val_acc": -math.inf})["val_acc"] == -math.inf
    gone = scalars({"epoch": 1, "diverged": 1.0}, 9, {"val_loss": math.inf})
    assert (gone["val_loss"], gone["diverged"]) == (math.inf, 1)
    with pytest.raises(ConfigError, match="'val_f1' is not measured; there are: val_acc"):
        scalars(known, 9, {"val_f1": -math.inf})
    exact = scalars(known | {"epoch": 1, "exact": 1.0}, 9, {"val_acc": -math.inf})
    assert exact["num_epochs"] == 1  # it was fitted exactly: there is no second epoch
    assert scalars(known | {"exact": math.nan}, 9, {"val_acc": -math.inf})["num_epochs"] == 9
