"""What one asks of a sweep next: the order that was planted is told, and what it suggests."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from hlvnn.analysis import Results, questions

CURVES = {
    0: [5.0, 4.0, 3.0, 2.0],  # in the end the fourth of four
    1: [6.0, 3.5, 2.5, 1.5],
    2: [7.0, 3.0, 2.0, 1.0],
    3: [8.0, 2.5, 1.0, 0.5],  # the winner, and the last of five in the first epoch
    4: [9.0, 9.0],  # stopped
}


def planted(mode: str) -> Any:
    """Return what `early_order` asks of a sweep whose order turns round after the first epoch."""
    sign = 1 if mode == "min" else -1
    rows = [
        {"trial": trial, "epoch": epoch, "val_acc": sign * value}
        for trial, curve in CURVES.items()
        for epoch, value in enumerate(curve, 1)
    ]
    statuses = ["completed"] * 4 + ["stopped"]
    table = pd.DataFrame(
        {"trial": list(CURVES), "status": statuses, "epochs": [len(c) for c in CURVES.values()]}
    ).assign(unfinished=False)
    return SimpleNamespace(
        epochs=pd.DataFrame(rows), table=table, metric="val_acc", mode=mode, rungs=[2]
    )


@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_order_of_an_epoch_is_set_beside_that_in_the_end(mode: str) -> None:
    order = questions.early_order(planted(mode)).set_index("epoch")
    assert order["correlation"].tolist() == pytest.approx([-1, 1, 1, 1])
    assert order["winner_rank"].tolist() == [4, 1, 1, 1]
    assert order["of"].tolist() == [5, 5, 4, 4]
    assert order["cut"].tolist() == [0, 1, 0, 0]
    assert order["is_rung"].tolist() == [False, True, False, False]


def test_a_real_sweep_tells_its_order_and_its_next_steps(swept: Results) -> None:
    order = questions.early_order(swept).set_index("epoch")
    assert order.index.tolist() == [1, 2, 3, 4, 5, 6]
    assert order["trials"].tolist() == [4] * 6
    assert order.loc[2, "cut"] == 1, "the one that was only cut off is not counted"
    assert order["winner_rank"].iloc[-1] == 1
    steps = questions.next_steps(swept)
    assert any("--from-trial" in step for step in steps)
    alone = replace(swept, table=swept.table[swept.table["status"] != "completed"])
    assert questions.early_order(alone)["correlation"].isna().all()


def test_what_groups_have_in_common_is_the_reports_table(swept: Results) -> None:
    common = questions.in_common(swept)
    assert set(common["attribute"]) == {"rows"}
    assert common["groups"].sum() == 14
    assert common["weakest"].sum() == 1
