"""An LSTM in bf16 on a CPU that has none: float32 in that layer, and a word about it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from hlvnn import precision
from hlvnn.config import TrainConfig
from hlvnn.training.loop import fit
from tests.helpers import ROOT, data_for, tiny_model

TOLD = "this CPU computes no LSTM in bf16"
CUT_DOWN = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}


@pytest.fixture
def without_avx512(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make torch refuse LSTMs under autocast, as it does on such a CPU."""
    real = torch.lstm

    def lstm(*arguments: Any) -> Any:
        if torch.is_autocast_enabled("cpu"):
            raise RuntimeError("could not create a primitive descriptor for the LSTM")
        assert {part.dtype for part in (arguments[0], *arguments[1])} == {torch.float32}
        return real(*arguments)

    monkeypatch.setattr(torch, "lstm", lstm)
    monkeypatch.setattr(torch.nn.modules.rnn._VF, "lstm", lstm)
    precision.is_lstm_computed_in.cache_clear()
    yield
    precision.is_lstm_computed_in.cache_clear()


@pytest.mark.usefixtures("without_avx512")
@pytest.mark.parametrize("structure", ["none", "film", "initial-state", "step-input"])
def test_an_lstm_that_a_cpu_cannot_round_is_computed_in_float32_and_told_once(
    structure: str, caplog: pytest.LogCaptureFixture
) -> None:
    rows = data_for("lstm")
    model = tiny_model(rows, "lstm", latent_config=(structure,))
    config = TrainConfig(num_epochs=2, batch_size=20, device="cpu", precision="bf16")
    assert not fit(model, rows, config).diverged
    assert caplog.text.count(TOLD) == 1


BACKBONES = ("cnn", "lstm", "mlp")


@pytest.fixture(scope="module")
def cut_down() -> dict[str, tuple[str, int]]:
    """Return what each backbone's fit said, and how often it was told, on a CPU cut down.

    One process asks all three: most of its time is the import of torch.
    """
    code = (
        "import sys\n"
        "from tests.helpers import data_for, tiny_model\n"
        "import hlvnn\n"
        f"for backbone in {BACKBONES}:\n"
        "    rows = data_for(backbone)\n"
        "    model = tiny_model(rows, backbone, latent_config=('factor',))\n"
        "    config = hlvnn.TrainConfig(num_epochs=1, device='cpu', precision='bf16')\n"
        "    print('diverged', hlvnn.fit(model, rows, config).diverged, flush=True)\n"
        "    print('next', file=sys.stderr, flush=True)\n"
        "    hlvnn.precision.is_lstm_computed_in.cache_clear()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, **CUT_DOWN},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = [part.count(TOLD) for part in done.stderr.split("next\n")]
    return dict(zip(BACKBONES, zip(done.stdout.splitlines(), told, strict=False), strict=True))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_bf16_trains_on_a_cpu_with_its_features_cut_down(
    cut_down: dict[str, tuple[str, int]], backbone: str
) -> None:
    """It ended in "could not create a primitive descriptor for the LSTM forward propagation"."""
    said, told = cut_down[backbone]
    assert said == "diverged False"
    if platform.machine() == "x86_64":
        assert told == (backbone == "lstm")
