"""Random affine maps of images, against scipy's and against what they must leave alone."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from scipy import ndimage

import hlvnn
from hlvnn.data import augment
from hlvnn.data.augment import jittered
from hlvnn.data.grouped import GroupedDataset
from hlvnn.errors import ConfigError
from hlvnn.training.execution import execute
from tests.helpers import grouped_data


def blob(size: int = 28) -> torch.Tensor:
    """One smooth image, off the centre: [1, size, size]."""
    at = torch.arange(size).float()
    x, y = at[None, :], at[:, None]
    return torch.exp(-((x - 17) ** 2 / 18 + (y - 12) ** 2 / 8))[None]


def test_strength_0_changes_nothing() -> None:
    images = blob().expand(5, -1, -1)
    assert torch.allclose(jittered(images, 0.0), images, atol=1e-5)


def test_bytes_become_shares_and_channels_stay() -> None:
    images = torch.randint(256, (4, 3, 20, 24), dtype=torch.uint8)
    assert torch.allclose(jittered(images, 0.0), images / 255, atol=1e-5)
    assert jittered(images, 1.0).shape == images.shape


@pytest.mark.parametrize("only", ["SHIFT", "ROTATE"])
def test_one_map_is_scipys(only: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one amount left, find it from the image's own first and second moments."""
    for name in {"SHIFT", "ROTATE", "SCALE", "SHEAR"} - {only}:
        monkeypatch.setattr(augment, name, 0.0)
    torch.manual_seed(2)
    image = blob()
    moved = jittered(image, 1.0)[0].numpy()
    torch.manual_seed(2)
    amounts = [2 * torch.rand(1).item() - 1 for _ in range(6)]
    middle = (28 - 1) / 2
    if only == "SHIFT":
        across, down = (2 * augment.SHIFT * amount * 14 for amount in amounts[4:])
        expected = ndimage.shift(image[0].numpy(), (-down, -across), order=1)
    else:
        angle = math.radians(augment.ROTATE) * amounts[0]
        turn = [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]
        offset = [middle - sum(middle * part for part in row) for row in turn]
        expected = ndimage.affine_transform(image[0].numpy(), turn, offset=offset, order=1)
    assert abs(moved - expected).max() < 0.02
    assert abs(moved - image[0].numpy()).max() > 0.05


def test_each_image_and_each_call_moves_anew_within_the_bounds() -> None:
    torch.manual_seed(0)
    images = blob().expand(200, -1, -1)
    first, second = jittered(images, 1.0), jittered(images, 1.0)
    assert not torch.equal(first, second)
    assert (first[0] - first[1]).abs().max() > 0.01
    at = torch.arange(28).float()
    center = (first.sum(1) * at).sum(1) / first.sum((1, 2))
    limit = 28 * augment.SHIFT + 5 * (math.radians(augment.ROTATE) + 0.3)
    assert (center - 17).abs().max() < limit


def test_a_fit_moves_images_in_training_only(digits: GroupedDataset) -> None:
    config = hlvnn.ModelConfig(backbone="cnn", hidden=(8,), channels=(2, 4))
    losses = []
    for strength in (0.0, 1.0):
        model = hlvnn.build_model(config, digits, seed=0)
        train = hlvnn.TrainConfig(num_epochs=1, augment=strength, eval_every=1)
        losses.append(hlvnn.fit(model, digits, train, seed=0).history["train_loss"].iloc[0])
    assert losses[0] != losses[1]


def test_only_images_can_be_moved() -> None:
    data = grouped_data()
    model = hlvnn.build_model(hlvnn.ModelConfig(), data)
    with pytest.raises(ConfigError, match=r"--augment 1 moves images; the data are features"):
        hlvnn.fit(model, data, hlvnn.TrainConfig(augment=1.0))


def test_a_refused_run_leaves_no_folder(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("x,g,y\n" + "".join(f"{i},{i % 2},{i % 3}.5\n" for i in range(12)))
    data = hlvnn.DataConfig(dataset="table", table=table, target="y", groups=("g",))
    config = hlvnn.RunConfig(data=data, train=hlvnn.TrainConfig(augment=1.0))
    with pytest.raises(ConfigError, match="--augment 1 moves images"):
        execute(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
