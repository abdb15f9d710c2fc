"""A sweep's tables and files for other programs: what these read is what is there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from hlvnn.analysis import Results, load_runs
from hlvnn.errors import ConfigError, RunError
from tests.helpers import ROOT

NAMES = ("trials", "settings", "chosen", "final", "about", "epochs", "columns")


def block(kind: str, sweep: Path) -> str:
    text = (ROOT / "docs" / "query.md").read_text(encoding="utf-8")
    (found,) = re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL)
    return str(found).replace("SWEEP", str(sweep))


def expected(swept: Results) -> pd.DataFrame:
    """Return what the queries ask for, by our own tables."""
    tables = swept.groups.read(["epoch", "loss", "trial"], split="val")
    means = tables.groupby(["trial", "epoch"])["loss"].agg(["mean", "max"]).reset_index()
    return means.sort_values("mean", ignore_index=True).head(5)


def test_duckdb_reads_the_tables_of_groups(swept: Results) -> None:
    duckdb = pytest.importorskip("duckdb")
    found = duckdb.sql(block("sql", swept.path)).fetchall()
    wanted = expected(swept)
    assert [row[:2] for row in found] == [
        tuple(row) for row in wanted[["trial", "epoch"]].to_numpy()
    ]
    assert [row[2] for row in found] == pytest.approx(wanted["mean"].tolist())
    assert [row[3] for row in found] == pytest.approx(wanted["max"].tolist())


def test_polars_reads_the_tables_of_groups(swept: Results) -> None:
    pytest.importorskip("polars")
    names: dict[str, Any] = {}
    exec(block("python", swept.path), names)
    answer, wanted = names["answer"], expected(swept)
    assert answer["trial"].to_list() == wanted["trial"].tolist()
    assert answer["epoch"].to_list() == wanted["epoch"].tolist()
    assert answer["worst"].to_list() == pytest.approx(wanted["max"].tolist())


def test_the_tables_are_written_as_csv(swept: Results, tmp_path: Path) -> None:
    swept.to_csv(tmp_path / "new" / "tables")
    written = {path.stem: path for path in (tmp_path / "new" / "tables").iterdir()}
    assert set(written) == set(NAMES)
    for name in ("settings", "chosen"):
        frame = pd.read_csv(written[name])
        assert frame["trial"].tolist() == swept.trials["trial"].tolist()
    lr = pd.read_csv(written["settings"])["lr"]
    assert lr[0] == pytest.approx(swept.settings["lr"][0])
    assert pd.read_csv(written["columns"])["meaning"].notna().all()
    assert len(pd.read_csv(written["epochs"])) == len(swept.epochs)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        swept.to_csv(tmp_path / "file" / "below")


def test_the_tables_are_the_sheets_of_a_workbook(
    small_sweep: Path, swept: Results, tmp_path: Path
) -> None:
    pytest.importorskip("openpyxl")
    swept.to_excel(tmp_path / "sweep.xlsx")
    sheets = pd.read_excel(tmp_path / "sweep.xlsx", sheet_name=None)
    assert tuple(sheets) == NAMES
    assert sheets["trials"]["best_val_loss"][1] == pytest.approx(swept.trials["best_val_loss"][1])
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.xlsx"]
    with pytest.raises(ConfigError, match=r"name ends in \.xlsx"):
        swept.to_excel(tmp_path / "sweep.ods")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "one").symlink_to(small_sweep / "trial_0000")
    load_runs(tmp_path / "runs").to_excel(tmp_path / "runs.xlsx")
    names = pd.read_excel(tmp_path / "runs.xlsx", sheet_name="settings")["name"]
    assert names.tolist() == ["one"]
