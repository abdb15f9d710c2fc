"""A run's folder is read back whole, and strictly: what is damaged is told with its file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from hlvnn import evaluate, load_run
from hlvnn.config import run_config
from hlvnn.data import data_of
from hlvnn.data.grouped import Schema
from hlvnn.errors import ConfigError, RunError
from hlvnn.files import write_json
from hlvnn.inference.predict import predict
from hlvnn.records.run_folder import HYPERPARAMS, METRICS, SCHEMA, read_metrics
from hlvnn.training.execution import execute
from tests.helpers import same_bits
from tests.runs import Finished, contents

# read back


def test_a_loaded_run_has_the_metrics_it_was_saved_with(whole: Finished) -> None:
    metrics = read_metrics(whole.folder)
    for which, row in (
        ("last", metrics.iloc[-1]),
        ("best", metrics.loc[metrics["val_loss"].idxmin()]),
    ):
        run = load_run(whole.folder, which)
        assert run.epoch == row["epoch"]
        assert not run.model.training
        for name in ("val", "test"):
            scalars = evaluate(run.model, run.data.splits()[name], num_samples=3).scalars
            assert {f"{name}_{key}": value for key, value in scalars.items()} == {
                f"{name}_{key}": row[f"{name}_{key}"] for key in scalars
            }


def test_a_loaded_run_predicts_the_same_every_time(whole: Finished) -> None:
    first, second = load_run(whole.folder), load_run(str(whole.folder))
    test = data_of(whole.config.data).test
    assert test is not None
    pd.testing.assert_frame_equal(predict(first.model, test), predict(second.model, test))


def test_loading_leaves_the_callers_random_stream_alone(whole: Finished) -> None:
    before = torch.get_rng_state()
    load_run(whole.folder)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_loaded_run_brings_its_tables_and_data(whole: Finished) -> None:
    run = load_run(whole.folder)
    assert run.metrics["epoch"].tolist() == [1, 2, 3, 4]
    assert set(run.groups["epoch"]) == {1, 2, 3, 4}
    assert run.data.schema == run.schema
    assert run.config == whole.config


def test_a_run_loads_where_its_data_are_gone(whole: Finished, tmp_path: Path) -> None:
    record = json.loads((whole.folder / HYPERPARAMS).read_text())
    record["config"]["data_dir"] = str(tmp_path / "nowhere")
    folder = tmp_path / "moved"
    shutil.copytree(whole.folder, folder)
    write_json(folder / HYPERPARAMS, record)
    assert same_bits(load_run(folder).model, load_run(whole.folder).model)


def test_a_run_on_a_table_reads_frames_after_loading(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "score": random.normal(size=80),
            "hours": random.random(80),
            "school": random.choice(["a", "b", "c"], 80),
        }
    )
    frame.to_csv(tmp_path / "pupils.csv", index=False)
    config = run_config(
        {
            "dataset": "table",
            "table": tmp_path / "pupils.csv",
            "target": "score",
            "groups": ["school"],
            "latent_config": "bias",
            "hidden": [4],
            "num_epochs": 2,
        },
        "test",
    )
    assert config.data.title == "pupils"
    execute(config, tmp_path / "run")
    run = load_run(tmp_path / "run")
    assert list(predict(run.model, frame.drop(columns="score")).columns) == [
        "mean",
        "sd",
        "sd_mean",
    ]
    assert run.model.posterior("school")["school"].tolist() == ["a", "b", "c"]
    assert {"val_mse", "test_mse", "test_group_worst"} <= set(run.metrics.columns)


def edited(change: Callable[[dict[str, Any]], object]) -> Callable[[str], str]:
    def edit(text: str) -> str:
        record = json.loads(text)
        change(record)
        return json.dumps(record)

    return edit


HYPERPARAM_DAMAGES: dict[str, tuple[Callable[[str], str], str]] = {
    "cut short": (lambda text: text[:200], "not readable as JSON"),
    "empty": (lambda _: "", "not readable as JSON"),
    "a list": (lambda _: "[1]", 'expected an object with "config" in it'),
    "no config": (edited(lambda r: r.pop("config")), 'expected an object with "config" in it'),
    "unknown setting": (
        edited(lambda r: r["config"].update(lrr=1)),
        "unknown setting 'lrr'; did you mean 'lr'",
    ),
    "wrong value": (edited(lambda r: r["config"].update(lr=-1)), r"train\.lr: .* \(got -1\)"),
    "unknown member": (
        edited(lambda r: r["config"].update(posterior="meanfield")),
        "did you mean 'mean_field'",
    ),
}


# bad input


@pytest.mark.parametrize("name", HYPERPARAM_DAMAGES)
def test_damaged_hyperparams_are_told_with_their_file(
    whole: Finished, tmp_path: Path, train_one: Callable[..., Any], name: str
) -> None:
    change, message = HYPERPARAM_DAMAGES[name]
    folder = tmp_path / "run"
    shutil.copytree(whole.after[2], folder)
    path = folder / HYPERPARAMS
    path.write_text(change(path.read_text()))
    before = contents(folder)
    with pytest.raises((RunError, ConfigError), match=message) as caught:
        load_run(folder)
    assert str(path) in str(caught.value)
    for flag in ("--resume", "--from-trial"):
        ended = train_one(flag, folder)
        assert ended.code == 2
        assert str(path) in ended.err
        assert "Traceback" not in ended.err
    assert contents(folder) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:30],
        edited(lambda r: r.pop("levels")),
        edited(lambda r: r.update(x_kind="sound")),
        edited(lambda r: r.update(surprise=1)),
    ],
)
def test_a_damaged_schema_is_told_with_its_file(
    whole: Finished, tmp_path: Path, change: Callable[[str], str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole.after[2], folder)
    path = folder / SCHEMA
    path.write_text(change(path.read_text()))
    with pytest.raises(RunError, match=r"schema\.json"):
        load_run(folder)


def test_the_schema_survives_its_file(whole: Finished) -> None:
    value = json.loads((whole.folder / SCHEMA).read_text())
    assert Schema.from_json(value) == data_of(whole.config.data).schema


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_a_folder_that_is_no_run_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match=r"hyperparams\.json: no such file; is .* a run"):
        load_run(tmp_path / name)


def test_damaged_metrics_are_told_with_their_file(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"metrics\.csv: no such file"):
        read_metrics(tmp_path)
    (tmp_path / METRICS).write_text("")
    with pytest.raises(RunError, match=r"metrics\.csv: not readable as CSV"):
        read_metrics(tmp_path)
