"""`make bench`: it knows every script, keeps what they print, and fails when one does."""

from __future__ import annotations

import importlib.util
import json
import os
import runpy
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.helpers import ROOT

HELPERS = {"__main__", "unipen", "recorded", "tabular_peers"}
"""Files of benchmarks/ that measure nothing themselves."""


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench", ROOT / "benchmarks" / "__main__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench"] = module
    spec.loader.exec_module(module)
    return module


def test_every_script_is_in_the_table(bench: ModuleType) -> None:
    files = {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    assert {script.name for script in bench.SCRIPTS} == files - HELPERS


def test_tables_are_kept_as_rows(bench: ModuleType) -> None:
    first = "| model | ms |\n|---|---|\n| cnn | 1.5 |\n| mlp | |"
    text = f"one thread\n{first}\n\nend\n| a |\n|---|\n| 1 |"
    assert list(bench.tables(text)) == [
        [{"model": "cnn", "ms": "1.5"}, {"model": "mlp", "ms": ""}],
        [{"a": "1"}],
    ]


def test_a_run_leaves_a_page_and_figures_with_the_machine(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = "--rows 300000 --groups 3000 --sample 150 --no-larger"
    monkeypatch.setattr(bench, "SCRIPTS", (bench.Script("group_metrics", small),))
    assert bench.main(bench.Options(output=tmp_path)) == 0
    page = (tmp_path / "bench.md").read_text()
    results = json.loads((tmp_path / "bench.json").read_text())
    assert results["machine"]["cores"] == os.cpu_count()
    assert results["machine"]["versions"]["torch"] in page
    (((row,),),) = [script["tables"] for script in results["scripts"].values()]
    ways = [float(row[f"{way}, s"]) for way in ("ours", "numpy", "pandas", "scikit-learn")]
    assert all(seconds > 0 for seconds in ways)
    assert float(row["difference"]) < 1e-12
    assert f"| {row['ours, s']} | {row['numpy, s']} |" in page


def test_a_script_that_fails_fails_the_whole(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.py").write_text("raise SystemExit(3)", encoding="utf-8")
    monkeypatch.setattr(bench, "HERE", tmp_path)
    monkeypatch.setattr(bench, "SCRIPTS", (bench.Script("broken", "--rows none"),))
    assert bench.main(bench.Options(output=tmp_path)) == 1
    scripts = json.loads((tmp_path / "bench.json").read_text())["scripts"]
    assert scripts["broken"]["exit_status"] == 3


def test_an_unknown_benchmark_is_told_with_the_nearest_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    words = ["benchmarks", "--only", "train_steps", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "benchmarks"), run_name="__main__")
    assert ended.value.code == 2
    assert "did you mean 'train_step'" in capsys.readouterr().err
    assert not output.exists()
