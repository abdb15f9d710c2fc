"""Search spaces, as a user writes them into the working folder."""

from __future__ import annotations

from pathlib import Path

from hlvnn import search_space

SPACE = """
BASE = {"dataset": "digits", "backbone": "mlp", "hidden": [8], "num_epochs": 9}
METRIC, MODE = "val_acc", "max"
SWEEP = {"num_trials": 5, "reduction_factor": 2}

def space(trial):
    return {"lr": trial.suggest_float("lr", 1e-3, 1e-1, log=True)}
"""
"""What `study` is, where a test's file has no SPACE of its own."""


def write_space(text: str, name: str = "study") -> None:
    """Write a search space into the working folder."""
    folder = Path(search_space.FOLDER)
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(text, encoding="utf-8")


def loaded(text: str, name: str = "study") -> search_space.Space:
    """Write a search space, and load it."""
    write_space(text, name)
    return search_space.load(name)
