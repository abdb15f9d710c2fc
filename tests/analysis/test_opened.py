"""The table that a sweep opens with: short, with nothing lost, and every column explained."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hlvnn.analysis import Results, load_runs, load_sweep
from hlvnn.analysis.described import page
from hlvnn.analysis.opened import MovedColumnError
from hlvnn.errors import RunError
from hlvnn.records import trials_table
from hlvnn.records.run_folder import STATS, stats_name
from tests.conftest import Ended
from tests.helpers import ROOT
from tests.sweeps import DIVERGED

PARTS = ("trials", "settings", "final", "chosen", "about")


def test_it_opens_with_about_twenty_columns(swept: Results) -> None:
    assert list(swept.trials) == [
        *("trial", "status", "reason", "structure"),
        *("param_dropout", "param_lr", "param_structure", "param_z_dim"),
        *("best_epoch", "best_val_loss", "group_mean", "worst_decile", "group_worst"),
        *("epochs", "seconds"),
    ]
    assert len(swept.table.columns) > 100


def test_nothing_is_lost_and_nothing_stands_twice(swept: Results) -> None:
    """Every column of the whole table stands in exactly one part, the same values, one index."""
    begins = {"final": "final_", "chosen": "best_"}
    found: list[str] = []
    for name in PARTS:
        frame = getattr(swept, name)
        assert frame.index.equals(swept.trials.index)
        for column in frame:
            whole = f"{begins.get(name, '')}{column}"
            if whole not in swept.table:
                assert name == "trials", whole
                assert column in ("group_mean", "worst_decile", "group_worst")
                continue
            found.append(whole)
            pd.testing.assert_series_equal(
                pd.Series(frame[column]),
                swept.table[whole],
                check_names=False,
                check_index_type=False,
            )
    once = set(found) - {"best_val_loss"}  # what it was chosen by opens the table, too
    assert once | {"best_val_loss"} == {*swept.table}
    assert len(found) == len(set(found)) + 1


def test_the_metric_over_groups_is_that_of_the_group_tables_at_the_chosen_epoch(
    swept: Results,
) -> None:
    for number in (0, 2):
        row = swept.trials.loc[number]
        tables = swept.groups.read(trials=number, epochs=int(row["best_epoch"]), split="val")
        losses = np.sort(tables["loss"])
        assert row["group_mean"] == pytest.approx(losses.mean())
        assert row["worst_decile"] == pytest.approx(losses[-1])  # a tenth of 14 groups is one
        assert row["group_worst"] == losses[-1]
    assert swept.trials.loc[DIVERGED, ["group_mean", "worst_decile"]].isna().all()


def test_a_table_of_groups_that_is_cut_leaves_its_trial_without(copy: Path) -> None:
    epoch = int(load_sweep(copy).row(0)["best_epoch"])
    path = copy / "trial_0000" / STATS / stats_name(epoch)
    path.write_bytes(path.read_bytes()[:100])
    results = load_sweep(copy)
    assert results.trials["group_mean"].isna().tolist()[:2] == [True, False]
    assert results.trials["best_val_loss"].notna()[0]


ASKED: dict[str, tuple[Callable[[pd.DataFrame], object], str]] = {
    "one": (lambda trials: trials["lr"], "sweep.settings['lr']"),
    "several": (lambda trials: trials[["trial", "final_val_loss"]], "sweep.final['val_loss']"),
    "get": (lambda trials: trials.get("best_test_acc"), "sweep.chosen['test_acc']"),
    "loc": (lambda trials: trials.loc[:, "folder"], "sweep.about['folder']"),
    "loc of rows": (lambda trials: trials.loc[0, ["trial", "node"]], "sweep.about['node']"),
    "sort": (lambda trials: trials.sort_values("lr"), "sweep.settings['lr']"),
    "group": (lambda trials: trials.groupby("latent_config"), "sweep.settings['latent_config']"),
    "index": (lambda trials: trials.set_index("name"), "sweep.about['name']"),
    "rows": (lambda trials: trials[trials["epochs"] > 1]["error"], "sweep.about['error']"),
    "attribute": (lambda trials: trials.lr, "sweep.settings['lr']"),
}


@pytest.mark.parametrize("asked", ASKED)
def test_a_column_that_stands_elsewhere_is_one_error_that_says_where(
    swept: Results, asked: str
) -> None:
    ask, place = ASKED[asked]
    with pytest.raises((MovedColumnError, AttributeError)) as raised:
        ask(swept.trials)
    assert f"it is {place} (the same rows, the same index)" in str(raised.value)
    assert len(eval(place, {"sweep": swept})) == len(swept.trials)


OF_ROW: dict[str, Callable[[pd.DataFrame], object]] = {
    "loc": lambda trials: trials.loc[3]["lr"],
    "iloc": lambda trials: trials.iloc[3]["lr"],
    "iterrows": lambda trials: [row for _, row in trials.iterrows()][3]["lr"],
    "get": lambda trials: trials.loc[3].get("lr"),
    "row's loc": lambda trials: trials.loc[3].loc[["trial", "lr"]],
    "several": lambda trials: trials.loc[3][["trial", "lr"]],
    "attribute": lambda trials: trials.loc[3].lr,
    "apply": lambda trials: trials.iloc[3:4].apply(lambda row: row["lr"], axis="columns"),
    "of sorted rows": lambda trials: trials.sort_values("trial").iloc[3]["lr"],
}


@pytest.mark.parametrize("asked", OF_ROW)
def test_a_row_says_where_a_column_of_it_stands(swept: Results, asked: str) -> None:
    with pytest.raises((MovedColumnError, AttributeError)) as raised:
        OF_ROW[asked](swept.trials)
    place = "sweep.settings['lr'].loc[3]"
    assert f"trials has no column 'lr': it is {place};" in str(raised.value)
    assert eval(place, {"sweep": swept}) == swept.row(3)["lr"]


def test_rows_and_columns_are_else_as_pandas_has_them(swept: Results) -> None:
    row = swept.trials.loc[1]
    assert row["status"] == row.status == "completed"
    assert row.name == 1
    assert type(swept.trials["status"]) is type(row.dropna()) is pd.Series
    with pytest.raises(KeyError, match="nothing"):
        row["nothing"]
    assert row.get("nothing", 3) == 3
    assert row.to_dict() == swept.trials.iloc[1].to_dict() == {**row}
    assert swept.trials.isna().sum()["trial"] == 0
    assert pd.DataFrame([row])["trial"].tolist() == [1]


def test_the_error_is_ours_and_pandas_and_others_stay_as_they_are(swept: Results) -> None:
    assert issubclass(MovedColumnError, RunError)
    with pytest.raises(KeyError, match="nothing"):
        swept.trials["nothing"]
    assert swept.trials.get("nothing", 3) == 3
    changed = swept.trials.copy()
    changed["lr"] = 1.0
    changed.loc[0, "lr"] = 2.0
    assert changed["lr"].tolist()[:2] == [2.0, 1.0]
    changed.loc[changed["epochs"] > 1, ["lr"]] = 5.0
    joined = swept.trials.join(swept.settings[["lr"]])
    assert joined["lr"].equals(swept.settings["lr"])
    assert isinstance(swept.trials.describe(), pd.DataFrame)
    assert "15 columns" in repr(swept.trials)


def test_the_best_are_rows_of_it(swept: Results) -> None:
    best = swept.best(3)
    assert list(best) == ["rank", *swept.trials]
    assert best["rank"].tolist() == [1, 2, 3]
    assert best["best_val_loss"].tolist() == swept.placed["best_val_loss"].tolist()[:3]
    with pytest.raises(MovedColumnError, match=r"sweep\.settings"):
        best["lr"]


def test_single_runs_are_known_by_their_names(small_sweep: Path, tmp_path: Path) -> None:
    for number, name in ((0, "pooled"), (1, "latents")):
        shutil.copytree(small_sweep / f"trial_{number:04d}", tmp_path / name)
    runs = load_runs(tmp_path)
    for name in PARTS:
        assert getattr(runs, name).index.tolist() == ["latents", "pooled"]
    assert runs.best(1)["name"].tolist() == ["latents"]
    assert runs.settings.loc["pooled", "latent_config"] == "none"
    with pytest.raises(MovedColumnError, match=r"it is sweep\.trials\.index"):
        runs.trials["name"]
    with pytest.raises(MovedColumnError, match="it is the row's own name, 'latents'"):
        runs.trials.iloc[0]["name"]
    with pytest.raises(MovedColumnError, match=r"settings\['lr'\]\.loc\['pooled'\]"):
        runs.trials.loc["pooled"]["lr"]


def test_files_on_disk_are_as_they_were(swept: Results) -> None:
    """Whoever reads trials.parquet finds every column that `table` has."""
    written = pd.read_parquet(swept.path / trials_table.TRIALS)
    assert {"lr", "final_val_loss", "best_val_loss", "param_lr", "folder"} <= {*written}
    assert {*written} <= {*swept.table}


def test_every_column_of_every_table_is_described(swept: Results) -> None:
    told = swept.describe()
    assert list(told) == ["column", "meaning", "unit", "table"]
    assert told["meaning"].ne("").all(), told[told["meaning"] == ""]
    for name in (*PARTS, "epochs"):
        assert told.loc[told["table"] == name, "column"].tolist() == list(getattr(swept, name))
    known = told.set_index(["table", "column"])
    assert known.loc[("trials", "seconds"), "unit"] == "s"
    assert known.loc[("chosen", "val_loss"), "unit"] == "nats/row"
    assert known.loc[("settings", "lr"), "meaning"] == "Peak learning rate."
    assert "learning rate at" in known.loc[("epochs", "lr"), "meaning"]
    kept = told[told["table"] == "groups"]["column"].tolist()
    assert kept == swept.groups.columns


def test_the_page_of_columns_is_what_the_command_makes(analysis: Callable[..., Ended]) -> None:
    ended = analysis("columns")
    assert (ended.code, ended.out) == (0, page())
    assert (ROOT / "docs" / "columns.md").read_text(encoding="utf-8") == page(), (
        "make it again: python -m hlvnn.analysis columns --out docs/columns.md"
    )
    for line in page().splitlines():
        if line.startswith("| `"):
            assert line.split("|")[2].strip(), line
