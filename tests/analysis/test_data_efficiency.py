"""New groups against the rows that they bring: what is scored, and what the command leaves."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from hlvnn.analysis import data_efficiency as efficiency
from hlvnn.commands import data_efficiency
from hlvnn.config import DataConfig, run_config
from hlvnn.data.assemble import assemble
from hlvnn.data.grouped import GroupedDataset, Loaded
from hlvnn.errors import ConfigError, DataError
from hlvnn.inference.metrics import group_table
from hlvnn.inference.predict import score_rows
from hlvnn.models.model import HierarchicalModel
from hlvnn.training.execution import execute
from tests.conftest import Ended
from tests.helpers import grouped_data, latent, tiny_model, write_folder


@pytest.fixture(scope="module")
def data() -> GroupedDataset:
    made = grouped_data(rows=150)
    config = DataConfig(dataset="made-up", hold_out=0.5, unseen="prior", val_fraction=0)
    return assemble(config, Loaded(made.schema, made.train, made.test))


@pytest.fixture(scope="module")
def models(data: GroupedDataset) -> dict[str, HierarchicalModel]:
    encoder = latent("concat", "output", width=2, posterior="amortised", prior="learned")
    return {
        "pooled": tiny_model(data, latent_config=("none",)),
        "free": tiny_model(data, latent_config=("factor",)),
        "read": tiny_model(data, latents=(encoder,), latent_config=("none",)),
    }


def test_each_model_takes_in_new_groups_in_its_own_way(
    models: dict[str, HierarchicalModel],
) -> None:
    methods = [efficiency.method_of(model) for model in models.values()]
    assert methods == [None, "optimise", "encoder"]


def test_all_sizes_and_models_are_scored_on_the_same_other_rows(
    data: GroupedDataset, models: dict[str, HierarchicalModel]
) -> None:
    assert data.test is not None
    rows = efficiency.rows_of_new_groups(models["pooled"], data.test)
    table = efficiency.data_efficiency(models, data.test, sizes=(0, 1, 4), repeats=2, steps=3)
    assert len(table) == 3 * 3 * 2 * table["gid"].nunique()
    size = data.schema.levels[0].size
    expected = np.bincount(rows.gids[:, 0])[size:] - 4
    for _, part in table.groupby(["model", "rows", "repeat"]):
        assert part["n"].tolist() == expected.tolist()
    pooled = table[table["model"] == "pooled"]
    for _, part in pooled.groupby(["repeat", "gid"]):
        assert part["loss"].nunique() == 1, "nothing is learned from the rows"
    free = table[(table["model"] == "free") & (table["repeat"] == 0)]
    assert free.groupby("gid")["loss"].nunique().min() == 3
    losses = pooled[pooled["rows"] == 0].pivot_table(index="repeat", columns="gid", values="loss")
    assert (losses.nunique() == 2).any(), "other rows in every repeat"


def test_rows_brought_are_nested_and_never_scored(data: GroupedDataset) -> None:
    assert data.test is not None
    model = tiny_model(data, latent_config=("factor",))
    rows = efficiency.rows_of_new_groups(model, data.test)
    chosen = efficiency.RowsBrought(rows, 4)
    brought, scored = chosen.draw((0, 0))
    assert brought.shape == (len(chosen.groups), 4)
    assert (rows.gids[brought.flatten(), 0].view(-1, 4) == chosen.groups[:, None]).all()
    together = torch.cat([brought.flatten(), scored])
    assert sorted(together.tolist()) == list(range(len(rows)))
    again = chosen.draw((0, 0))
    assert all(torch.equal(a, b) for a, b in zip((brought, scored), again, strict=True))
    assert not torch.equal(brought, chosen.draw((0, 1))[0])


def test_no_rows_brought_is_plain_prediction(
    data: GroupedDataset, models: dict[str, HierarchicalModel]
) -> None:
    assert data.test is not None
    free = models["free"]
    table = efficiency.data_efficiency(
        {"free": free}, data.test, sizes=(0, 2), repeats=1, num_samples=5, steps=1
    )
    rows = efficiency.rows_of_new_groups(free, data.test)
    _, scored = efficiency.RowsBrought(rows, 2).draw((0, 0))
    groups = data.schema.levels[0].size + len(data.schema.levels[0].new)
    expected = group_table(score_rows(free, rows.subset(scored), 5), 0, groups)
    found = table[table["rows"] == 0].drop(columns=["model", "rows", "repeat"])
    pd.testing.assert_frame_equal(found.reset_index(drop=True), expected)


def test_the_summary_is_paired_by_group() -> None:
    table = pd.DataFrame(
        {
            "model": ["a"] * 4 + ["b"] * 4,
            "rows": 5,
            "repeat": [0, 0, 1, 1] * 2,
            "gid": [7, 8] * 4,
            "n": 10,
            "acc": [0.5, 0.9, 0.7, 0.9, 0.7, 1.0, 0.7, 1.0],
            "loss": [1.0, 0.2, 1.0, 0.4, 0.8, 0.2, 0.8, 0.2],
        }
    )
    a, b = (line for _, line in efficiency.summarise(table).iterrows())
    assert a["acc"] == pytest.approx(0.75)
    assert a["acc_gain"] == 0
    assert (a["groups"], b["groups"]) == (2, 2)
    assert b["acc_gain"] == pytest.approx(0.1)  # 0.1 in both groups
    assert b["acc_gain_se"] == pytest.approx(0, abs=1e-12)
    assert b["loss_gain"] == pytest.approx(0.15)  # 0.2 and 0.1: lower is better
    assert b["loss_gain_se"] == pytest.approx(0.05)
    assert re.search(
        r"b +5 +0.8500 +\+0.1000 ± 0.0000", efficiency.as_text(efficiency.summarise(table))
    )


def test_groups_too_small_to_be_scored_are_left_out_or_refused(
    data: GroupedDataset, models: dict[str, HierarchicalModel], caplog: pytest.LogCaptureFixture
) -> None:
    assert data.test is not None
    rows = efficiency.rows_of_new_groups(models["pooled"], data.test)
    sizes = np.bincount(rows.gids[:, 0])
    sizes = np.sort(sizes[sizes > 0])
    pooled = {"pooled": models["pooled"]}
    table = efficiency.data_efficiency(pooled, rows, sizes=(0, int(sizes[0])), repeats=1)
    assert table["gid"].nunique() == (sizes > sizes[0]).sum()
    assert "left out" in caplog.text
    with pytest.raises(DataError, match=rf"--sizes, up to {sizes[-1] - 1}"):
        efficiency.data_efficiency(pooled, rows, sizes=(int(sizes[-1]),))
    with pytest.raises(DataError, match="no row belongs to a new writer; hold groups out"):
        efficiency.data_efficiency(pooled, data.train)
    with pytest.raises(ConfigError, match="repeats 0"):
        efficiency.data_efficiency(pooled, rows, repeats=0)


def run_folder(root: Path, name: str, **settings: object) -> Path:
    config = run_config(
        {
            "dataset": "tiny",
            "data_dir": root / "data",
            "val_fraction": 0.0,
            "hold_out": 0.4,
            "unseen": "prior",
            "channels": (2, 3),
            "hidden": (4,),
            "num_epochs": 1,
            "device": "cpu",
            **settings,
        },
        "test",
    )
    execute(config, root / "results" / name)
    return root / "results" / name


def test_the_command_writes_tables_and_a_figure(
    tmp_path: Path, analysis: Callable[..., Ended]
) -> None:
    pytest.importorskip("matplotlib")
    write_folder(tmp_path / "data")
    pooled = run_folder(tmp_path, "pooled")
    factor = run_folder(tmp_path, "factor", latent_config="factor", prior="learned")
    flags = ["--sizes", "0", "1", "3", "--steps", "2", "--repeats", "1", "--num-samples", "2"]
    ended = analysis("data-efficiency", pooled, factor, *flags)
    assert ended.code == 0, ended.err
    out = tmp_path / "results"
    table = pd.read_parquet(out / "data_efficiency.parquet")
    assert set(table["model"]) == {"pooled", "factor"}
    summary = pd.read_csv(out / "data_efficiency.csv")
    assert summary[["model", "rows"]].to_numpy().tolist() == [
        [model, rows] for model in ("pooled", "factor") for rows in (0, 1, 3)
    ]
    assert (out / "data_efficiency.png").read_bytes()[:4] == b"\x89PNG"
    assert "better than pooled" in ended.out
    other = run_folder(tmp_path, "other", split_seed=1)
    with pytest.raises(ConfigError, match=r"other: its known and new groups are not those of"):
        data_efficiency.load([pooled, other])
    with pytest.raises(ConfigError, match="no run was given"):
        data_efficiency.load([])
