"""`| head` ends a command, or leaves its work to go on, without a word of complaint."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from hlvnn.errors import CLOSED
from hlvnn.records.run_folder import RESULT
from tests.helpers import ROOT

HELP = {
    "tune_search": (str(ROOT / "tune_search.py"), "--help"),
    "train_one": (str(ROOT / "train_one.py"), "--help"),
    "analysis": ("-m", "hlvnn.analysis", "--help"),
    "analysis prune": ("-m", "hlvnn.analysis", "prune", "--help"),
    "convert": ("-m", "hlvnn.data.convert", "leaf", "--help"),
}
RUN = (
    *(str(ROOT / "train_one.py"), "--dataset", "digits", "--hidden", "4", "--num-epochs", "2"),
    *("--name", "a"),
)
EACH = """
import json, os, runpy, sys, tempfile
import hlvnn.analysis.report, hlvnn.commands.train_one, hlvnn.commands.tune_search  # for all
ended = []
for words in json.loads(sys.argv[1]):
    with tempfile.TemporaryFile() as errors:
        reading, writing = os.pipe()
        os.close(reading)
        process = os.fork()
        if process == 0:
            os.dup2(writing, 1)
            os.dup2(errors.fileno(), 2)
            break
        os.close(writing)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        errors.seek(0)
        ended.append((code, errors.read().decode()))
else:
    print(json.dumps(ended))
    raise SystemExit
# from here on as Python itself does, to the end of the interpreter
if words[0] == "-m":
    sys.argv = words[1:]
    runpy.run_module(words[1], run_name="__main__", alter_sys=True)
else:
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")
"""
"""Runs each program in a process of its own, forked once everything is imported."""


@pytest.fixture(scope="module")
def into_head(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[object, ...]]:
    """Return the code and stderr of programs whose output is closed before they write.

    Of the run also whether it left a result.
    """
    folder = tmp_path_factory.mktemp("head")
    programs = {**HELP, "run": RUN}
    done = subprocess.run(
        [sys.executable, "-c", EACH, json.dumps(list(programs.values()))],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    ended = {name: tuple(one) for name, one in zip(programs, told, strict=True)}
    ended["run"] += ((folder / "results" / "digits" / "a" / RESULT).exists(),)
    return ended


@pytest.mark.parametrize("program", HELP)
def test_help_into_head_ends_in_silence(
    into_head: dict[str, tuple[object, ...]], program: str
) -> None:
    assert into_head[program] == (CLOSED, "")


def test_a_run_into_head_goes_on_to_its_end(into_head: dict[str, tuple[object, ...]]) -> None:
    assert into_head["run"] == (0, "", True)
