"""The README's own examples, executed as they stand."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import hlvnn
from hlvnn.records.run_folder import RESULT
from tests.helpers import ROOT, readme_block

HELD = """
import runpy, sys, pytest
_, tests, *flags = sys.argv
assert pytest.main(["-q", "-p", "no:cacheprovider", tests, "-k", "chain"]) == 0
sys.argv = ["train_one.py", *flags]
runpy.run_path("train_one.py", run_name="__main__")
"""
"""Runs tests, then trains, in one process: much of the time is its imports."""


def run(code: list[str], cwd: Path, package: Path) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder, with `package` first on the path."""
    environment = {**os.environ, "PYTHONPATH": str(package)}
    return subprocess.run(
        [sys.executable, *code],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package and its command, to add files to."""
    copy = tmp_path / "copy"
    shutil.copytree(ROOT / "hlvnn", copy / "hlvnn", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "train_one.py", copy)
    return copy


def test_the_new_data_set_trains_after_adding_one_file(package: Path, tmp_path: Path) -> None:
    source = readme_block("def load(config: DataConfig)")
    (package / "hlvnn" / "data" / "sources" / "wine.py").write_text(source, encoding="utf-8")
    command = ["train_one.py", "--dataset", "wine", "--latent-config", "factor", "--z-dim", "2"]
    done = run([*command, "--num-epochs", "30", "--lr", "0.01", "--name", "r"], package, package)
    assert done.returncode == 0, done.stderr
    assert "3 cellar" in done.stdout
    last = (package / "results" / "wine" / "r" / "metrics.csv").read_text().splitlines()
    row = dict(zip(last[0].split(","), last[-1].split(","), strict=True))
    assert float(row["test_acc"]) > 0.8  # three cultivars, well apart in the measurements


def test_the_study_is_searchable_after_adding_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spaces = tmp_path / "search_spaces"
    spaces.mkdir()
    (spaces / "widths.py").write_text(readme_block("def space(trial)"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["tune_search.py", "widths", "--dry-run"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "tune_search.py"), run_name="__main__")
    assert not ended.value.code
    assert "selecting on val_loss (min)" in capsys.readouterr().out
    assert not (tmp_path / "results").exists()


def test_the_new_posterior_is_held_to_its_familys_laws_after_adding_one_file(package: Path) -> None:
    source = readme_block("class Chain(Posterior)")
    (package / "hlvnn" / "latents" / "posteriors" / "chain.py").write_text(source, encoding="utf-8")
    shutil.copytree(ROOT / "tests", package / "tests")
    shutil.copy(ROOT / "pyproject.toml", package)
    flags = ["--dataset", "digits", "--num-epochs", "1", "--name", "r"]
    entry = ["--latents", "concat@output level=writer width=3 posterior=chain prior=learned"]
    done = run(["-c", HELD, "tests/latents/test_latents.py", *flags, *entry], package, package)
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) > 20
    assert (package / "results" / "digits" / "r" / RESULT).exists()


@pytest.mark.filterwarnings("ignore:Initializing zero-element")  # models without features
def test_levels_that_know_of_each_other_are_built_as_written() -> None:
    names: dict[str, object] = {}
    exec(readme_block("nested_levels = ["), names)
    frame = pd.DataFrame(
        {
            "y": [1.0, 2.0, 4.0, 3.0, 2.5, 0.5],
            "batch": ["a", "a", "a", "b", "b", "b"],
            "cask": ["a1", "a1", "a2", "b1", "b2", "b2"],
            "plate": [1, 2, 1, 2, 1, 2],
            "sample": ["s", "s", "t", "t", "s", "t"],
        }
    )
    for name, groups in (
        ("nested_levels", ["cask", "batch"]),
        ("around", ["cask", "batch"]),
        ("crossed_levels", ["plate", "sample"]),
    ):
        data = hlvnn.GroupedDataset.from_frame(frame, target="y", features=[], groups=groups)
        config = hlvnn.ModelConfig(backbone="linear", latents=names[name])
        model = hlvnn.build_model(config, data)
        result = hlvnn.fit(model, data, hlvnn.TrainConfig(num_epochs=2, batch_size=None))
        assert result.elbo_error == 0


@pytest.mark.data
@pytest.mark.xdist_group("sleepstudy")
def test_the_python_example_gives_lme4s_deviance(readme_example: dict[str, Any]) -> None:
    assert -2 * readme_example["result"].elbo == pytest.approx(1751.9393, abs=0.05)
    assert readme_example["model"].posterior("Subject").shape == (18, 6)
