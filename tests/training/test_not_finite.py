"""The first step whose loss is no number: when, on whose rows, and where it began."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

import hlvnn
from hlvnn.commands import train_one as train_one_command
from hlvnn.config import TrainConfig
from hlvnn.data.batches import Batches
from hlvnn.errors import run_command
from hlvnn.training.cuda_graph import RecordedSteps
from hlvnn.training.loop import fit
from hlvnn.training.not_finite import NEVER, Watch
from hlvnn.training.step import Step
from tests.helpers import generator, grouped_data, tiny_model

BATCH = 12


class Spoiled:
    """Makes a parameter NaN before a step of the fit."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step: int, name: str) -> None:
        self.index: torch.Tensor | None = None
        move = Step.__call__

        def spoil(own: Step, batch: object, number: int) -> object:
            if number == step:
                with torch.no_grad():
                    own.model.get_parameter(name).view(-1)[0] = torch.nan
                self.index = batch.index  # type: ignore[attr-defined]
            return move(own, batch, number)  # type: ignore[arg-type]

        monkeypatch.setattr(Step, "__call__", spoil)


def test_the_step_its_groups_and_the_tensor_are_told_at_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    data = grouped_data(rows=48)
    model = tiny_model(data, latent_config=("factor",))
    name = "backbone.layers.hidden2.bias"
    spoiled = Spoiled(monkeypatch, 6, name)
    reported = []
    config = TrainConfig(num_epochs=5, batch_size=BATCH, device="cpu")
    result = fit(model, data, config, lambda epoch, _: reported.append(epoch))
    assert result.diverged
    assert result.epochs == 2
    assert [epoch.diverged for epoch in reported] == [False, True]
    told = caplog.text
    assert "step 7 (epoch 2, step 3 of 4): the loss is no longer a finite number" in told
    assert spoiled.index is not None
    groups = sorted(data.train.groups[spoiled.index, 0].unique().tolist())
    whose = told.partition("its 12 rows are of writer ")[2].partition(";")[0]
    named = whose.partition(" and ")[0].split(", ")
    assert {int(group) for group in named} <= set(groups)
    assert len(named) == min(5, len(groups))
    assert f"the first tensor that is not finite: the parameter {name}. The fit ends" in told
    bad = [key for key, value in model.named_parameters() if not value.isfinite().all()]
    assert bad == [name], "nothing else was touched"


@pytest.mark.parametrize(
    ("stage", "where"),
    [
        ("hidden1", "the output of backbone.layers.hidden1"),
        ("output", "the output of backbone.layers.output"),
    ],
)
def test_a_stage_that_overflows_is_named(
    stage: str, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    data = grouped_data()
    model = tiny_model(data)
    with torch.no_grad():
        model.get_parameter(f"backbone.layers.{stage}.weight").fill_(3e38)
    assert fit(model, data, TrainConfig(num_epochs=3, batch_size=BATCH, device="cpu")).diverged
    assert f"the first tensor that is not finite: {where}" in caplog.text
    assert "step 1 (epoch 1, step 1 of 4)" in caplog.text


def test_recorded_steps_keep_the_first_bad_one() -> None:
    """As on a GPU, but without a recording."""
    data = grouped_data(rows=480)
    model = tiny_model(data)
    config = TrainConfig(num_epochs=2, batch_size=BATCH, device="cpu")
    batches = Batches(data.train, BATCH, generator=generator())
    step = Step(model, config, None, len(batches))
    recorded = RecordedSteps(step, batches)
    order = batches.order()
    recorded.begin(order, 0)
    done = 0
    while done < recorded.per_epoch:
        if done >= 16:
            with torch.no_grad():
                model.get_parameter("backbone.layers.output.bias").fill_(torch.nan)
        else:
            assert int(recorded.bad) == NEVER
        done += recorded(done, recorded.per_epoch - done)
    watch = Watch(model, data, lambda _: 1.0)
    watch.read_recorded(recorded.bad, order, 0, BATCH)
    assert watch.found == 16
    assert torch.equal(watch.rows[16], order[16 * BATCH : 17 * BATCH])


def test_a_run_that_diverges_says_so_in_its_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--dataset", "digits", "--latent-config", "factor", "--lr", "1e30", "--num-epochs"]
    flags += ["3", "--results-dir", str(tmp_path)]
    logging.getLogger("hlvnn").handlers.clear()
    with pytest.raises(SystemExit):
        run_command(lambda: train_one_command.main(flags))
    (log,) = tmp_path.rglob("train.log")
    text = log.read_text(encoding="utf-8")
    assert "the loss is no longer a finite number; its 200 rows are of writer " in text
    assert "the first tensor that is not finite: the " in text
    assert "Traceback" not in capsys.readouterr().err


def test_in_python_it_is_told_too(caplog: pytest.LogCaptureFixture) -> None:
    data = grouped_data()
    result = hlvnn.fit(tiny_model(data), data, TrainConfig(num_epochs=3, lr=1e30, device="cpu"))
    assert result.diverged
    assert caplog.text.count("The fit ends here, as diverged; a smaller --lr") == 1
