"""Small data, models and checks that several test files share."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from hlvnn import families
from hlvnn.backbones.base import Backbone
from hlvnn.config import LatentConfig, ModelConfig, RunConfig, flatten
from hlvnn.data import data_of
from hlvnn.data.grouped import GroupedDataset, Level, Rows, Schema, Split, Target, TensorRows
from hlvnn.files import write_json
from hlvnn.latents.placements.base import Placement
from hlvnn.latents.posteriors.base import Posterior
from hlvnn.latents.priors.base import Prior
from hlvnn.likelihoods.base import Likelihood
from hlvnn.models.build import build_model
from hlvnn.models.model import HierarchicalModel
from hlvnn.records.checkpoint import save_checkpoint
from hlvnn.records.run_folder import BEST, CHECKPOINT, HYPERPARAMS, SCHEMA
from hlvnn.stages import Recurrence

M = TypeVar("M", bound=nn.Module)

ROOT = Path(__file__).parent.parent
"""The repository."""

BACKBONES = families.members("backbones")
LIKELIHOODS = families.members("likelihoods")
PLACEMENTS = families.members("latents.placements")
POSTERIORS = tuple(
    name
    for name in families.members("latents.posteriors")
    if not families.member_class("latents.posteriors", name, Posterior, "posterior").reads_rows
)
"""Posteriors that are a table of parameters; for those read off rows see test_amortised.py."""
PRIORS = families.members("latents.priors")

X_SHAPES = {"image": (8, 8), "tokens": (12,), "features": (4,)}
NUM_TOKENS = 10
SMALL = {
    "cnn": {"channels": (2, 3), "kernel_size": 3, "hidden": (4,)},
    "lstm": {"embedding": 3, "lstm": (4, 3), "hidden": (4,)},
    "mlp": {"hidden": (6, 5)},
}
"""Settings that make a backbone tiny."""


def posterior_class(name: str) -> type[Posterior]:
    return families.member_class("latents.posteriors", name, Posterior, "posterior")


def prior_class(name: str) -> type[Prior]:
    return families.member_class("latents.priors", name, Prior, "prior")


def placement_class(name: str) -> type[Placement]:
    return families.member_class("latents.placements", name, Placement, "placement")


def backbone_class(name: str) -> type[Backbone]:
    return families.member_class("backbones", name, Backbone, "backbone")


def likelihood_class(name: str) -> type[Likelihood]:
    return families.member_class("likelihoods", name, Likelihood, "likelihood")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def uneven_groups(rows: int, size: int, seed: int = 0) -> Tensor:
    """Return a group for each row, [rows] int32: every group occurs, later ones more often."""
    extra = torch.multinomial(
        torch.arange(1.0, size + 1), rows - size, True, generator=generator(seed)
    )
    return torch.cat([torch.arange(size), extra]).int()


class Hook:
    """A hook for a backbone's stages made of one function."""

    def __init__(self, enter: Callable[[str, Tensor, Tensor], Tensor]) -> None:
        self.enter = enter

    def __call__(self, stage: str, h: Tensor, pre: Tensor) -> Tensor:
        return self.enter(stage, h, pre)

    def recurrence(self, stage: str) -> Recurrence:
        return Recurrence()


def grouped_data(
    kind: str = "features",
    *,
    levels: Sequence[str] = ("writer",),
    sizes: Sequence[int] = (6, 3),
    target: str = "class",
    classes: int = 5,
    rows: int = 48,
    seed: int = 0,
) -> GroupedDataset:
    """Return made-up data with uneven groups: `rows` to train on, a third as many in val and test.

    A second level is nested in the first one's numbers (group g lies in g modulo its size).
    """
    splits = []
    for part, count in enumerate((rows, rows // 3, rows // 3)):
        lowest = uneven_groups(count, sizes[0], seed + part)
        groups = torch.stack([lowest % size for size in sizes[: len(levels)]], dim=1).int()
        x = _inputs(kind, count, seed + part)
        random = generator(seed + part + 100)
        if target == "class":
            y = torch.cat(
                [torch.arange(classes), torch.randint(classes, (count,), generator=random)]
            )
            y = y[:count]
        else:
            y = 40 + 7 * torch.randn(count, generator=random, dtype=torch.float64) + lowest
        splits.append(Split(x, groups, y))
    schema = Schema(
        levels=tuple(Level(name, size) for name, size in zip(levels, sizes, strict=False)),
        x_kind=kind,  # type: ignore[arg-type]
        x_shape=X_SHAPES[kind],
        num_tokens=NUM_TOKENS if kind == "tokens" else None,
        target=Target("y", "class", num_classes=classes)
        if target == "class"
        else Target("y", "real"),
    )
    return GroupedDataset(schema, *splits)


def _inputs(kind: str, rows: int, seed: int) -> Rows:
    random = generator(seed)
    shape = (rows, *X_SHAPES[kind])
    if kind == "image":
        return TensorRows(torch.randint(256, shape, generator=random, dtype=torch.uint8))
    if kind == "tokens":
        return TensorRows(torch.randint(NUM_TOKENS, shape, generator=random, dtype=torch.uint8))
    return TensorRows(3 + 2 * torch.randn(shape, generator=random))


def data_for(backbone: str, **settings: object) -> GroupedDataset:
    """Return made-up data that the backbone reads."""
    return grouped_data(min(backbone_class(backbone).x_kinds), **settings)  # type: ignore[arg-type]


def small_config(backbone: str = "mlp", **settings: object) -> ModelConfig:
    """Return a configuration of a tiny model."""
    return ModelConfig(backbone=backbone, **{**SMALL.get(backbone, {}), **settings})  # type: ignore[arg-type]


def latent(placement: str, stage: str, level: str = "writer", **settings: object) -> LatentConfig:
    """Return one latent; its width is 2 unless the stage fixes it."""
    return LatentConfig(level=level, stage=stage, placement=placement, **settings)  # type: ignore[arg-type]


def tiny_model(
    data: GroupedDataset, backbone: str = "mlp", seed: int = 0, **settings: object
) -> HierarchicalModel:
    """Return a tiny model for the data, with all its parameters moved off their starts."""
    config = small_config(backbone, **{"z_dim": 2, **settings})
    return randomise(build_model(config, data, seed), seed=seed)


def randomise(module: M, sd: float = 0.3, seed: int = 0) -> M:
    """Add noise to every parameter, so that no test leans on a symmetric start."""
    random = generator(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(sd * torch.randn(parameter.shape, generator=random))
    return module


def reloaded(module: M, fresh: M) -> M:
    """Return `fresh` with the weights of `module`, after a trip through a file's bytes."""
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    buffer.seek(0)
    fresh.load_state_dict(torch.load(buffer, weights_only=True))
    return fresh


def untouched_parameters(module: nn.Module) -> list[str]:
    """Return the names of parameters that no gradient reached (None, or 0 everywhere)."""
    missing = []
    for name, parameter in module.named_parameters():
        gradient = parameter.grad
        if gradient is None or not bool((gradient.to_dense() != 0).any()):
            missing.append(name)
    return missing


def same_bits(one: nn.Module, other: nn.Module) -> bool:
    """Return whether two modules hold the same names and bits."""
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def write_folder(
    root: Path, name: str = "tiny", size: str = "small", *, levels: int = 1, seed: int = 0
) -> Path:
    """Write a folder of arrays in the layout users have: 60 images to train on, 24 to test."""
    folder = root / name / size
    folder.mkdir(parents=True)
    data = grouped_data(
        "image", levels=("low", "high")[:levels], sizes=(6, 3), rows=60, classes=4, seed=seed
    )
    for part in ("train", "test"):
        split = data.splits()[part]
        np.save(folder / f"x_{part}.npy", split.x.all().numpy())
        np.save(folder / f"y_{part}.npy", split.y.numpy())
        for level in range(levels):
            column = "gid" if level == 0 else f"gid{level + 1}"
            np.save(folder / f"{column}_{part}.npy", split.groups[:, level].numpy())
    return root


def untrained_run(folder: Path, config: RunConfig) -> Path:
    """Write the folder of a run whose weights are random: all that reading one needs."""
    data = data_of(config.data)
    model = randomise(build_model(config.model, data, 0))
    folder.mkdir(parents=True)
    record = {"config": flatten(config), "model": model.name, "data_hash": data.digest()}
    write_json(folder / HYPERPARAMS, record)
    write_json(folder / SCHEMA, data.schema.to_json())
    for name in (BEST, CHECKPOINT):
        save_checkpoint({"epoch": 1, "model": model.state_dict()}, folder / name)
    return folder


def readme_block(words: str) -> str:
    """Return the README's one Python example that contains `words`."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    (found,) = [block for block in blocks if words in block]
    return found


def wait_until(condition: Callable[[], object], seconds: float = 120) -> None:
    """Wait until the condition holds; fail if it does not within so many seconds."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.05)
