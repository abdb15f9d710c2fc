"""The notebook runs from top to bottom on a real sweep, and says what the sweep's tables say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from hlvnn.analysis import load_sweep
from tests.helpers import ROOT
from tests.rayless import run_sweep

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

NOTEBOOK = ROOT / "results" / "analyze_results.ipynb"
SPACE = """
BASE = {"dataset": "digits", "backbone": "mlp", "hidden": [12], "batch_size": 64, "num_epochs": 3}
METRIC, MODE = "val_loss", "min"
SWEEP = {"num_trials": 5}


def space(trial):
    drawn = {"lr": trial.suggest_float("lr", 3e-3, 3e-2, log=True)}
    drawn["latent_config"] = "none" if trial.number == 1 else "factor"
    if trial.number == 1:
        drawn["num_epochs"] = 1  # so that it does not win
    else:
        drawn["z_dim"] = trial.suggest_int("z_dim", 1, 6)
    return drawn
"""


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Return a sweep, and the notebook executed on it."""
    sweep = run_sweep(tmp_path_factory.mktemp("notebook"), SPACE, trials=4)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HLVNN_SWEEP", str(sweep))
        patch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
        client = nbclient.NotebookClient(
            notebook, timeout=120, resources={"metadata": {"path": str(NOTEBOOK.parent)}}
        )
        client.execute()  # raises where a cell does
    return sweep, notebook


def outputs(notebook: Any, kind: str) -> list[str]:
    return [
        str(output["data"][kind])
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if kind in output.get("data", {})
    ]


def printed(notebook: Any) -> str:
    return "".join(
        output["text"]
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if output["output_type"] == "stream" and output["name"] == "stdout"
    )


def test_the_notebook_is_kept_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_every_cell_ran_and_draws(executed: tuple[Path, Any]) -> None:
    _, notebook = executed
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert len(outputs(notebook, "image/png")) == 5  # curves, gains, KL, space, calibration
    noise = [o["text"] for c in code for o in c.outputs if o.get("name") == "stderr"]
    assert "".join(noise) == ""


def test_it_says_what_the_tables_say(executed: tuple[Path, Any]) -> None:
    folder, notebook = executed
    sweep = load_sweep(folder)
    text, tables = printed(notebook), outputs(notebook, "text/plain")
    assert "5 trials, selected by val_loss (min)" in text
    assert f"best trial: {sweep.best_trial}\n" in text
    assert any("completed" in table and re.search(r"not started +1", table) for table in tables)
    leader = next(table for table in tables if "best_val_loss" in table and "rank" in table)
    first = leader.splitlines()[1].split()
    assert first[:3] == ["0", "1", str(sweep.best_trial)]
    assert float(first[5]) == pytest.approx(sweep.best(1)["best_val_loss"][0], abs=1e-6)
    by_group = sweep.groups.read(
        trials=[sweep.best_trial or 0],
        epochs=[int(sweep.best(1)["best_epoch"][0])],
        split="test",
        labels=True,
    )
    weakest = by_group.sort_values("acc")["acc"].iloc[0]
    assert any(f"{weakest:.6f}" in table for table in tables)
    assert f"--from-trial {folder / f'trial_{sweep.best_trial:04d}'} --seed 1" in text


def test_the_gain_over_the_pooled_model_is_that_of_the_group_tables(
    executed: tuple[Path, Any],
) -> None:
    folder, notebook = executed
    sweep = load_sweep(folder)
    assert sweep.pooled_trial == 1
    assert sweep.best_trial != 1
    losses = []
    for trial in (sweep.pooled_trial, sweep.best_trial):
        epoch = int(sweep.row(trial)["best_epoch"])
        frame = sweep.groups.read(trials=[trial], epochs=[epoch], split="test")
        losses.append(frame.set_index("gid")["loss"])
    gain = (losses[0] - losses[1]).mean()
    (table,) = [t for t in outputs(notebook, "text/plain") if "mean gain" in t]
    nats = next(line for line in table.splitlines() if line.startswith("nats"))
    assert float(nats.split()[1]) == pytest.approx(gain, abs=1e-6)
