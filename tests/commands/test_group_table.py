"""`--group-table`: kept with a run and a sweep, and refused where it is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hlvnn.analysis import load_runs, load_sweep
from hlvnn.commands.promote import PromoteOptions, promote
from hlvnn.errors import DataError, RunError
from hlvnn.records.group_file import GROUPS
from hlvnn.records.run_folder import HYPERPARAMS, LOG, read_config
from hlvnn.records.sweep_folder import read_record
from hlvnn.sweep import group_attributes, plan
from hlvnn.training import execution
from tests.rayless import run_sweep

TrainOne = Callable[..., Any]
WARDS = ("a", "b", "c", "d", "e", "f")
RUN = (
    *("--dataset", "table", "--table", "rows.csv", "--target", "y", "--groups", "ward"),
    *("--backbone", "mlp", "--hidden", "4", "--num-epochs", "2", "--device", "cpu"),
)
SPACE = '''"""Wards."""

BASE = {"dataset": "table", "table": "rows.csv", "target": "y", "groups": ["ward"],
        "backbone": "mlp", "hidden": [4], "num_epochs": 2, "device": "cpu",
        "group_table": "wards.csv"}
METRIC, MODE = "val_loss", "min"


def space(trial):
    return {"lr": trial.suggest_float("lr", 1e-3, 1e-2)}
'''


@pytest.fixture
def wards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a working folder with rows of six wards, and what five of them are like."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    ward = np.repeat(WARDS, np.arange(20, 80, 10))
    frame = pd.DataFrame({"x": rng.normal(size=len(ward)), "ward": ward})
    frame["y"] = frame["x"] + rng.normal(size=len(ward))
    frame.to_csv("rows.csv", index=False)
    pd.DataFrame({"ward": [*WARDS[:5], "z"], "site": list("AABBBB"), "age": range(6)}).to_csv(
        "wards.csv", index=False
    )
    return tmp_path


def kept(folder: Path) -> pd.DataFrame:
    frame = pd.read_parquet(folder / GROUPS)
    return frame[frame["gid"].notna()].set_index("label") if "gid" in frame else frame


def test_a_run_keeps_what_its_groups_are_like_and_says_so(train_one: TrainOne, wards: Path) -> None:
    ended = train_one(*RUN, "--group-table", "wards.csv", "--name", "one")
    assert ended.code == 0, ended.err
    assert "5 of 6 ward have a row, 1 have none (f); 1 row is of no group here (z)" in ended.out
    assert "site: categories A, B; age: a number, 0 to 5" in ended.out
    folder = wards / "results/rows/one"
    frame = kept(folder)
    assert frame["site"].tolist()[:5] == list("AABBB")
    assert pd.isna(frame["site"]["f"])
    assert frame["rows"]["f"] > 2 * frame["rows"]["a"] > 10
    again = pd.read_parquet(folder / GROUPS)
    assert "z" in set(again["label"]), "nothing of the table is lost"

    Path("wards.csv").unlink()
    longer = train_one("--resume", folder, "--num-epochs", "3")
    assert longer.code == 0, longer.err
    pd.testing.assert_frame_equal(kept(folder), frame)

    repeated = train_one("--from-trial", folder, "--name", "two")
    assert repeated.code == 0, repeated.err
    pd.testing.assert_frame_equal(kept(wards / "results/rows/two"), frame)
    record = json.loads((wards / "results/rows/two" / HYPERPARAMS).read_text())
    assert record["origin"].endswith("changed: nothing")

    gone = train_one("--from-trial", folder, "--group-table", "wards2.csv", "--name", "three")
    assert gone.code == 2
    assert "wards2.csv: no such file; give its path with --group-table" in gone.err
    assert not (wards / "results/rows/three").exists()

    runs = load_runs(wards / "results/rows")
    table = runs.groups.read(["gid"], trials=0, epochs=1, split="val", attributes=["site", "rows"])
    assert table["site"].tolist()[:5] == list("AABBB")
    assert table["rows"].tolist() == frame["rows"].tolist()


def test_a_run_may_be_told_later_and_trains_the_same(train_one: TrainOne, wards: Path) -> None:
    for name, flags in (("with", ("--group-table", "wards.csv")), ("without", ())):
        assert train_one(*RUN, *flags, "--name", name).code == 0
    metrics = [
        pd.read_csv(wards / "results/rows" / name / "metrics.csv").filter(like="loss")
        for name in ("with", "without")
    ]
    pd.testing.assert_frame_equal(*metrics, check_exact=True)
    folder = wards / "results/rows/without"
    assert list(kept(folder)) == ["level", "gid", "rows"], "rows are kept in any case"
    told = train_one("--resume", folder, "--group-table", "wards.csv", "--num-epochs", "3")
    assert told.code == 0, told.err
    assert kept(folder)["site"]["a"] == "A"
    assert read_config(folder).data.group_table == Path("wards.csv")
    assert "attributes of groups: wards.csv" in (folder / LOG).read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,age\na,1\n", "no column holds the labels of groups"),
        ("ward,age\na,1\na,2\n", "ward 'a' is there twice, in rows 0 and 1"),
        ("ward,age\nq,1\n", "none of its 1 labels (q) is one of the 6 groups of level 'ward'"),
    ],
)
def test_a_table_that_is_wrong_ends_a_run_before_it_begins(
    train_one: TrainOne, wards: Path, text: str, message: str
) -> None:
    (wards / "wards.csv").write_text(text, encoding="utf-8")
    ended = train_one(*RUN, "--group-table", "wards.csv", "--name", "one")
    assert ended.code == 2
    assert "wards.csv" in ended.err
    assert message in ended.err
    assert not (wards / "results").exists()


def test_a_sweep_keeps_its_table_once_and_trials_need_no_file(wards: Path) -> None:
    root = wards / "study"
    root.mkdir()
    for name in ("rows.csv", "wards.csv"):
        (root / name).write_bytes((wards / name).read_bytes())
    sweep = run_sweep(root, SPACE, 2)
    assert read_record(sweep).fixed["group_table"] == str(root / "wards.csv")
    assert list(pd.read_parquet(sweep / GROUPS)) == ["level", "label", "site", "age"]

    (root / "wards.csv").unlink()  # as on a node that has no such file
    trial = sweep / "trial_0000"
    config = read_config(trial)
    execution.execute(config, sweep / "trial_0002", attributes=False)
    assert list(kept(sweep / "trial_0002")) == ["level", "gid", "rows"]
    found = load_sweep(sweep).groups
    frame = found.read(["n"], epochs=2, split="val", attributes=["site"])
    assert list(frame) == ["n", "site"]
    assert frame["site"].fillna("none").tolist() == [*"AABBB", "none"] * 3

    repeated = wards / "results" / "again"
    execution.execute(config, repeated, attributes=trial)
    assert kept(repeated)["site"].tolist()[:5] == list("AABBB"), "of the sweep that it was in"
    promote(PromoteOptions(trial=str(trial), name="good"))
    (promoted,) = root.glob("results/sota/*/good")
    assert kept(promoted)["site"].tolist()[:5] == list("AABBB")


def test_a_sweep_that_goes_on_may_be_told_another_table(
    wards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hlvnn.commands import tune_search

    root = wards / "study"
    root.mkdir()
    for name in ("rows.csv", "wards.csv"):
        (root / name).write_bytes((wards / name).read_bytes())
    sweep = run_sweep(root, SPACE, 1)
    monkeypatch.chdir(root)
    (root / "wards.csv").unlink()
    same = plan.of(tune_search.parse(["--resume", str(sweep)]))
    assert group_attributes.to_keep(same) is None
    assert group_attributes.told(same) == f"kept in {same.place(GROUPS)}"
    plan.begin(same)

    pd.DataFrame({"ward": WARDS, "beds": range(6)}).to_csv("beds.csv", index=False)
    other = plan.of(tune_search.parse(["--resume", str(sweep), "--group-table", "beds.csv"]))
    assert "beds: a number, 0 to 5" in group_attributes.told(other)
    plan.begin(other)
    assert list(pd.read_parquet(sweep / GROUPS)) == ["level", "label", "beds"]
    assert load_sweep(sweep).groups.read(epochs=1, attributes=["beds"])["beds"].max() == 5


def test_a_sweep_with_a_wrong_table_is_refused_before_it_begins(
    wards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hlvnn.commands import tune_search
    from hlvnn.sweep import building

    (wards / "search_spaces").mkdir()
    (wards / "search_spaces" / "study.py").write_text(SPACE, encoding="utf-8")
    (wards / "wards.csv").write_text("ward,age\na,1\na,2\n", encoding="utf-8")
    planned = plan.of(tune_search.parse(["study", "--name", "s"]))
    with pytest.raises(DataError, match="ward 'a' is there twice"):
        building.check(planned)
    assert not (wards / "results").exists()


def test_an_attribute_that_is_not_known_and_a_damaged_table_are_told(
    train_one: TrainOne, wards: Path
) -> None:
    assert train_one(*RUN, "--group-table", "wards.csv", "--name", "one").code == 0
    groups = load_runs(wards / "results/rows").groups
    with pytest.raises(RunError, match=r"unknown attribute 'sit'; did you mean 'site'\?"):
        groups.read(attributes=["sit"])
    (wards / "results/rows/one" / GROUPS).write_bytes(b"PAR1")
    damaged = load_runs(wards / "results/rows")
    frame = damaged.groups.read(epochs=1, split="val", attributes=["rows"])
    assert frame["rows"].isna().all()
    assert any(GROUPS in problem and "not readable" in problem for problem in damaged.problems)
    frame = damaged.groups.read(epochs=1, split="val", attributes="wards.csv", labels=True)
    assert dict(zip(frame["label"], frame["site"], strict=True))["c"] == "B"
