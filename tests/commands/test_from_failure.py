"""`train_one.py --from-failure`: from a run that diverged to a debugger at the fault."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Ended

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def diverged(train_one: Callable[..., Ended], *more: object) -> Path:
    ended = train_one(
        *("--dataset", "digits", "--latent-config", "bias", "--lr", "1e25", "--num-epochs", 2),
        *("--results-dir", "runs", "--name", "bad", *more),
    )
    assert ended.code == 1
    return Path("runs/digits/bad")


def test_a_run_that_diverged_is_taken_up_at_its_step(train_one: Callable[..., Ended]) -> None:
    run = diverged(train_one)
    assert (run / "failure.pt").exists()
    before = sorted(path.name for path in run.iterdir())
    ended = train_one("--from-failure", run)
    assert ended.code == 2
    assert "the output of backbone." in ended.err
    assert "numbers [200, " in ended.err
    assert sorted(path.name for path in run.iterdir()) == before, "nothing is written"


def test_at_a_terminal_the_debugger_opens_in_the_network(train_one: Callable[..., Ended]) -> None:
    run = diverged(train_one)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train_one.py"), "--from-failure", str(run)],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"PYTHONBREAKPOINT": "", "TERM": "dumb"},
    )
    os.write(ours, b"p f'rows of shape {tuple(rows.shape)}'\nq\n")
    out = process.communicate(timeout=120)[0].decode()
    os.close(ours)
    os.close(theirs)
    assert "hlvnn/backbones/cnn.py(" in out, out
    assert "rows of shape (200, 16, " in out, "its variables are there"


def test_a_run_that_did_not_diverge_has_no_such_step(train_one: Callable[..., Ended]) -> None:
    ended = train_one(
        *("--dataset", "digits", "--num-epochs", 1, "--results-dir", "runs", "--name", "good")
    )
    assert ended.code == 0
    ended = train_one("--from-failure", "runs/digits/good")
    assert ended.code == 2
    assert "no step was kept that was not finite (failure.pt)" in ended.err
    assert "Traceback" not in ended.err
