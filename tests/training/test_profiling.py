"""`--profile`: a stage that is planted as slow is named; what is profiled is the same fit."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import DeviceType  # type: ignore[attr-defined]

from hlvnn import marks
from hlvnn.commands import train_one
from hlvnn.config import TrainConfig
from hlvnn.data.rows import TensorRows
from hlvnn.latents.placements.film import Film
from hlvnn.models.build import build_model
from hlvnn.records.run_folder import LOG, PROFILE, TRACE, read_config
from hlvnn.training import profiling
from hlvnn.training.callbacks import Callbacks
from hlvnn.training.cuda_graph import recorded
from hlvnn.training.group_steps import GroupSteps
from hlvnn.training.loop import _Fit, fit
from hlvnn.training.profile import Profile
from hlvnn.training.stage_times import StageTimes
from tests.helpers import grouped_data, same_bits, small_config
from tests.training.fits import case, train, untimed

HEAVY = 0.04
"""Seconds that a planted loop takes: far more than all else in a step of a tiny model."""


def heavy() -> None:
    until = time.perf_counter() + HEAVY
    while time.perf_counter() < until:
        pass


def after(function: Callable[..., Any]) -> Callable[..., Any]:
    def slow(*args: Any, **kwargs: Any) -> Any:
        heavy()
        return function(*args, **kwargs)

    return slow


class SlowBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        heavy()
        return gradient


def plant(where: str, patch: pytest.MonkeyPatch, network: nn.ModuleDict) -> None:
    if where in network:
        patch.setattr(network[where], "forward", after(network[where].forward))
    elif where == "backward":
        forward = network["hidden2"].forward
        patch.setattr(network["hidden2"], "forward", lambda x: SlowBackward.apply(forward(x)))
    else:
        owner, name = {
            "rows": (TensorRows, "take"),
            "film": (Film, "forward"),
            "groups": (GroupSteps, "move"),
        }[where]
        patch.setattr(owner, name, after(getattr(owner, name)))


@pytest.mark.parametrize(
    ("where", "stage", "direction"),
    [
        ("hidden1", "network: hidden1", "forward"),
        ("backward", "network: hidden2", "backward"),
        ("rows", marks.DATA, "forward"),
        ("film", "latents: enter at hidden2", "forward"),
        ("groups", marks.GROUPS, "forward"),
    ],
)
def test_what_is_slow_is_told(
    where: str, stage: str, direction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = grouped_data(rows=40)
    config = small_config("mlp", z_dim=2, latents=["film@hidden2 level=writer width=2"])
    model = build_model(config, data, seed=1)
    layers = model.backbone.layers
    assert isinstance(layers, nn.ModuleDict)
    plant(where, monkeypatch, layers)
    monkeypatch.setattr("hlvnn.data.batches.CPU_CHUNK", 1)  # rows are fetched step by step
    settings = TrainConfig(num_epochs=1, batch_size=10, profile=True, device="cpu")
    profile = fit(model, data, settings, lambda *_: None).profile
    assert profile is not None
    assert profile.slowest == stage
    first = profile.table.iloc[0]
    assert (first["stage"], first["pass"]) == (stage, direction)
    assert profile.steps == 3
    assert first["calls"] >= 3
    assert 1000 * HEAVY <= first["cpu_ms"] < 4000 * HEAVY
    share = first["cpu_ms"] / profile.table.loc[profile.table["part"] == "step", "cpu_ms"].sum()
    assert first["cpu_share"] == pytest.approx(share)
    of_step = profile.table[profile.table["part"] == "step"]
    both = of_step.loc[of_step["stage"] == stage, "cpu_share"].sum()  # and backward
    assert f"slowest: {stage} ({both:.0%})" in str(profile)
    assert {*profile.table["part"]} == {"step", "evaluation"}


def test_it_is_the_same_fit_told_once_with_the_times_of_an_epoch(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profiling, "WARM", 1)
    monkeypatch.setattr(profiling, "RECORDED", 2)
    plain_model, data, settings = case("dropout, draws, two levels")
    settings = settings.model_copy(update={"num_epochs": 2})
    plain = fit(plain_model, data, settings, lambda *_: None)
    model, data, settings = case("dropout, draws, two levels")
    told: list[Profile] = []

    class Told:
        def on_profile(self, of: object, profile: Profile) -> None:
            assert of is model
            told.append(profile)

    settings = settings.model_copy(update={"profile": True, "num_epochs": 2})
    with caplog.at_level(logging.INFO, logger="hlvnn"):
        found = fit(model, data, settings, lambda *_: time.sleep(0.05), callbacks=Told())
    assert same_bits(plain_model, model)
    pd.testing.assert_frame_equal(untimed(plain.history), untimed(found.history), check_exact=True)
    assert told == [found.profile]
    assert str(told[0]) in caplog.messages
    assert list(told[0].seconds) == ["training", "evaluation", "report and files"]
    assert 0.05 <= told[0].seconds["report and files"] < 1
    assert not marks.are_on()
    assert marks.marking("a") is marks.marking("b"), "a mark is nothing while nobody profiles"


def test_a_long_epoch_is_recorded_in_part_and_so_is_its_evaluation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(profiling, "RECORDED", 4)
    data = grouped_data(rows=120)
    model = build_model(small_config("mlp", latent_config="factor", z_dim=2), data, seed=1)
    settings = train(num_epochs=1, batch_size=6, profile=True)
    profile = fit(model, data, settings, lambda *_: None).profile
    assert profile is not None
    assert profile.steps == profiling.RECORDED
    assert profile.rows == 24, "of the validation rows"
    steps = profile.table[profile.table["part"] == "step"]
    assert steps.loc[steps["stage"] == "network: hidden1", "calls"].iloc[0] == profiling.RECORDED
    names = {event.get("name") for event in profile.trace["traceEvents"]}
    assert {"hlvnn: network: hidden1", "hlvnn: evaluation", "aten::addmm"} <= names


def test_a_command_names_the_slow_stage_and_keeps_table_and_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forward = nn.Conv2d.forward

    def slow(self: nn.Conv2d, x: Tensor) -> Tensor:
        if self.in_channels > 1 and self.training:  # the second one
            heavy()
            heavy()
        return forward(self, x)

    monkeypatch.setattr(nn.Conv2d, "forward", slow)
    monkeypatch.setattr(profiling, "RECORDED", 3)
    flags = ["--dataset", "digits", "--fast", "--results-dir", str(tmp_path)]
    assert train_one.main([*flags, "--latent-config", "film", "--profile", "--name", "slow"]) == 0
    shown = capsys.readouterr().out
    assert "slowest: network: conv2" in shown
    folder = tmp_path / "tests" / "slow"
    table = pd.read_csv(folder / PROFILE)
    assert table.loc[0, "stage"] == "network: conv2"
    trace = json.loads((folder / TRACE).read_text())
    assert any(event.get("name") == "hlvnn: network: conv2" for event in trace["traceEvents"])
    assert f"the trace: {folder / TRACE} (open it at https://ui.perfetto.dev)" in shown
    assert "slowest: network: conv2" in (folder / LOG).read_text()
    assert read_config(folder).train.profile
    again = train_one.parse(["--from-trial", str(folder), "--results-dir", str(tmp_path)])
    assert not again.train.profile, "what is only shown is not repeated"
    assert not train_one.parse(["--resume", str(folder)]).train.profile


def test_where_there_are_no_steps_it_says_so(caplog: pytest.LogCaptureFixture) -> None:
    data = grouped_data(target="real")
    model = build_model(small_config("linear", latent_config="bias"), data, seed=1)
    with caplog.at_level(logging.INFO, logger="hlvnn"):
        found = fit(model, data, train(profile=True), lambda *_: None)
    assert found.profile is None
    assert any("--profile: the fit had no steps" in text for text in caplog.messages)


def test_steps_are_not_recorded_as_a_graph_and_that_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model, data, _ = case("dropout, draws, two levels")
    settings = train(num_epochs=50, profile=True)
    run = _Fit(model, data, settings, torch.device("cpu"), 0, Callbacks((), model))
    with caplog.at_level(logging.INFO, logger="hlvnn"):
        found = recorded(run.step, run.batches, torch.device("cuda"), is_each_told=False)
    assert found is None
    line = "with --profile steps are not recorded as a CUDA graph, and are slower"
    assert caplog.messages == [line]


def event(name: str, start: int, end: int, own: int, **more: Any) -> SimpleNamespace:
    """Return an event as torch's profiler has it; gpu: microseconds of its kernel."""
    kernels = [SimpleNamespace(name="kernel", duration=more["gpu"])] if "gpu" in more else []
    return SimpleNamespace(
        name=name,
        time_range=SimpleNamespace(start=start, end=end),
        self_cpu_time_total=own,
        kernels=kernels,
        thread=more.get("thread", 1),
        sequence_nr=more.get("sequence_nr", -1),
        device_type=more.get("device_type", DeviceType.CPU),
    )


def test_of_a_gpu_backward_kernels_are_their_stages() -> None:
    """There the backward pass is a thread of its own, for which the main one waits."""
    events = [
        event("hlvnn: other", 0, 100, 10),
        event("hlvnn: network: a", 0, 20, 5),
        event("aten::mm", 5, 20, 15, sequence_nr=7, gpu=30),
        event("hlvnn: network: b", 20, 40, 2),
        event("aten::mm", 22, 40, 18, sequence_nr=8, gpu=10),
        event("hlvnn: backward, the rest", 50, 100, 50),
        event("autograd::engine::evaluate_function: Mm", 55, 60, 1, thread=2, sequence_nr=8),
        event("aten::mm", 56, 60, 4, thread=2, gpu=20),
        event("autograd::engine::evaluate_function: Mm", 60, 90, 2, thread=2, sequence_nr=7),
        event("aten::mm", 62, 90, 28, thread=2, gpu=70),
        event("autograd::engine::evaluate_function: Accumulate", 90, 95, 5, thread=2),
        event("kernel", 0, 30, 0, device_type=DeviceType.CUDA),
    ]
    times = StageTimes()
    times.add(events)
    table = times.table({"step": 2}).set_index(["stage", "pass"])
    assert table["gpu_ms"].to_dict() == {
        ("network: a", "backward"): 0.035,
        ("network: a", "forward"): 0.015,
        ("network: b", "backward"): 0.010,
        ("network: b", "forward"): 0.005,
        ("other", "forward"): 0.0,
        ("backward, the rest", "backward"): 0.0,
    }
    assert table["gpu_share"].sum() == pytest.approx(1)
    assert table.loc[("network: a", "backward"), "gpu_share"] == pytest.approx(70 / 130)
    assert table.loc[("network: a", "backward"), "cpu_ms"] == 0.015
    rest = table.loc[("backward, the rest", "backward"), "cpu_ms"]
    assert rest == pytest.approx((50 - 40 + 5) / 2000), "less what it only waited for"
    told = Profile(times.table({"step": 2}), 2, 0, 1, {"training": 1.0}, {})
    assert told.slowest == "network: a"
    assert "the GPU was busy" in str(told)
