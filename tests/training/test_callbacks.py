"""Callbacks of a fit: what they are told, how they end it, and that they change nothing else."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from hlvnn import evaluate
from hlvnn.errors import ConfigError
from hlvnn.models.model import HierarchicalModel
from hlvnn.training.callbacks import Callbacks, StepReport
from hlvnn.training.cuda_graph import recorded
from hlvnn.training.loop import EpochReport, _Fit, fit
from tests.helpers import same_bits
from tests.training.fits import case, saved, train, untimed

LINE = "with an on_step steps are not recorded as a CUDA graph, and are slower"
NAMES = ["dropout, draws, two levels", "points"]


class Noting:
    """Keeps all that it is told, and draws, scores and forgets modes meanwhile."""

    def __init__(self, data: Any = None) -> None:
        self.steps: list[StepReport] = []
        self.epochs: list[EpochReport] = []
        self.data = data

    def on_step(self, model: HierarchicalModel, step: StepReport) -> None:
        assert model.training
        self.steps.append(step)
        torch.randn(3)
        model.eval()

    def on_epoch(self, model: HierarchicalModel, epoch: EpochReport) -> None:
        self.epochs.append(epoch)
        torch.randn(5)
        if self.data is not None:
            found = evaluate(model, self.data.val, 10).scalars["loss"]
            assert found == epoch.row["val_loss"]


class Ending:
    """Ends a fit at a step or an epoch."""

    def __init__(self, answer: object, **at: int) -> None:
        self.answer, self.at = answer, at

    def on_step(self, model: HierarchicalModel, step: StepReport) -> object:
        return self.answer if step.number == self.at.get("step") else None

    def on_epoch(self, model: HierarchicalModel, epoch: EpochReport) -> object:
        return self.answer if epoch.epoch == self.at.get("epoch") else False


@pytest.mark.parametrize("name", NAMES)
def test_steps_and_epochs_are_told_and_the_fit_is_the_same(name: str) -> None:
    model, data, settings = case(name)
    plain = fit(model, data, settings)
    other, data, settings = case(name)
    noting = Noting(data)
    told = fit(other, data, settings, callbacks=noting)
    assert same_bits(model, other)
    pd.testing.assert_frame_equal(untimed(plain.history), untimed(told.history), check_exact=True)
    assert [step.number for step in noting.steps] == list(range(1, 17))
    assert [step.epoch for step in noting.steps] == [1] * 4 + [2] * 4 + [3] * 4 + [4] * 4
    first = torch.cat([step.index for step in noting.steps[:4]])
    assert first.sort().values.tolist() == list(range(50))
    assert [len(step.index) for step in noting.steps[:4]] == [16, 16, 16, 2]
    row = told.history.iloc[0]
    last = noting.steps[int(row["epoch"]) * 4 - 1]
    assert last.lr == row["lr"]
    assert [epoch.row["val_loss"] for epoch in noting.epochs] == told.history["val_loss"].tolist()


def test_the_losses_of_an_epochs_steps_are_its_training_loss() -> None:
    model, data, _ = case("no latents")
    noting = Noting()
    history = fit(model, data, train(num_epochs=2), callbacks=[noting]).history
    for epoch, row in enumerate(history["train_loss"], start=1):
        steps = [step for step in noting.steps if step.epoch == epoch]
        mean = np.average([s.loss for s in steps], weights=[len(s.index) for s in steps])
        assert mean == pytest.approx(row, rel=1e-5)


@pytest.mark.parametrize("answer", [True, np.True_])
def test_an_epoch_can_be_the_last(answer: object) -> None:
    model, data, settings = case("dropout, draws, two levels")
    noting = Noting()
    result = fit(model, data, settings, callbacks=[Ending(answer, epoch=2), noting])
    assert result.epochs == 2
    assert result.stopped_early
    assert len(noting.epochs) == 2  # those after it are told as well
    assert np.isfinite(result.elbo)


def test_a_step_can_be_the_last_and_its_epoch_is_reported_whole() -> None:
    model, data, settings = case("points")  # evaluated every other epoch
    reports: list[EpochReport] = []
    kept: list[Any] = []

    def report(epoch: EpochReport, checkpoint: Any) -> None:
        reports.append(epoch)
        kept.append(saved(checkpoint()))

    noting = Noting()
    result = fit(model, data, settings, report, callbacks=[noting, Ending(True, step=10)])
    assert [step.number for step in noting.steps] == list(range(1, 11))
    assert [epoch.epoch for epoch in reports] == [2, 3]
    assert (result.epochs, result.stopped_early, result.diverged) == (3, True, False)
    row, third = reports[-1].row, [step for step in noting.steps if step.epoch == 3]
    assert len(third) == 2
    assert row["train_loss"] == pytest.approx(np.mean([step.loss for step in third]), rel=1e-5)
    assert {"val_loss", "test_loss", "elbo"} <= row.keys()
    assert kept[-1]["epoch"] == 3
    other, data, settings = case("points")
    assert fit(other, data, settings, resume=kept[-1]).epochs == 4


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        ([print], "callbacks: <built-in function print> has neither on_step(model, step) nor on_"),
        (Ending(0.25, step=2), "on_step returned 0.25; expected True to end the fit, or nothing"),
        (Ending("yes", epoch=1), "on_epoch returned 'yes'; expected True"),
    ],
)
def test_what_is_no_callback_is_refused(callbacks: object, message: str) -> None:
    model, data, settings = case("no latents")
    with pytest.raises(ConfigError) as told:
        fit(model, data, settings, callbacks=callbacks)
    assert message in str(told.value)


@pytest.mark.parametrize("given", [True, False])
def test_steps_that_could_be_recorded_are_not_where_one_is_told_of_each(
    given: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """On a CPU nothing is recorded: the fit is made here, and takes itself to be on a GPU's."""
    model, data, _ = case("dropout, draws, two levels")
    callbacks = Callbacks(Noting() if given else (), model)
    cpu = torch.device("cpu")
    run = _Fit(model, data, train(num_epochs=50), cpu, 0, callbacks)
    gpu, told = torch.device("cuda"), bool(callbacks.on_step)
    with caplog.at_level(logging.INFO, logger="hlvnn"):
        found = recorded(run.step, run.batches, gpu, is_each_told=told)
    assert (found is None) == given
    assert caplog.messages == [LINE] * given


@pytest.mark.gpu
@pytest.mark.parametrize("given", [True, False])
def test_with_an_on_step_no_graph_is_recorded(
    given: bool, caplog: pytest.LogCaptureFixture
) -> None:
    model, data, _ = case("dropout, draws, two levels")
    noting = Noting()
    with caplog.at_level(logging.INFO, logger="hlvnn"):
        settings = train(num_epochs=50, device="cuda")
        fit(model, data, settings, callbacks=noting if given else ())
    said = [text for text in caplog.messages if "CUDA graph" in text]
    assert said == [LINE] * given
    assert len(noting.steps) == 200 * given
