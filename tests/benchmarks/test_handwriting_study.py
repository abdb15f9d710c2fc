"""The study of handwriting: its mixtures, its errors, and the whole of it on a small data set."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from tests.helpers import ROOT

BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("handwriting_study")


def test_mixture_weights_are_a_stationary_point_of_the_likelihood(study: ModuleType) -> None:
    experts = np.random.default_rng(0).uniform(0.05, 1, (400, 3)) * [1.0, 0.8, 0.3]
    weights = study.mixture_weights(experts, steps=2000)
    gradient = (experts / (experts @ weights)[:, None]).mean(0)
    assert weights.sum() == pytest.approx(1)
    assert (gradient <= 1 + 1e-3).all()  # on the simplex: 1 where a weight is positive
    assert gradient[weights > 1e-6] == pytest.approx(1, abs=1e-3)


def test_kernel_gives_each_class_its_share(study: ModuleType) -> None:
    near = (torch.tensor([[0.1, 0.3, torch.inf]]), torch.tensor([[1, 0, 0]]))
    shares = study.kernel(near, 0.2, 3)
    assert shares[0] == pytest.approx([1 / (1 + np.e), np.e / (1 + np.e), 0])


def test_paired_error_is_that_of_writers_not_of_rows(study: ModuleType) -> None:
    generator = np.random.default_rng(0)
    effect = generator.normal(size=100)  # all of the noise is between writers
    writer = np.repeat(np.arange(100), 30)
    mean, error = study.paired(effect[writer], writer, generator)
    assert mean == pytest.approx(effect.mean())
    assert error == pytest.approx(effect.std() / 10, rel=0.1)


def test_tenth_percentile_and_its_noise(study: ModuleType) -> None:
    rows, rate = 40, 0.8
    writer = np.repeat(np.arange(200), rows)
    hit = np.tile(np.arange(rows) < rows * rate, 200).astype(float)  # every writer alike
    scores = study.Scores(hit, 1 - hit, writer, np.zeros(len(hit), int))
    value, noise = scores.weak(np.random.default_rng(0))
    assert value == pytest.approx(rate)
    assert 0 < noise < np.sqrt(rate * (1 - rate) / rows)


@pytest.mark.slow
def test_all_methods_run_and_are_not_run_again(
    study: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    digits = load_digits()
    np.savez(
        tmp_path / "writers.npz",
        images=(digits.images[:240] * 15).astype(np.uint8),
        labels=digits.target[:240],
        writer=np.arange(240) % 3,
        writer_id=np.array(["ann", "bob", "eve"]),
        writer_donor=np.array([0, 1, 1]),
        donor_id=np.array(["s1", "s2"]),
    )
    monkeypatch.setitem(study.SHARED, "num_epochs", 1)
    for name, method in study.METHODS.items():
        monkeypatch.setitem(study.METHODS, name, replace(method, tries=method.tries[-1:]))
    results = tmp_path / "results"
    command = ["study", "--source", str(tmp_path / "writers.npz"), "--results", str(results)]
    monkeypatch.setattr("sys.argv", [*command, "--seeds", "0", "1", "--processes", "1"])
    assert study.main() == 0
    lines = [json.loads(line) for line in (results / "runs.jsonl").read_text().splitlines()]
    test = [line for line in lines if line["part"] == "test"]
    assert sorted(line["method"] for line in test) == sorted([*study.METHODS] * 2)
    assert all(np.isfinite(line["nats"]) for line in lines)
    shown = capsys.readouterr().out.splitlines()
    rows = [line.split(" | ")[0].removeprefix("| ") for line in shown if line.startswith("| ")]
    bases = [name for name, method in study.METHODS.items() if not method.base]
    assert rows == ["method", *bases, *(name for name in study.METHODS if name not in bases)]
    assert study.main() == 0
    assert len((results / "runs.jsonl").read_text().splitlines()) == len(lines)
    assert [line for line in capsys.readouterr().out.splitlines() if line in shown[-9:]]
