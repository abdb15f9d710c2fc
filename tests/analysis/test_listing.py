"""What there is below a folder: every sweep and run, the damaged ones as such."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from hlvnn.analysis import Results, listing
from hlvnn.errors import RunError
from hlvnn.records.journal import JOURNAL
from hlvnn.records.run_folder import HYPERPARAMS, METRICS, RESULT
from hlvnn.records.sweep_folder import SWEEP, locking
from tests.conftest import Ended
from tests.sweeps import TRIALS


def started(folder: Path, time: str) -> None:
    record = json.loads((folder / HYPERPARAMS).read_text())
    (folder / HYPERPARAMS).write_text(json.dumps(record | {"started": time}))


@pytest.fixture
def results(small_sweep: Path, tmp_path: Path) -> Path:
    """Return a root of results: a sweep, runs of each kind, and what is damaged."""
    root = tmp_path / "results"
    shutil.copytree(small_sweep, root / "digits" / "swept")
    for name in ("whole", "diverged", "cut", "broken", "lost"):
        number = 5 if name == "diverged" else 1
        folder = root / "digits" / name
        shutil.copytree(small_sweep / f"trial_{number:04d}", folder)
        (folder / "outcome.json").unlink()  # they are single runs
    started(root / "digits" / "whole", "2020-01-02T00:00:00+00:00")
    started(root / "digits" / "diverged", "2020-01-01T00:00:00+00:00")
    (root / "digits" / "cut" / RESULT).unlink()
    (root / "digits" / "broken" / HYPERPARAMS).write_text('{"config": ')
    (root / "digits" / "lost" / HYPERPARAMS).unlink()
    shutil.copytree(small_sweep, root / "other" / "unread")
    (root / "other" / "unread" / SWEEP).write_text("[]")
    shutil.copytree(small_sweep, root / "other" / "headless")
    (root / "other" / "headless" / SWEEP).unlink()
    (root / "empty").mkdir()
    return root


def test_every_sweep_and_run_is_listed_with_how_it_stands(
    results: Path, swept: Results, analysis: Callable[..., Ended]
) -> None:
    frame = listing(results).set_index("name")
    assert frame["status"].to_dict() == {
        "digits/swept": "stopped",
        "digits/whole": "completed",
        "digits/diverged": "diverged",
        "digits/cut": "stopped",
        "digits/broken": "damaged",
        "digits/lost": "damaged",
        "other/unread": "damaged",
        "other/headless": "damaged",
    }
    one = frame.loc["digits/swept"]
    assert (one["kind"], one["metric"], one["of"]) == ("sweep", "val_loss", TRIALS)
    assert one["best"] == swept.trials["best_val_loss"].min()
    assert one["done"] == 7  # three are open: one runs no more, two were never begun
    run = frame.loc["digits/whole"]
    assert (run["kind"], run["done"], run["of"]) == ("run", 6, 6)
    assert run["best"] == swept.row(1)["best_val_loss"]
    folder = results / "digits" / "whole"
    assert run["bytes"] == sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    assert "it still runs, or was cut off" in frame.loc["digits/cut", "note"]
    assert frame.index[-2:].tolist() == ["digits/whole", "digits/diverged"]  # the oldest last
    assert frame["started"].is_monotonic_decreasing

    ended = analysis("ls", results)
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert len([line for line in lines if re.match(r" *(sweep|run) ", line)]) == len(frame)
    whole = next(line for line in lines if "digits/whole" in line)
    assert re.search(r"completed +val_loss 0\.\d+ +6 of 6 epochs +\d.* KB +\d+ days", whole)
    assert "\nother/headless: " in ended.out
    assert "sweep.json is missing" in ended.out


def test_a_sweep_that_is_worked_on_runs(results: Path) -> None:
    with locking(results / "digits" / "swept"):
        frame = listing(results / "digits").set_index("name")
    assert frame.loc["swept", "status"] == "running"


def test_one_run_or_sweep_is_listed_by_itself(results: Path) -> None:
    assert listing(results / "digits" / "whole")["name"].tolist() == ["whole"]
    assert listing(results / "digits" / "swept")["kind"].tolist() == ["sweep"]


@pytest.mark.parametrize("name", [HYPERPARAMS, METRICS, RESULT, "schema.json", "outcome.json"])
@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"config": 3}', "a,b\n1"])
def test_no_damage_ends_the_list(results: Path, name: str, text: str) -> None:
    folder = results / "digits" / "whole"
    (folder / name).write_text(text)
    frame = listing(results / "digits").set_index("name")
    assert len(frame) == 6
    assert frame.loc["whole", "status"] in ("damaged", "completed", "stopped")


@pytest.mark.parametrize("name", [SWEEP, JOURNAL, "trials.parquet"])
@pytest.mark.parametrize("text", ["", "{}", "null", '{"space": {}}'])
def test_no_damage_of_a_sweep_ends_the_list(results: Path, name: str, text: str) -> None:
    (results / "digits" / "swept" / name).write_text(text)
    frame = listing(results / "digits").set_index("name")
    assert len(frame) == 6
    told = frame.loc["swept"]
    assert told["status"] == "damaged" or "damaged" in told["note"] or name == "trials.parquet"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look into every folder")
def test_a_folder_that_may_not_be_looked_into_is_listed_as_such(results: Path) -> None:
    (results / "empty").chmod(0)
    try:
        frame = listing(results).set_index("name")
    finally:
        (results / "empty").chmod(0o700)
    assert frame.loc["empty", "status"] == "damaged"


def test_no_folder_and_nothing_in_it_are_said(
    tmp_path: Path, analysis: Callable[..., Ended]
) -> None:
    assert "there are no sweeps and no runs in" in analysis("ls", tmp_path).out
    ended = analysis("ls", tmp_path / "nowhere")
    assert ended.code == 2
    assert "no such folder; give the root of the results" in ended.err
    with pytest.raises(RunError, match="no such folder"):
        listing(tmp_path / "nowhere")
    assert isinstance(listing(tmp_path), pd.DataFrame)
