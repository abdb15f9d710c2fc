"""TensorBoard's event files hold what the run's own tables hold."""

from __future__ import annotations

import importlib.util
import struct
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

from hlvnn.errors import ConfigError
from hlvnn.training import tensorboard
from hlvnn.training.epoch_line import epoch_line
from hlvnn.training.gpu_meter import GpuMeter
from tests.conftest import Ended

pytest.importorskip("tensorboardX")


def written(folder: Path) -> list[tuple[int, str, object]]:
    """Read event files as TensorBoard does: (step, tag, value or histogram), in order."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data, place = path.read_bytes(), 0
        while place < len(data):
            (length,) = struct.unpack_from("<Q", data, place)
            event = Event.FromString(data[place + 12 : place + 12 + length])
            place += 12 + length + 4
            for value in event.summary.value:
                is_histogram = value.HasField("histo")
                content = value.histo if is_histogram else value.simple_value
                found.append((event.step, value.tag, content))
    return found


def test_a_run_leaves_its_metrics_and_groups(
    tmp_path: Path, train_one: Callable[..., Ended]
) -> None:
    flags = ["--dataset", "digits", "--backbone", "mlp", "--hidden", 8, "--latent-config", "factor"]
    where = ["--num-epochs", 2, "--results-dir", tmp_path, "--name", "run", "--tensorboard"]
    ended = train_one(*flags, *where)
    assert ended.code == 0, ended.err
    run = tmp_path / "digits" / "run"
    found = written(run)
    scalars = {(step, tag): value for step, tag, value in found if isinstance(value, float)}
    metrics = pd.read_csv(run / "metrics.csv").set_index("epoch")
    assert len(scalars) == 2 * len(metrics.columns)
    for epoch in (1, 2):
        for tag, column in (
            ("train/loss", "train_loss"),
            ("val/acc", "val_acc"),
            ("val/group_worst", "val_group_worst"),
            ("kl/writer_concat_output", "kl_writer_concat@output"),
            ("run/elbo", "elbo"),
        ):
            expected = metrics[column][epoch]
            assert scalars[epoch, tag] == pytest.approx(expected, rel=1e-6)
    stats = pd.read_parquet(run / "training_stats")
    histograms = {(step, tag): value for step, tag, value in found if not isinstance(value, float)}
    assert {tag for _, tag in histograms} == {
        f"groups/{split}/writer/{name}" for split in ("val", "test") for name in ("acc", "loss")
    }
    for (epoch, tag), histogram in histograms.items():
        _, split, level, measure = tag.split("/")
        chosen = (stats["epoch"] == epoch) & (stats["split"] == split) & (stats["level"] == level)
        values = stats[measure][chosen]
        assert histogram.num == len(values) == 14
        assert (histogram.min, histogram.max) == pytest.approx((values.min(), values.max()))
        assert histogram.sum == pytest.approx(values.sum())
        assert sum(histogram.bucket) == 14


def test_without_the_flag_or_the_package(
    tmp_path: Path, train_one: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--dataset", "digits", "--backbone", "mlp", "--hidden", 4, "--num-epochs", 1]
    where = ["--results-dir", tmp_path, "--name", "run"]
    assert train_one(*flags, *where).code == 0
    assert not list((tmp_path / "digits" / "run").glob("events*"))
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tensorboardX" else find(name)
    )
    ended = train_one(*flags, *where[:3], "other", "--tensorboard")
    assert ended.code == 2
    assert "pip install tensorboardX" in ended.err
    assert not (tmp_path / "digits" / "other").exists()
    with pytest.raises(ConfigError, match="needs tensorboardX"):
        tensorboard.check_installed()


def test_the_epoch_line_tells_how_busy_the_gpu_was() -> None:
    row = {"epoch": 1.0, "train_loss": 1.0, "seconds": 2.0, "rows_per_second": 10.0}
    assert "GPU" not in epoch_line(row, 3)
    assert epoch_line({**row, "gpu_percent": 81.6}, 3).endswith("| GPU 82 %")
    low = epoch_line({**row, "gpu_percent": 31.2}, 3)
    assert low.endswith("| GPU 31 % (below half: try a larger --batch-size)")


def test_of_a_cpu_the_meter_knows_nothing() -> None:
    meter = GpuMeter(torch.device("cpu"))
    meter.sample()
    assert meter.read() == {}


@pytest.mark.gpu
def test_a_gpu_tells_how_busy_it_is() -> None:
    pytest.importorskip("pynvml")
    meter = GpuMeter(torch.device("cuda"))
    for _ in range(30):
        meter.sample()
    assert len(meter.seen) == 1, "not asked again within the period"
    busy = meter.read()["gpu_percent"]
    assert 0 <= busy <= 100
    assert meter.read() == {}, "each reading begins anew"
