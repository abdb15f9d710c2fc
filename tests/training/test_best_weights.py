"""A fit with patience ends with the weights of its chosen epoch; a run's files keep both."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch

from hlvnn import evaluate, load_run
from hlvnn.inference.objective import full_elbo
from hlvnn.training.execution import execute
from hlvnn.training.fit_result import Interrupted
from hlvnn.training.loop import Checkpoint, EpochReport, fit
from tests.helpers import same_bits, write_folder
from tests.runs import KilledError, assert_same_run, configured
from tests.training.fits import StoppedHere, case, saved, stopping_after, train

PATIENT: dict[str, Any] = {"num_epochs": 30, "patience": 2, "lr": 0.1}


class Keeping:
    """Keeps the weights and the checkpoint of each epoch."""

    def __init__(self) -> None:
        self.weights: dict[int, dict[str, torch.Tensor]] = {}
        self.kept: dict[int, Callable[[], Checkpoint]] = {}
        self.chosen = 0

    def __call__(self, now: EpochReport, checkpoint: Callable[[], Checkpoint]) -> None:
        self.weights[now.epoch] = saved(checkpoint())["model"]
        self.kept[now.epoch] = checkpoint
        assert now.chosen is not None
        self.chosen = int(now.chosen["epoch"])


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_model_has_the_weights_of_the_chosen_epoch(caplog: pytest.LogCaptureFixture) -> None:
    model, data, _ = case("dropout, draws, two levels")
    keeping = Keeping()
    with caplog.at_level(logging.INFO, logger="hlvnn"):
        result = fit(model, data, train(**PATIENT), keeping)
    assert result.stopped_early
    assert keeping.chosen == result.epochs - 2
    assert equal(model.state_dict(), keeping.weights[keeping.chosen])
    assert not equal(model.state_dict(), keeping.weights[result.epochs])
    row = result.history.set_index("epoch").loc[keeping.chosen]
    assert evaluate(model, data.val, 10).scalars["loss"] == row["val_loss"]
    assert result.elbo == full_elbo(model, data.train).value
    loss = f"val_loss {row['val_loss']:.4g}"
    line = f"the weights are of epoch {keeping.chosen}, the chosen one ({loss}), not of the last"
    assert [text for text in caplog.messages if text.startswith(line)] != []


def test_a_checkpoint_holds_the_last_epoch_whenever_it_is_made() -> None:
    model, data, _ = case("dropout, draws, two levels")
    keeping = Keeping()
    result = fit(model, data, train(**PATIENT), keeping)
    assert equal(keeping.kept[result.epochs]()["model"], keeping.weights[result.epochs])


@pytest.mark.parametrize("settings", [{"best_weights": False}, {}])
def test_the_last_weights_stay_where_that_is_asked_for_or_usual(settings: dict[str, bool]) -> None:
    model, data, _ = case("dropout, draws, two levels")
    keeping = Keeping()
    patience = PATIENT["patience"] if settings else None
    config = train(**{**PATIENT, "num_epochs": 8, "patience": patience})
    result = fit(model, data, config, keeping, **settings)
    assert keeping.chosen < result.epochs
    assert equal(model.state_dict(), keeping.weights[result.epochs])


def test_the_chosen_epochs_weights_can_be_had_without_patience() -> None:
    model, data, _ = case("dropout, draws, two levels")
    keeping = Keeping()
    result = fit(model, data, train(num_epochs=8, lr=0.1), keeping, best_weights=True)
    assert keeping.chosen < result.epochs
    assert equal(model.state_dict(), keeping.weights[keeping.chosen])


@pytest.mark.parametrize("back", [0, 1])
def test_a_fit_that_goes_on_after_its_chosen_epoch_ends_with_its_weights(back: int) -> None:
    """back: epochs between the chosen one and the checkpoint."""
    model, data, _ = case("dropout, draws, two levels")
    keeping = Keeping()
    fit(model, data, train(**PATIENT), keeping)
    kept: list[Checkpoint] = []
    again, data, _ = case("dropout, draws, two levels")
    with pytest.raises(StoppedHere):
        fit(again, data, train(**PATIENT), stopping_after(keeping.chosen + back, kept))
    resumed, data, _ = case("dropout, draws, two levels")
    fit(resumed, data, train(**PATIENT), resume=kept[0])
    assert same_bits(resumed, model)


def test_a_checkpoint_without_the_chosen_weights_is_told_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model, data, _ = case("dropout, draws, two levels")
    keeping = Keeping()
    result = fit(model, data, train(**PATIENT), keeping, best_weights=False)
    kept: list[Checkpoint] = []
    again, data, _ = case("dropout, draws, two levels")
    report = stopping_after(keeping.chosen + 1, kept)
    with pytest.raises(StoppedHere):
        fit(again, data, train(**PATIENT), report, best_weights=False)
    resumed, data, _ = case("dropout, draws, two levels")
    with caplog.at_level(logging.WARNING, logger="hlvnn"):
        fit(resumed, data, train(**PATIENT), resume=kept[0])
    assert f"the weights are of the last epoch, {result.epochs}: the chosen one, " in caplog.text
    assert same_bits(resumed, model)


def test_an_interrupted_fit_has_them_too() -> None:
    model, data, _ = case("dropout, draws, two levels")
    keeping = Keeping()

    class Interrupting:
        def on_step(self, model: object, step: Any) -> None:
            if step.number == 18:
                raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        fit(model, data, train(**PATIENT), keeping, callbacks=Interrupting())
    assert equal(model.state_dict(), keeping.weights[keeping.chosen])


def test_a_run_of_train_one_keeps_the_last_weights_and_goes_on_bit_for_bit(tmp_path: Any) -> None:
    config = configured(write_folder(tmp_path / "data"), num_epochs=30, patience=2, lr=0.1)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    result = execute(config, whole)
    assert result.stopped_early
    assert load_run(whole, "last").epoch == result.epochs
    assert load_run(whole, "best").epoch == result.epochs - 2
    last, best = (load_run(whole, which).model for which in ("last", "best"))
    assert not same_bits(last, best)
    assert result.elbo == full_elbo(last, load_run(whole).data.train).value

    def kill(epoch: EpochReport) -> None:
        if epoch.epoch == result.epochs - 1:
            raise KilledError

    with pytest.raises(KilledError):
        execute(config, cut, report=kill)
    execute(config, cut, resume=True)
    assert_same_run(cut, whole)
