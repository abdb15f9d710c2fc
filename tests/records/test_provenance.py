"""Where a run came from: the commit of the code, and the trial that it repeats."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from hlvnn.records.provenance import PACKAGE, code_state
from hlvnn.records.run_folder import HYPERPARAMS
from hlvnn.sweep import shipping
from tests.conftest import Ended

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="no git here")


def git(folder: Path, *words: str) -> str:
    own = ["-c", "user.name=n", "-c", "user.email=n@example.org"]
    done = subprocess.run(
        ["git", "-C", str(folder), *own, *words], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@needs_git
def test_the_commit_is_kept_and_whether_the_code_was_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    assert code_state(package) is None  # no work tree
    git(tmp_path, "init", "-q")
    code_state.cache_clear()
    assert code_state(package) is None, "a work tree that the code is no part of"
    git(tmp_path, "add", "package")
    git(tmp_path, "commit", "-q", "-m", "one")
    commit = git(tmp_path, "rev-parse", "HEAD")
    for name, dirty in (("", False), ("../notes.txt", False), ("new.py", True)):
        if name:
            (package / name).write_text("x")
        code_state.cache_clear()
        assert code_state(package) == {"commit": commit, "dirty": dirty}
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other"))  # as in a hook of git
    code_state.cache_clear()
    assert (code_state(package) or {})["commit"] == commit
    monkeypatch.setenv("PATH", "")
    code_state.cache_clear()
    assert code_state(package) is None
    code_state.cache_clear()


@needs_git
def test_code_that_is_sent_to_workers_knows_its_commit_there(tmp_path: Path) -> None:
    package = tmp_path / "hlvnn"
    package.mkdir()
    (package / "__init__.py").write_text("")
    with shipping.staging(tmp_path) as sent:
        code_state.cache_clear()
        assert code_state(sent / "hlvnn") is None  # not known here, so not there either
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "hlvnn")
    git(tmp_path, "commit", "-q", "-m", "one")
    (package / "new.py").write_text("")
    code_state.cache_clear()
    with shipping.staging(tmp_path) as sent:
        code_state.cache_clear()
        commit = git(tmp_path, "rev-parse", "HEAD")
        assert code_state(sent / "hlvnn") == {"commit": commit, "dirty": True}
    code_state.cache_clear()


def test_a_repeated_run_says_from_where_and_what_was_changed(
    small_sweep: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    train_one: Callable[..., Ended],
) -> None:
    monkeypatch.chdir(tmp_path)
    trial = small_sweep / "trial_0000"
    was = json.loads((trial / HYPERPARAMS).read_text())
    assert was.get("code") == code_state(PACKAGE)
    assert "origin" not in was
    flags = ["--from-trial", trial, "--num-epochs", "1", "--print-freq", "5"]
    for name, more in (("again", []), ("other", ["--dropout", "0.4", "--description", "d"])):
        ended = train_one(*flags, *more, "--name", name)
        assert ended.code == 0, ended.err
    told = [
        json.loads((tmp_path / "results" / "digits" / name / HYPERPARAMS).read_text())["origin"]
        for name in ("again", "other")
    ]
    assert told[0].startswith("from trial ")
    assert told[0].endswith("small/trial_0000, changed: num_epochs=1 (was 6)")
    dropout = f"{was['config']['dropout']:.4g}"
    assert f"dropout=0.4 (was {dropout})" in told[1]
    assert "num_epochs=1 (was 6)" in told[1]
    assert "description" not in told[1]
