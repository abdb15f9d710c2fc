"""A run begins soundly or not at all, and is continued wherever it was killed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from hlvnn.errors import ConfigError, DataError, HlvnnError, ResourceError, RunError
from hlvnn.records.run_folder import (
    BEST,
    CHECKPOINT,
    HYPERPARAMS,
    LOG,
    METRICS,
    SCHEMA,
    STATS,
    read_metrics,
)
from hlvnn.training.execution import execute, new_folder
from hlvnn.training.going_on import SUPERSEDED
from hlvnn.training.loop import EpochReport
from tests.helpers import write_folder
from tests.runs import (
    PREVIOUS,
    Finished,
    KilledError,
    assert_same_run,
    configured,
    contents,
    stats_of,
)

WRITES = [f"{STATS}/epoch_0003.parquet", METRICS, BEST, CHECKPOINT]
"""Files of an epoch, in the order in which they are written."""


# killed, and continued from there


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
    whole: Finished, image_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    execute(configured(image_folder, num_epochs=1), folder)
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


def test_what_an_earlier_start_measured_is_put_aside_and_not_mixed_in(
    image_folder: Path, tmp_path: Path
) -> None:
    """Killed after three epochs and before its first checkpoint, then after one more."""
    folder, config = tmp_path / "run", configured(image_folder, checkpoint_every=4)

    def stop(epoch: EpochReport) -> None:
        if epoch.epoch == 3:
            raise KilledError

    with pytest.raises(KilledError):
        execute(config, folder, report=stop)
    (folder / CHECKPOINT).unlink()
    measured = {name: (folder / name).read_bytes() for name in WRITES[:2]}

    def look(epoch: EpochReport) -> None:
        assert len(read_metrics(folder)) == len(stats_of(folder)) == epoch.epoch == 1
        raise KilledError

    with pytest.raises(KilledError):
        execute(config, folder, report=look, resume=True)
    for name, content in measured.items():
        assert (folder / SUPERSEDED / name).read_bytes() == content
    assert "epochs 1 to 3 are trained again" in (folder / LOG).read_text()


@pytest.mark.parametrize("ended", [True, False])
def test_a_run_whose_weights_are_gone_is_refused_and_left_alone(
    whole: Finished, tmp_path: Path, ended: bool
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole.folder if ended else whole.after[3], folder)
    for name in (CHECKPOINT, PREVIOUS, BEST):
        (folder / name).unlink()
    before = contents(folder)
    with pytest.raises(RunError, match=r"4 epochs.*checkpoint.pt is missing" if ended else "3 ep"):
        execute(whole.config, folder, resume=True)
    assert contents(folder) == before


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
    whole: Finished, image_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole.after[2], folder)
    execute(configured(image_folder, print_freq=1, results_dir=tmp_path), folder, resume=True)
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
    whole: Finished, image_folder: Path, tmp_path: Path, settings: dict[str, Any], told: str
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole.after[2], folder)
    before = contents(folder)
    with pytest.raises(ConfigError) as caught:
        execute(configured(image_folder, **settings), folder, resume=True)
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


def test_a_name_that_is_taken_is_refused(image_folder: Path, tmp_path: Path) -> None:
    config = configured(image_folder, results_dir=tmp_path)
    assert new_folder(config, "a") == tmp_path / "tiny" / "a"
    (tmp_path / "tiny" / "a").mkdir(parents=True)
    with pytest.raises(RunError, match=r"exists already.*--resume"):
        new_folder(config, "a")


@pytest.mark.parametrize("name", ["../a", "a/b", "/tmp/a", "..", "."])
def test_a_name_that_is_a_path_is_refused(image_folder: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(RunError, match="a plain name is expected"):
        new_folder(configured(image_folder, results_dir=tmp_path), name)


def test_a_run_is_filed_under_its_data_set_or_as_a_test(image_folder: Path, tmp_path: Path) -> None:
    config = configured(image_folder, results_dir=tmp_path)
    folder = new_folder(config)
    assert folder.parent == tmp_path / "tiny"
    assert folder.name.endswith("_double_seed5")
    assert new_folder(configured(image_folder, results_dir=tmp_path, testing=True)).parent == (
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
    image_folder: Path, tmp_path: Path, settings: dict[str, Any], error: type[HlvnnError]
) -> None:
    with pytest.raises(error):
        execute(configured(image_folder, **settings), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_was_relieved_writes_no_more(whole: Finished, tmp_path: Path) -> None:
    folder = tmp_path / "run"

    def relieve(epoch: EpochReport) -> None:
        if epoch.epoch == 2:
            execute(whole.config, folder, resume=True)

    with pytest.raises(RunError, match=r"taken over by .*this process ends"):
        execute(whole.config, folder, report=relieve)
    assert_same_run(folder, whole.folder)
