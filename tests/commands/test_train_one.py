"""`train_one.py`: what a user types, what is shown, and how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from hlvnn import load_run
from hlvnn.config import DataConfig, ModelConfig, RunConfig, TrainConfig, flat_settings
from hlvnn.records.run_folder import CHECKPOINT, LOG, METRICS, read_config, read_metrics
from hlvnn.training.execution import execute
from hlvnn.training.loop import EpochReport
from tests.helpers import ROOT, same_bits, write_folder
from tests.runs import TIMED

TINY = ("--channels", 2, 3, "--hidden", 4)

TrainOne = Callable[..., Any]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_folder(root, "femnist", "large")
    write_folder(root, "femnist", "small", seed=3)
    return write_folder(root, "plays", levels=2)


@pytest.fixture
def here(data_dir: Path, tmp_path: Path) -> tuple[object, ...]:
    """Return the flags that keep a run inside the test's own folders."""
    return ("--data-dir", data_dir, "--results-dir", tmp_path / "results", *TINY)


def only_run(folder: Path) -> Path:
    (run,) = folder.iterdir()
    return run


def python(*args: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "train_one.py"), *map(str, args)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
    )


# as the design writes it

EXAMPLE = """
    --dataset femnist --data-size large --model-size large --latent-config double --z-dim 10 10
    --lr 0.001 --batch-size 200 --num-epochs 5 --eval-every 1 --print-freq 10 --seed 27436
    --testing --description
"""


def test_the_designs_example_runs_as_a_program(here: tuple[object, ...], tmp_path: Path) -> None:
    ended = python(*EXAMPLE.split(), "added second latent", *here, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    run = only_run(tmp_path / "results" / "tests")
    assert run.name.endswith("_double_seed27436")
    assert "DoubleLatentCNN on femnist" in ended.stdout
    assert "description: added second latent" in ended.stdout
    assert ended.stdout == (run / LOG).read_text()
    config = read_config(run)
    assert config.data.data_size == "large"
    assert config.model.model_size == "large"
    assert config.model.latent_config == ("double",)
    assert config.model.z_dim == (10, 10)
    assert config.train.batch_size == 200
    assert config.seed == 27436
    assert config.testing
    assert read_metrics(run)["epoch"].tolist() == [1, 2, 3, 4, 5]


def test_a_users_mistake_is_one_line_and_status_2_as_a_program(tmp_path: Path) -> None:
    ended = python("--dataset", "digitts", cwd=tmp_path)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: unknown data set 'digitts'; did you mean 'digits'?")
    assert ended.stderr.count("\n") == 1
    assert ended.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_help_lists_every_setting_with_its_meaning(train_one: TrainOne) -> None:
    ended = train_one("--help")
    assert ended.code == 0
    for name in flat_settings():
        assert f"--{name.replace('_', '-')}" in ended.out
    for part in (DataConfig, ModelConfig, TrainConfig):
        for name, field in part.model_fields.items():
            assert field.description, f"{name} has no line of meaning"
    assert "python train_one.py --from-trial" in ended.out


def test_the_same_flags_give_the_same_numbers(
    train_one: TrainOne, here: tuple[object, ...], tmp_path: Path
) -> None:
    for name in ("a", "b"):
        flags = ("--dataset", "plays", "--latent-config", "factor", "--num-epochs", 2)
        assert train_one(*flags, *here, "--name", name).code == 0
    a, b = (tmp_path / "results" / "plays" / name for name in "ab")
    pd.testing.assert_frame_equal(
        read_metrics(a).drop(columns=TIMED), read_metrics(b).drop(columns=TIMED), check_exact=True
    )
    assert same_bits(load_run(a).model, load_run(b).model)


def test_the_two_sizes_of_the_data_are_two_folders(
    train_one: TrainOne, here: tuple[object, ...], tmp_path: Path
) -> None:
    hashes = set()
    for size in ("small", "large"):
        flags = ("--dataset", "femnist", "--data-size", size, "--num-epochs", 1, "--name", size)
        assert train_one(*flags, *here).code == 0
        record = (tmp_path / "results" / "femnist" / size / "hyperparams.json").read_text()
        hashes.add(json.loads(record)["data_hash"])
    assert len(hashes) == 2


def test_latents_may_be_written_out(
    train_one: TrainOne, here: tuple[object, ...], tmp_path: Path
) -> None:
    ended = train_one(
        "--dataset", "plays", "--num-epochs", 1, "--name", "a", *here,
        "--latents",
        "concat@hidden+bias@output level=gid prior=learned",
        "concat@conv1 level=gid2 width=3 posterior=full_rank prior=learned_full",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert "gid concat@hidden+bias@output (width 4); gid2 concat@conv1 (width 3)" in ended.out
    assert len(load_run(tmp_path / "results" / "plays" / "a").model.latents) == 2


def test_names_may_be_combined(train_one: TrainOne, here: tuple[object, ...]) -> None:
    for flags in (("factor+bias",), ("factor", "bias")):
        ended = train_one("--dataset", "plays", "--num-epochs", 1, "--latent-config", *flags, *here,
                          "--name", "-".join(flags))  # fmt: skip
        assert ended.code == 0, ended.err
        assert "HierarchicalCNN on plays" in ended.out
        assert "gid concat@output (width 10)" in ended.out
        assert "gid2 bias@output (width 4)" in ended.out


def test_a_table_is_trained_on_from_its_file(train_one: TrainOne, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "score": random.normal(size=60),
            "hours": random.random(60),
            "school": random.choice(["a", "b", "c"], 60),
            "town": random.choice(["x", "y"], 60),
        }
    )
    frame.to_csv(tmp_path / "pupils.csv", index=False)
    ended = train_one(
        "--dataset", "table", "--table", tmp_path / "pupils.csv", "--target", "score",
        "--groups", "school", "town", "--latent-config", "bias", "--prior", "learned",
        "--batch-size", "None", "--num-epochs", 2, "--results-dir", tmp_path / "results",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    run = load_run(only_run(tmp_path / "results" / "pupils"))
    assert run.config.train.batch_size is None
    assert run.schema.columns == ("hours",)
    assert [level.name for level in run.schema.levels] == ["school", "town"]


def test_a_diverged_run_ends_with_status_1(
    train_one: TrainOne, here: tuple[object, ...], tmp_path: Path
) -> None:
    flags = ("--dataset", "plays", "--lr", 1e38, "--lr-schedule", "constant", "--num-epochs", 9)
    ended = train_one(*flags, *here, "--name", "a", "--latent-config", "factor")
    assert ended.code == 1
    assert "ended as diverged" in ended.out
    assert "Traceback" not in ended.err
    run = tmp_path / "results" / "plays" / "a"
    if (run / CHECKPOINT).exists():
        assert train_one("--resume", run).code == 1


def test_debug_shows_the_shapes_of_the_first_batch(
    train_one: TrainOne, here: tuple[object, ...]
) -> None:
    ended = train_one("--dataset", "plays", "--debug", "--num-epochs", 1, *here)
    assert ended.code == 0, ended.err
    assert "first batch  x: [53, 8, 8] uint8" in ended.out


# what is wrong is told, with the nearest


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--dataset", "plays", "--num-epoch", 3), ["--num-epochs"]),
        (("--dataset", "plays", "--bath-size", 3), ["--batch-size"]),
        (("--dataset", "plays", "--model-size", "huge"), ["small", "large"]),
        (("--dataset", "plays", "--lr", "fast"), ["fast", "float"]),
        (("--dataset", "playes"), ["unknown data set 'playes'; did you mean 'plays'?", "digits"]),
        ((), ["--dataset is missing"]),
        (
            ("--dataset", "plays", "--latent-config", "duoble"),
            ["unknown latent configuration 'duoble'; did you mean 'double'?"],
        ),
        (
            ("--dataset", "plays", "--latents", "concat@hiden level=gid"),
            ["stage of backbone cnn 'hiden'; did you mean 'hidden'?"],
        ),
        (
            ("--dataset", "plays", "--latents", "concta@hidden level=gid"),
            ["unknown placement 'concta'; did you mean 'concat'?"],
        ),
        (
            ("--dataset", "plays", "--latents", "concat@hidden level=gid3"),
            ["unknown group level 'gid3'; did you mean 'gid"],
        ),
        (("--dataset", "plays", "--prior", "learnd"), ["did you mean 'learned'?"]),
        (("--dataset", "plays", "--backbone", "lstm"), ["--backbone lstm reads tokens", "cnn"]),
        (
            ("--dataset", "plays", "--latent-config", "double", "--z-dim", 1, 2, 3),
            ["--z-dim has 3 widths (1 2 3)", "gid concat@output, gid2 concat@output"],
        ),
        (("--dataset", "plays", "--data-size", "large"), ["large: no such folder", "has small"]),
        (("--dataset", "plays", "--hold-out", 0.5), ["--unseen prior"]),
        (("--dataset", "plays", "--name", "a/b"), ["a plain name is expected"]),
        (("--space", "digitz", "--draw", 0), ["unknown search space 'digitz'", "'digits'"]),
        (("--space", "digits"), ["--space and --draw belong together"]),
        (("--resume", "x", "--from-trial", "y"), ["--resume and --from-trial: give only one"]),
        (("--resume", "nowhere"), ["nowhere/hyperparams.json: no such file"]),
        (
            ("--dataset", "plays", "--objective", "iwae", "--kl-weight", 0.5),
            ["--kl-weight 0.5 does not go with --objective iwae"],
        ),
        (
            ("--dataset", "plays", "--objective", "iwae", "--latent-config", "embedding"),
            ["--objective iwae: latent gid concat@output has posterior point"],
        ),
    ],
    ids=lambda value: " ".join(map(str, value))[:50] if isinstance(value, tuple) else "",
)
def test_a_mistake_ends_with_status_2_and_what_was_meant(
    train_one: TrainOne,
    here: tuple[object, ...],
    tmp_path: Path,
    flags: tuple[object, ...],
    told: list[str],
) -> None:
    ended = train_one(*flags, *here)
    assert ended.code == 2
    text = " ".join(ended.err.replace("│", " ").split())  # without box and line breaks
    for words in told:
        assert words in text
    assert "Traceback" not in ended.err + ended.out
    assert not (tmp_path / "results").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_ends_with_status_2(
    train_one: TrainOne, here: tuple[object, ...], tmp_path: Path
) -> None:
    ended = train_one("--dataset", "plays", "--device", "cuda", *here)
    assert ended.code == 2
    assert ended.err == (
        "error: --device cuda: torch sees 0 GPUs on this machine; use --device cpu, or auto\n"
    )
    assert not (tmp_path / "results").exists()


def test_a_taken_name_ends_with_status_2_and_nothing_changes(
    train_one: TrainOne, here: tuple[object, ...], tmp_path: Path
) -> None:
    flags = ("--dataset", "plays", "--num-epochs", 1, "--name", "a", *here)
    assert train_one(*flags).code == 0
    run = tmp_path / "results" / "plays" / "a"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    ended = train_one(*flags)
    assert ended.code == 2
    assert "exists already; nothing was overwritten" in ended.err
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


# a run from another


@pytest.fixture
def finished(train_one: TrainOne, here: tuple[object, ...], tmp_path: Path) -> Path:
    flags = ("--dataset", "plays", "--latent-config", "factor", "--num-epochs", 3, "--lr", 0.01)
    assert train_one(*flags, *here, "--seed", 7, "--dropout", 0.2, "--name", "first").code == 0
    return tmp_path / "results" / "plays" / "first"


def test_a_trial_is_repeated_with_the_same_numbers(train_one: TrainOne, finished: Path) -> None:
    into = ("--results-dir", finished.parent.parent)
    ended = train_one("--from-trial", finished, "--name", "again", *into)
    assert ended.code == 0, ended.err
    again = finished.parent / "again"
    assert read_config(again) == read_config(finished)
    assert same_bits(load_run(again).model, load_run(finished).model)


def test_further_flags_change_a_repeated_trial(train_one: TrainOne, finished: Path) -> None:
    flags = ("--num-epochs", 1, "--latent-config", "bias", "--testing", "--name", "other")
    ended = train_one("--from-trial", finished, *flags, "--results-dir", finished.parent.parent)
    assert ended.code == 0, ended.err
    config = read_config(finished.parent.parent / "tests" / "other")
    expected = read_config(finished)
    assert config.train.num_epochs == 1
    assert config.model.latent_config == ("bias",)
    assert config.train.lr == expected.train.lr
    assert config.seed == 7


def test_a_run_is_continued_where_it_stopped(
    train_one: TrainOne, finished: Path, tmp_path: Path
) -> None:
    def stop(epoch: EpochReport) -> None:
        if epoch.epoch == 2:
            raise InterruptedError

    folder = tmp_path / "results" / "plays" / "stopped"
    with pytest.raises(InterruptedError):
        execute(read_config(finished), folder, report=stop)
    ended = train_one("--resume", folder, "--print-freq", 1)
    assert ended.code == 0, ended.err
    assert "continuing after epoch 2" in ended.out
    assert "epoch 3/3" in ended.out
    assert "epoch 2/3" not in ended.out
    pd.testing.assert_frame_equal(
        read_metrics(folder).drop(columns=TIMED),
        read_metrics(finished).drop(columns=TIMED),
        check_exact=True,
    )
    assert same_bits(load_run(folder).model, load_run(finished).model)


def test_a_continued_run_keeps_its_settings(train_one: TrainOne, finished: Path) -> None:
    before = (finished / METRICS).read_bytes()
    ended = train_one("--resume", finished, "--lr", 0.5)
    assert ended.code == 2
    assert "--lr 0.5 (was 0.01)" in ended.err
    assert (finished / METRICS).read_bytes() == before


def test_one_draw_of_a_search_space_is_run(train_one: TrainOne, tmp_path: Path) -> None:
    results = tmp_path / "results"
    flags = ("--space", "digits", "--draw", 3, "--num-epochs", 1, "--results-dir", results)
    ended = train_one(*flags, *TINY, "--name", "a")
    assert ended.code == 0, ended.err
    config = read_config(results / "digits" / "a")
    assert config.data.dataset == "digits"
    assert config.train.num_epochs == 1
    assert config.seed == 3
    assert 3e-4 <= config.train.lr <= 2e-2
    assert config != RunConfig()
    again = train_one(*flags, *TINY, "--name", "b")
    assert again.code == 0
    assert read_config(results / "digits" / "b") == config
