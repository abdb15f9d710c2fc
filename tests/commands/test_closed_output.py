"""`| head` ends a command, or leaves its work to go on, without a word of complaint."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hlvnn.errors import CLOSED
from hlvnn.records.run_folder import RESULT
from tests.helpers import ROOT


def into_head(folder: Path, *command: str) -> tuple[int, str]:
    """Run a Python program whose output is closed before it writes; return its code and stderr."""
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    os.close(reading)
    os.close(writing)
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors


@pytest.mark.parametrize(
    "command",
    [
        (str(ROOT / "tune_search.py"), "--help"),
        (str(ROOT / "train_one.py"), "--help"),
        ("-m", "hlvnn.analysis", "--help"),
        ("-m", "hlvnn.analysis", "prune", "--help"),
        ("-m", "hlvnn.data.convert", "leaf", "--help"),
    ],
    ids=lambda command: " ".join(command[-3:])[-30:],
)
def test_help_into_head_ends_in_silence(tmp_path: Path, command: tuple[str, ...]) -> None:
    code, errors = into_head(tmp_path, *command)
    assert errors == ""
    assert code == CLOSED


def test_a_run_into_head_goes_on_to_its_end(tmp_path: Path) -> None:
    flags = ("--dataset", "digits", "--hidden", "4", "--num-epochs", "2", "--name", "a")
    code, errors = into_head(tmp_path, str(ROOT / "train_one.py"), *flags)
    assert (code, errors) == (0, "")
    assert (tmp_path / "results" / "digits" / "a" / RESULT).exists()
