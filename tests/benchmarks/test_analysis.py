"""The sweep that reading is measured on: what is planted in it, each question finds."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType
from typing import Any

import pytest

import hlvnn
from hlvnn.analysis import Results, load_sweep
from tests.helpers import ROOT


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    path = ROOT / "benchmarks" / "analysis.py"
    spec = importlib.util.spec_from_file_location("analysis_benchmark", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["analysis_benchmark"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def made(benchmark: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("made") / "sweep"
    benchmark.make(folder, benchmark.Options(trials=22, epochs=3, groups=40))
    return load_sweep(folder)


def test_it_is_a_sweep_in_which_nothing_is_damaged(made: Results) -> None:
    assert made.problems == []
    assert len(made.table) == 22
    assert made.table["status"].eq("completed").all()
    assert made.table["pooled"].tolist() == [number % 10 == 0 for number in range(22)]
    rates = made.table.sort_values("best_val_loss")["lr"]
    assert abs(rates.iloc[0] / 2e-3 - 1) < abs(rates.iloc[-1] / 2e-3 - 1)


def test_every_question_finds_its_answer(benchmark: ModuleType, made: Results) -> None:
    answers = {}
    for name, question in benchmark.QUESTIONS.items():
        if name == "the report":
            continue  # takes seconds, and has tests of its own
        names: dict[str, Any] = {"hlvnn": hlvnn, "sweep": made, "path": str(made.path)}
        exec(question.code, names)
        answers[name] = names["answer"]
    rows = made.groups.read(["n"], trials=0, epochs=1)["n"].sum()
    assert answers["loading"] == f"best is trial {made.best_trial}"
    assert answers["metrics of every epoch"] == "66 epochs"
    assert answers["one group in every trial and epoch"] == "66 rows"
    assert answers["one group in all trials"] == "22 trials"
    gains = made.groups.effects("latent_config").settings
    assert gains["value"].tolist() == ["factor"]
    assert answers["effects of the structure"].endswith("40 gains")
    assert answers["diff of two trials"] == f"{rows:,} rows, 40 groups"
