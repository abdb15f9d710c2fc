"""Truths planted in a folder of arrays: a writer whose strokes are mirrored, and nobody else."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pandas as pd
import pytest

from hlvnn.analysis.gains import gains
from hlvnn.records import run_folder
from tests.truths import worlds
from tests.truths.asking import first_screen, reported, runs, trained

FLAGS = "--dataset strokes --device cpu --channels 2 3 --hidden 8 --lr 0.01 --batch-size 60"
LONG = ("--num-epochs", 20, "--eval-every", 10)
BASIS = "basis@output level=gid width=2 prior=learned"


@pytest.fixture(scope="module")
def strokes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Return the folder of a pooled network and of one with filters by writer; what each said."""
    root, said = tmp_path_factory.mktemp("strokes"), {}
    with contextlib.chdir(root):
        worlds.strokes(root / "data" / "strokes" / "small")
        for name, latents in (("pooled", ()), ("own", ("--latents", BASIS))):
            said[name] = trained(*FLAGS.split(), *LONG, "--name", name, *latents)
    return root / "results" / "strokes", said


def test_only_the_mirrored_writer_is_misread_by_a_network_for_all(
    strokes: tuple[Path, dict[str, str]],
) -> None:
    folder, said = strokes
    last = run_folder.read_metrics(folder / "pooled").iloc[-1]
    # five writers of six are read, without noise; the sixth is read the wrong way round
    assert last["test_acc"] == pytest.approx(5 / 6, abs=0.01)
    assert last["test_group_worst"] == pytest.approx(0, abs=0.05)
    groups = pd.read_parquet(folder / "pooled" / run_folder.STATS)
    final = groups[(groups["split"] == "test") & (groups["epoch"] == 20)].set_index("gid")["acc"]
    assert final.idxmin() == worlds.MIRRORED
    assert final.drop(worlds.MIRRORED).min() > 0.95
    weakest = said["pooled"].split("the weakest and the strongest on val")[-1].split("\n")[2]
    assert weakest.split()[:3] == [str(worlds.MIRRORED), "6", "0.000"]


def test_latents_read_the_mirrored_writer_and_gain_there_alone(
    strokes: tuple[Path, dict[str, str]],
) -> None:
    folder, _ = strokes
    last = run_folder.read_metrics(folder / "own").iloc[-1]
    assert last["test_acc"] > 0.98
    assert last["test_group_worst"] > 0.9
    frame = gains(runs(str(folder))).set_index("gid")
    assert frame["gain"][worlds.MIRRORED] > 0.9
    assert frame["p"][worlds.MIRRORED] < 1e-4
    assert frame["gain"].drop(worlds.MIRRORED).abs().max() < 0.1
    page = first_screen(reported(folder))
    assert "Best is trial 0 (own), latents basis@output level=gid" in page
    assert "1 group gains and 0 lose beyond their own error" in page
