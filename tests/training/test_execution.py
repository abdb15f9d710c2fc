"""A run and what it leaves: its files, killed and continued at every point, read back strictly."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from hlvnn import evaluate, load_run
from hlvnn.config import RunConfig, flatten, run_config
from hlvnn.data import data_of
from hlvnn.data.grouped import Schema
from hlvnn.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    HlvnnError,
    ResourceError,
    RunError,
)
from hlvnn.files import replacing, write_json
from hlvnn.inference.predict import predict
from hlvnn.records.run_folder import (
    BEST,
    CHECKPOINT,
    HYPERPARAMS,
    LOG,
    METRICS,
    RESULT,
    SCHEMA,
    STATS,
    read_config,
    read_metrics,
)
from hlvnn.training.execution import execute, new_folder
from hlvnn.training.loop import EpochReport, FitResult
from tests.helpers import same_bits, write_folder

EPOCHS = 4
TIMED = ["seconds", "rows_per_second"]


class KilledError(Exception):
    """What a report raises where a run is to end."""


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data"), levels=2)


def configured(data_dir: Path, **settings: Any) -> RunConfig:
    base = {
        "dataset": "tiny",
        "data_dir": data_dir,
        "channels": [2, 3],
        "hidden": [4],
        "latent_config": "double",
        "z_dim": 2,
        "dropout": 0.2,
        "num_samples": 2,
        "num_epochs": EPOCHS,
        "batch_size": 16,
        "eval_samples": 3,
        "lr": 0.02,
        "seed": 5,
        "device": "cpu",
    }
    return run_config({**base, **settings}, "test")


class Finished:
    """A finished run with a copy of its folder as it was after each epoch."""

    def __init__(self, config: RunConfig, root: Path) -> None:
        self.config = config
        self.folder = root / "results" / "tiny" / "whole"
        self.after: dict[int, Path] = {}

        def keep(epoch: EpochReport) -> None:
            copy = root / f"after_{epoch.epoch}"
            shutil.copytree(self.folder, copy)
            self.after[epoch.epoch] = copy

        self.result: FitResult = execute(config, self.folder, report=keep)


@pytest.fixture(scope="module")
def whole(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return Finished(configured(data_dir), tmp_path_factory.mktemp("whole"))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def stats_of(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / STATS).iterdir())


def assert_same_run(folder: Path, expected: Path) -> None:
    """Check that two run folders tell the same, whatever time they took."""
    metrics, others = read_metrics(folder), read_metrics(expected)
    pd.testing.assert_frame_equal(
        metrics.drop(columns=TIMED), others.drop(columns=TIMED), check_exact=True
    )
    for which in ("last", "best"):
        mine, theirs = load_run(folder, which), load_run(expected, which)
        assert mine.epoch == theirs.epoch
        assert same_bits(mine.model, theirs.model)
    assert stats_of(folder) == stats_of(expected)
    pd.testing.assert_frame_equal(
        pd.read_parquet(folder / STATS), pd.read_parquet(expected / STATS), check_exact=True
    )
    assert json.loads((folder / RESULT).read_text()) == json.loads((expected / RESULT).read_text())
    assert [path for path in folder.rglob("*") if path.name.startswith(".")] == []


# what a run leaves


def test_a_run_leaves_exactly_the_files_of_the_design(whole: Finished) -> None:
    names = {HYPERPARAMS, SCHEMA, METRICS, LOG, CHECKPOINT, PREVIOUS, BEST, RESULT}
    assert {path.name for path in whole.folder.iterdir()} == names | {STATS}
    assert stats_of(whole.folder) == [f"epoch_{epoch:04d}.parquet" for epoch in range(1, 5)]
    assert (HYPERPARAMS, LOG, METRICS, STATS, CHECKPOINT, BEST) == (
        "hyperparams.json",
        "train.log",
        "metrics.csv",
        "training_stats",
        "checkpoint.pt",
        "best.pt",
    )


def test_the_files_are_there_when_an_epoch_is_reported(whole: Finished) -> None:
    for epoch, folder in whole.after.items():
        assert len(read_metrics(folder)) == epoch
        assert len(stats_of(folder)) == epoch
        assert load_run(folder).epoch == epoch
        assert not (folder / RESULT).exists()


def test_hyperparams_hold_the_configuration_and_where_it_came_from(whole: Finished) -> None:
    record = json.loads((whole.folder / HYPERPARAMS).read_text())
    assert record["config"] == flatten(whole.config)
    assert record["config"]["seed"] == 5
    assert record["model"] == "DoubleLatentCNN"
    assert len(record["latents"]) == 4
    assert record["data_hash"] == data_of(whole.config.data).digest()
    assert record["versions"]["torch"] == torch.__version__
    assert read_config(whole.folder) == whole.config


def test_metrics_are_the_history_of_the_fit(whole: Finished) -> None:
    pd.testing.assert_frame_equal(
        read_metrics(whole.folder), whole.result.history, check_exact=True, check_dtype=False
    )
    assert read_metrics(whole.folder)["epoch"].tolist() == [1, 2, 3, 4]


def test_training_stats_are_one_frame_of_every_group(whole: Finished) -> None:
    table = pd.read_parquet(whole.folder / STATS)
    assert list(table.columns) == ["epoch", "level", "gid", "split", "n", "acc", "f1", "loss"]
    data = data_of(whole.config.data)
    for level in data.schema.levels:
        for name in ("val", "test"):
            part = table[(table["level"] == level.name) & (table["split"] == name)]
            rows = part.groupby("epoch")["n"].sum()
            assert rows.to_dict() == dict.fromkeys(range(1, 5), len(data.splits()[name]))
    last = read_metrics(whole.folder).iloc[-1]
    lowest = table[(table["epoch"] == 4) & (table["split"] == "test") & (table["level"] == "gid")]
    assert lowest["acc"].mean() == pytest.approx(last["test_group_mean"])
    assert lowest["acc"].min() == last["test_group_worst"]
    assert np.average(lowest["loss"], weights=lowest["n"]) == pytest.approx(last["test_loss"])


def test_the_result_tells_how_the_run_ended(whole: Finished) -> None:
    record = json.loads((whole.folder / RESULT).read_text())
    assert record == {
        "elbo": whole.result.elbo,
        "elbo_error": whole.result.elbo_error,
        "kl": whole.result.kl,
        "epochs": EPOCHS,
        "diverged": False,
        "stopped_early": False,
    }


def test_the_log_names_the_model_the_data_and_every_epoch(whole: Finished) -> None:
    text = (whole.folder / LOG).read_text()
    assert "DoubleLatentCNN on tiny: " in text
    assert "6 gid, 3 gid2" in text
    for epoch in range(1, EPOCHS + 1):
        assert text.count(f"epoch {epoch}/{EPOCHS} ") == 1
    assert "ELBO" in text.splitlines()[-1]


def test_a_diverged_run_leaves_a_readable_folder(data_dir: Path, tmp_path: Path) -> None:
    config = configured(data_dir, lr=1e30, lr_schedule="constant")
    result = execute(config, tmp_path / "run")
    assert result.diverged
    record = json.loads((tmp_path / "run" / RESULT).read_text())
    assert record["diverged"] is True
    assert record["elbo"] is None
    metrics = read_metrics(tmp_path / "run")
    assert metrics["diverged"].tolist() == [0.0] * (len(metrics) - 1) + [1.0]


def test_fewer_checkpoints_still_end_with_the_last(
    whole: Finished, data_dir: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    epochs = {}

    def look(epoch: EpochReport) -> None:
        path = folder / CHECKPOINT
        epochs[epoch.epoch] = load_run(folder).epoch if path.exists() else None

    execute(configured(data_dir, checkpoint_every=3), folder, report=look)
    assert epochs == {1: None, 2: None, 3: 3, 4: 3}
    assert load_run(folder).epoch == 4
    assert same_bits(load_run(folder).model, load_run(whole.folder).model)


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


# killed, and continued from there

PREVIOUS = "checkpoint.previous.pt"
WRITES = [f"{STATS}/epoch_0003.parquet", METRICS, BEST, CHECKPOINT]
"""Files of an epoch, in the order in which they are written."""


@pytest.mark.parametrize("cut", range(len(WRITES) + 1))
def test_a_run_killed_between_two_files_goes_on_as_if_nothing_happened(
    whole: Finished, tmp_path: Path, cut: int
) -> None:
    """The folder as it was after epoch 2, with the first `cut` files of epoch 3."""
    folder = tmp_path / "run"
    shutil.copytree(whole.after[2], folder)
    for name in WRITES[:cut]:
        shutil.copy(whole.after[3] / name, folder / name)
    execute(whole.config, folder, resume=True)
    assert_same_run(folder, whole.folder)


def test_files_of_an_epoch_are_written_in_that_order(
    whole: Finished, data_dir: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    execute(configured(data_dir, num_epochs=1), folder)
    times = [(folder / name.replace("0003", "0001")).stat().st_mtime_ns for name in WRITES]
    assert times == sorted(times)


@pytest.mark.parametrize("kept", [[], [HYPERPARAMS], [HYPERPARAMS, SCHEMA], [SCHEMA, LOG]])
def test_a_run_killed_before_its_first_checkpoint_starts_afresh(
    whole: Finished, tmp_path: Path, kept: list[str]
) -> None:
    folder = tmp_path / "run"
    (folder / STATS).mkdir(parents=True)
    for name in kept:
        shutil.copy(whole.after[1] / name, folder / name)
    execute(whole.config, folder, resume=True)
    assert_same_run(folder, whole.folder)


def test_what_an_earlier_start_left_is_not_mixed_in(
    whole: Finished, data_dir: Path, tmp_path: Path
) -> None:
    """All files of a longer run but the checkpoints: none of its epochs may survive."""
    folder = tmp_path / "run"
    shutil.copytree(whole.folder, folder)
    for name in (CHECKPOINT, PREVIOUS):
        (folder / name).unlink()

    def stop(epoch: EpochReport) -> None:
        assert not (folder / RESULT).exists(), "an old result stands beside a running run"
        assert len(read_metrics(folder)) == len(stats_of(folder)) == epoch.epoch == 1
        raise KilledError

    with pytest.raises(KilledError):
        execute(configured(data_dir, num_epochs=2), folder, report=stop, resume=True)


def test_a_report_that_raises_leaves_a_run_to_go_on_with(whole: Finished, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for epoch in (1, 3):

        def stop(now: EpochReport, epoch: int = epoch) -> None:
            if now.epoch == epoch:
                raise KilledError

        with pytest.raises(KilledError):
            execute(whole.config, folder, report=stop, resume=True)
    execute(whole.config, folder, resume=True)
    assert_same_run(folder, whole.folder)


def test_continuing_a_finished_run_changes_nothing(whole: Finished, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole.folder, folder)
    execute(whole.config, folder, resume=True)
    assert_same_run(folder, whole.folder)


def test_a_run_goes_on_from_another_place_and_with_other_output(
    whole: Finished, data_dir: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole.after[2], folder)
    execute(configured(data_dir, print_freq=1, results_dir=tmp_path), folder, resume=True)
    assert_same_run(folder, whole.folder)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"lr": 0.5}, "--lr 0.5 (was 0.02)"),
        ({"num_epochs": 9}, "--num-epochs 9 (was 4)"),
        ({"latent_config": "factor"}, "--latent-config"),
    ],
)
def test_a_run_does_not_go_on_with_other_settings(
    whole: Finished, data_dir: Path, tmp_path: Path, settings: dict[str, Any], told: str
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole.after[2], folder)
    before = contents(folder)
    with pytest.raises(ConfigError) as caught:
        execute(configured(data_dir, **settings), folder, resume=True)
    assert told in str(caught.value)
    assert contents(folder) == before


def test_a_run_does_not_go_on_with_other_data(whole: Finished, tmp_path: Path) -> None:
    other = write_folder(tmp_path / "other", levels=2, seed=7)
    folder = tmp_path / "run"
    shutil.copytree(whole.after[2], folder)
    before = contents(folder)
    with pytest.raises(DataError, match=r"is not the one that .* began with"):
        execute(configured(other), folder, resume=True)
    assert contents(folder) == before


# bad input


def test_an_existing_folder_is_refused_and_left_alone(whole: Finished, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole.after[1], folder)
    before = contents(folder)
    with pytest.raises(RunError, match="exists already; nothing was overwritten"):
        execute(whole.config, folder)
    assert contents(folder) == before


def test_a_name_that_is_taken_is_refused(data_dir: Path, tmp_path: Path) -> None:
    config = configured(data_dir, results_dir=tmp_path)
    assert new_folder(config, "a") == tmp_path / "tiny" / "a"
    (tmp_path / "tiny" / "a").mkdir(parents=True)
    with pytest.raises(RunError, match=r"exists already.*--resume"):
        new_folder(config, "a")


@pytest.mark.parametrize("name", ["../a", "a/b", "/tmp/a", "..", "."])
def test_a_name_that_is_a_path_is_refused(data_dir: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(RunError, match="a plain name is expected"):
        new_folder(configured(data_dir, results_dir=tmp_path), name)


def test_a_run_is_filed_under_its_data_set_or_as_a_test(data_dir: Path, tmp_path: Path) -> None:
    config = configured(data_dir, results_dir=tmp_path)
    folder = new_folder(config)
    assert folder.parent == tmp_path / "tiny"
    assert folder.name.endswith("_double_seed5")
    assert new_folder(configured(data_dir, results_dir=tmp_path, testing=True)).parent == (
        tmp_path / "tests"
    )


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"dataset": "tinny"}, DataError),
        ({"latents": ["concat@ouput level=gid"]}, ConfigError),
        ({"device": "gpu"}, ResourceError),
    ],
)
def test_nothing_is_written_before_data_and_model_are_sound(
    data_dir: Path, tmp_path: Path, settings: dict[str, Any], error: type[HlvnnError]
) -> None:
    with pytest.raises(error):
        execute(configured(data_dir, **settings), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


class Bomb:
    """A pickle that would run a command when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, (f"touch {self.mark}",)


def truncate(share: float) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        whole = path.read_bytes()
        path.write_bytes(whole[: int(share * len(whole))])

    return damage


def foreign_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Bomb(path.parent / "bombed")))


def foreign_torch_file(path: Path) -> None:
    torch.save({"epoch": 3, "model": {"weight": torch.zeros(2)}}, path)


def pickle_inside_a_torch_file(path: Path) -> None:
    torch.save(Bomb(path.parent / "bombed"), path)


def newer_version(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    torch.save({**state, "version": 99}, path)


def without_weights(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    del state["model"]
    torch.save(state, path)


def of_another_model(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    state["model"]["backbone.hidden.weight"] = torch.zeros(9, 9)
    torch.save(state, path)


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut short": (truncate(0.5), "not a readable checkpoint"),
    "nearly whole": (truncate(0.999), "not a readable checkpoint"),
    "empty": (truncate(0), "not a readable checkpoint"),
    "text": (lambda path: path.write_text("hello\n"), "not a readable checkpoint"),
    "foreign pickle": (foreign_pickle, "not a readable checkpoint"),
    "pickle inside": (pickle_inside_a_torch_file, "not a readable checkpoint"),
    "foreign torch file": (foreign_torch_file, "not a checkpoint of this project"),
    "a plain tensor": (lambda path: torch.save(torch.ones(3), path), "not a checkpoint of this"),
    "newer version": (newer_version, "checkpoint version 99, this program reads"),
    "without weights": (without_weights, "model|no weights"),
    "of another model": (of_another_model, "of another model than the configuration describes"),
    "directory": (directory, "not a readable checkpoint"),
}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")  # of a foreign file
@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint_is_told_with_its_file_and_nothing_in_it_is_run(
    whole: Finished, tmp_path: Path, train_one: Callable[..., Any], name: str
) -> None:
    damage, message = DAMAGES[name]
    folder = tmp_path / "run"
    shutil.copytree(whole.after[2], folder)
    (folder / PREVIOUS).unlink()
    damage(folder / CHECKPOINT)
    before = contents(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_run(folder)
    assert str(folder / CHECKPOINT) in str(caught.value)
    ended = train_one("--resume", folder)
    assert ended.code == 2
    assert ended.err.startswith(f"error: {folder / CHECKPOINT}: ")
    assert "Traceback" not in ended.err + ended.out
    assert contents(folder) == before, "a damaged run was written to, or started afresh"
    assert not (folder / "bombed").exists()


@pytest.mark.parametrize("share", [0, 0.5, 0.999, None])
def test_a_checkpoint_cut_short_gives_way_to_the_one_before_it(
    whole: Finished, tmp_path: Path, share: float | None
) -> None:
    """share: of its bytes that are left; None: all of them, one of the weights' flipped."""
    folder = tmp_path / "run"
    shutil.copytree(whole.after[3], folder)
    if share is None:
        content = bytearray((folder / CHECKPOINT).read_bytes())
        weights = load_run(folder).model.state_dict()["backbone.conv1.weight"].numpy().tobytes()
        content[content.index(weights) + 2] ^= 1
        (folder / CHECKPOINT).write_bytes(content)
    else:
        truncate(share)(folder / CHECKPOINT)
    damaged = (folder / CHECKPOINT).read_bytes()
    epochs = []
    execute(whole.config, folder, resume=True, report=lambda epoch: epochs.append(epoch.epoch))
    assert epochs == [3, 4]
    assert_same_run(folder, whole.folder)
    log = (folder / LOG).read_text()
    assert "checkpoint.pt could not be read" in log
    assert "going on from the one before it, of epoch 2" in log
    assert damaged not in contents(folder).values()


def test_without_any_whole_checkpoint_nothing_is_started_afresh(
    whole: Finished, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole.after[3], folder)
    for name in (CHECKPOINT, PREVIOUS):
        truncate(0.5)(folder / name)
    before = contents(folder)
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt: not a readable checkpoint"):
        execute(whole.config, folder, resume=True)
    assert contents(folder) == before


def test_a_process_that_was_relieved_writes_no_more(whole: Finished, tmp_path: Path) -> None:
    folder = tmp_path / "run"

    def relieve(epoch: EpochReport) -> None:
        if epoch.epoch == 2:
            execute(whole.config, folder, resume=True)

    with pytest.raises(RunError, match=r"taken over by .*this process ends"):
        execute(whole.config, folder, report=relieve)
    assert_same_run(folder, whole.folder)


def test_a_missing_checkpoint_is_told(whole: Finished, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole.after[2], folder)
    (folder / BEST).unlink()
    with pytest.raises(CheckpointError, match=r"best\.pt: no such checkpoint"):
        load_run(folder, "best")


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


# atomic writes


def test_a_file_takes_its_place_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"value": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"value": float("nan")})

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise KilledError

    with pytest.raises(KilledError):
        fail()
    assert json.loads(path.read_text()) == {"value": 1}
    assert [one.name for one in tmp_path.iterdir()] == ["a.json"]


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
