"""A damaged checkpoint is told with its file, runs nothing, and gives way to the one before it."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hlvnn import load_run
from hlvnn.errors import CheckpointError
from hlvnn.records.run_folder import BEST, CHECKPOINT, LOG
from hlvnn.training.execution import execute
from tests.runs import PREVIOUS, Finished, assert_same_run, contents


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


def test_a_missing_checkpoint_is_told(whole: Finished, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole.after[2], folder)
    (folder / BEST).unlink()
    with pytest.raises(CheckpointError, match=r"best\.pt: no such checkpoint"):
        load_run(folder, "best")
