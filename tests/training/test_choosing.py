"""The chosen epoch: one rule, planted where the loss and the accuracy disagree."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from hlvnn import load_run
from hlvnn.config import TrainConfig
from hlvnn.errors import ConfigError
from hlvnn.models.build import build_model
from hlvnn.records.checkpoint import load_checkpoint
from hlvnn.records.predictions import read_predictions
from hlvnn.records.run_folder import BEST, CHECKPOINT, HYPERPARAMS, read_metrics, selection_of
from hlvnn.selection import Selection, mode_of
from hlvnn.training import loop
from hlvnn.training.execution import execute
from hlvnn.training.loop import EpochReport, fit
from tests.helpers import grouped_data, small_config
from tests.runs import KilledError, configured
from tests.training.fits import train

PLANTED = {  # epoch -> validation loss and accuracy: the loss is best at 2, the accuracy at 4
    1: (0.9, 0.5),
    2: (0.3, 0.6),
    3: (0.8, 0.8),
    4: (0.7, 0.8),
    5: (0.7, 0.8),
    6: (math.nan, 0.9),
}


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every run measure the planted values."""
    measure = loop._Fit._evaluate

    def evaluate(self: Any, sums: list[float]) -> Any:
        row, *others = measure(self, sums)
        row["val_loss"], row["val_acc"] = PLANTED[int(row["epoch"])]
        return row, *others

    monkeypatch.setattr(loop._Fit, "_evaluate", evaluate)


def rows() -> list[dict[str, float]]:
    return [
        {"epoch": epoch, "val_loss": loss, "val_acc": acc, "diverged": 0.0}
        for epoch, (loss, acc) in PLANTED.items()
    ]


@pytest.mark.parametrize(
    ("metric", "mode", "epoch"),
    [("val_loss", "min", 2), ("val_acc", "max", 6), ("val_acc", "min", 1), ("val_f1", "max", None)],
)
def test_rows_and_tables_choose_alike(metric: str, mode: str, epoch: int | None) -> None:
    selection = Selection(metric, mode)
    row, of_table = selection.chosen(rows()), selection.chosen_of(pd.DataFrame(rows()))
    assert (row and row["epoch"], of_table and of_table["epoch"]) == (epoch, epoch)


def test_ties_go_to_the_lower_loss_then_to_the_earlier_and_never_to_a_diverged_epoch() -> None:
    five = rows()[:5]
    for chosen in (
        Selection("val_acc", "max").chosen(five),
        Selection("val_acc", "max").chosen_of(pd.DataFrame(five)),
    ):
        assert chosen is not None
        assert chosen["epoch"] == 4
    five[3]["diverged"] = five[4]["diverged"] = 1.0
    chosen = Selection("val_acc", "max").chosen_of(pd.DataFrame(five))
    assert chosen is not None
    assert chosen["epoch"] == 3
    five = [row | {"diverged": 1.0} for row in five]
    assert Selection("val_acc", "max").chosen_of(pd.DataFrame(five)) is None


@pytest.mark.parametrize(
    ("metric", "is_class", "mode"),
    [
        ("val_loss", True, "min"),
        ("val_acc", True, "max"),
        ("val_mse", False, "min"),
        ("val_group_p10", True, "max"),
        ("val_group_p10", False, "min"),
        ("val_zeal", True, None),
        ("test_acc", True, None),
    ],
)
def test_which_end_is_better_is_known(metric: str, is_class: bool, mode: str | None) -> None:
    assert mode_of(metric, is_class) == mode


@pytest.mark.usefixtures("planted")
@pytest.mark.parametrize(("flags", "epoch"), [({}, 2), ({"select_on": "val_acc"}, 4)])
def test_weights_rows_and_records_are_those_of_the_chosen_epoch(
    image_folder: Path, tmp_path: Path, flags: dict[str, Any], epoch: int
) -> None:
    folder = tmp_path / "run"
    execute(configured(image_folder, num_epochs=5, **flags), folder)
    assert load_run(folder, "best").epoch == epoch
    found = read_predictions(folder)
    assert found is not None
    assert found.epoch == epoch
    chosen = selection_of(folder).chosen_of(read_metrics(folder))
    assert chosen is not None
    assert chosen["epoch"] == epoch
    metric = flags.get("select_on", "val_loss")
    record = json.loads((folder / HYPERPARAMS).read_text(encoding="utf-8"))
    assert record["config"]["select_on"] == metric
    for name in (BEST, CHECKPOINT):
        kept = load_checkpoint(folder / name)["selection"]
        assert kept == {"metric": metric, "mode": "max" if metric == "val_acc" else "min"}
    assert f"{metric}" in (folder / "train.log").read_text(encoding="utf-8")


@pytest.mark.usefixtures("planted")
@pytest.mark.parametrize(("select_on", "epochs"), [("val_loss", 4), ("val_acc", 5)])
def test_patience_waits_by_the_same_rule(select_on: str, epochs: int) -> None:
    data = grouped_data(rows=60)
    model = build_model(small_config(), data, seed=0)
    settings = train(num_epochs=6, patience=2, select_on=select_on)
    result = fit(model, data, settings.model_copy(update={"num_epochs": 5}))
    assert result.epochs == epochs


@pytest.mark.usefixtures("planted")
def test_an_older_checkpoints_best_loss_is_not_compared_with_an_accuracy(
    image_folder: Path, tmp_path: Path
) -> None:
    """Such a checkpoint holds `best`, a loss of .3, and nothing of what chose it."""
    data = grouped_data(rows=60)
    kept: list[dict[str, Any]] = []
    settings = train(num_epochs=5, select_on="val_acc")

    def keep(now: EpochReport, checkpoint: Any) -> None:
        if now.epoch == 2:
            kept.append(checkpoint())
            raise KilledError

    model = build_model(small_config(), data, seed=0)
    with pytest.raises(KilledError):
        fit(model, data, settings, keep)
    old = {k: v for k, v in kept[0].items() if k != "selection"} | {"best": 0.3, "waited": 0}
    told: list[tuple[int, bool]] = []
    fit(
        build_model(small_config(), data, seed=0),
        data,
        settings,
        lambda now, _: told.append((now.epoch, now.is_best)),
        resume=old,
    )
    assert told == [(3, True), (4, True), (5, False)]
    with pytest.raises(ConfigError, match=r"chosen by val_acc \(max\); go on with that"):
        fit(model, data, train(num_epochs=5), resume=kept[0])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"select_on": "val_accuracy"}, "unknown validation column 'val_accuracy'; did you mean"),
        ({"select_on": "val_loss", "select_mode": "max"}, "a loss is better low"),
    ],
)
def test_a_metric_that_is_not_measured_is_refused_before_anything_is_written(
    image_folder: Path, tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        execute(configured(image_folder, **settings), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_only_validation_rows_may_choose() -> None:
    with pytest.raises(ValueError, match="only measures of validation rows may choose"):
        TrainConfig(select_on="test_acc")


def test_without_validation_rows_the_training_loss_chooses_and_the_log_says_so(
    image_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    execute(configured(image_folder, val_fraction=0.0, num_epochs=1), folder)
    log = (folder / "train.log").read_text(encoding="utf-8")
    assert "no validation rows: the training loss chooses the epoch of best.pt" in log
    with pytest.raises(ConfigError, match="no validation rows to select on"):
        execute(configured(image_folder, val_fraction=0.0, select_on="val_acc"), tmp_path / "other")
