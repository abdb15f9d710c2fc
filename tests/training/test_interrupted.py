"""What a fit shows by itself, and what is left of it after Ctrl-C."""

from __future__ import annotations

import io
import math
import sys
from types import SimpleNamespace

import pytest

import hlvnn
from hlvnn.config import TrainConfig
from hlvnn.errors import run_command
from hlvnn.training import loop, progress
from hlvnn.training.fit_result import Interrupted
from hlvnn.training.loop import EpochReport, fit
from tests.helpers import grouped_data, tiny_model

CONFIG = TrainConfig(num_epochs=5, batch_size=12, device="cpu")


class Terminal(io.StringIO):
    def __init__(self, live: bool) -> None:
        super().__init__()
        self.live = live

    def isatty(self) -> bool:
        return self.live


def stop_at(epoch: int):
    def report(told: EpochReport, _: object) -> None:
        if told.epoch == epoch:
            raise KeyboardInterrupt

    return report


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody listen to the logger, as in a script of one's own."""
    monkeypatch.setattr(progress.logger, "hasHandlers", lambda: False)


def test_ctrl_c_leaves_the_result_on_the_exception_and_a_model_to_use() -> None:
    data = grouped_data()
    model = tiny_model(data, dropout=0.5, latent_config=("factor",))
    with pytest.raises(KeyboardInterrupt) as caught:
        fit(model, data, CONFIG, stop_at(3))
    assert isinstance(caught.value, Interrupted)
    result = caught.value.result
    assert result.epochs == 3
    assert result.history["epoch"].tolist() == [1, 2, 3]
    assert math.isnan(result.elbo)
    assert not result.diverged
    assert not model.training


def test_in_a_notebook_the_result_so_far_is_returned(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shell = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert progress.is_notebook()
    data = grouped_data()
    result = fit(tiny_model(data), data, CONFIG, stop_at(2))
    assert result.epochs == 2
    assert "interrupted after epoch 2: this is the fit so far" in caplog.text


def test_a_command_line_still_ends(capsys: pytest.CaptureFixture[str]) -> None:
    data = grouped_data()
    with pytest.raises(SystemExit) as end:
        run_command(lambda: fit(tiny_model(data), data, CONFIG, stop_at(2)) and None)
    assert end.value.code == 130
    assert "interrupted" in capsys.readouterr().err


def test_every_end_leaves_a_model_to_use() -> None:
    data = grouped_data()
    model = tiny_model(data, dropout=0.5)
    fit(model, data, CONFIG)
    assert not model.training

    def fail(*_: object) -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        fit(model, data, CONFIG, fail)
    assert not model.training


@pytest.mark.usefixtures("quiet")
def test_a_terminal_shows_a_line_of_progress_and_what_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen = Terminal(live=True)
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    data = grouped_data()
    hlvnn.fit(tiny_model(data), data, CONFIG)
    text = screen.getvalue()
    assert "target: " in text.split("\repoch")[0]  # what the data were taken for comes first
    assert "group ids: " in text.split("\repoch")[0]
    assert [f"\repoch {n}/5 | train " in text for n in range(1, 6)] == [True] * 5
    assert text.endswith("\n")
    bad = CONFIG.model_copy(update={"lr": 1e30})
    hlvnn.fit(tiny_model(data), data, bad)
    assert "\nstep " in screen.getvalue()
    assert "The fit ends here, as diverged" in screen.getvalue()
    assert not progress.logger.handlers or progress.logger.handlers == loop.logger.handlers


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("live", [True, False])
def test_print_freq_prints(live: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal(live)
    monkeypatch.setattr(sys, "stdout", screen)
    data = grouped_data()
    hlvnn.fit(tiny_model(data), data, CONFIG.model_copy(update={"print_freq": 2}))
    assert "epoch 1  step 2/4  loss " in screen.getvalue()
    assert ("\repoch" in screen.getvalue()) == live


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(("live", "reported"), [(False, False), (True, True)])
def test_elsewhere_and_beside_a_report_nothing_is_shown(
    live: bool, reported: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Terminal(live)
    monkeypatch.setattr(sys, "stdout", screen)
    data = grouped_data()
    report = (lambda *_: None) if reported else None
    hlvnn.fit(tiny_model(data), data, CONFIG, report)
    assert screen.getvalue() == ""
