"""Records `tests/files/resumable` anew: what this state of the program leaves, to be gone on with.

    python -m tests.records.recording

A run of a table that was cut short after three epochs, a finished sweep, one that Ctrl-C cut short,
and in `expected` what the uninterrupted ones measured. It takes a minute; do it where a change of
bits is meant, and say so. Names of machine and folders are made up.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

from hlvnn.records.outcomes import trial_folder
from hlvnn.records.run_folder import METRICS, RESULT, read_metrics
from hlvnn.records.trials_table import TRIALS
from tests.helpers import ROOT

OLD, NEW = ROOT / "tests" / "files" / "recorded", ROOT / "tests" / "files" / "resumable"
"""Where the table and the space of digits are from, and what is written."""
HOST, HOME = "lab", "/home/ada/study"
CUT_AFTER, EPOCHS, TRIALS_OF_TWO = 3, 8, ("trial_0000", "trial_0001")
RUN = (
    *("--dataset", "table", "--table", "wards.csv", "--target", "score", "--groups", "ward"),
    *("--features", "age", "dose", "sex", "--backbone", "mlp", "--hidden", "4"),
    *("--latent-config", "bias", "--num-epochs", "8", "--batch-size", "20", "--lr", "0.01"),
    *("--seed", "5", "--description", "scores of eight wards", "--device", "cpu"),
)
LONG = ("--num-trials", "3", "--num-epochs", str(EPOCHS), "--scheduler", "none", "--no-report")


def begin(script: str, *flags: str) -> subprocess.Popen[bytes]:
    """Start a command as a user would, in the working folder."""
    words = [sys.executable, str(ROOT / script), *flags]
    return subprocess.Popen(words, env=os.environ | {"PYTHONPATH": str(ROOT)})


def run(script: str, *flags: str) -> None:
    """Run a command to its end."""
    if code := begin(script, *flags).wait():
        raise SystemExit(f"{script} {' '.join(flags)} ended with {code}")


def interrupted(folder: Path, epochs: int, script: str, *flags: str) -> None:
    """Run a command, and press Ctrl-C once a run has measured so many epochs."""
    process = begin(script, *flags)
    while process.poll() is None:
        path = folder / METRICS
        if path.exists() and len(path.read_text(encoding="utf-8").splitlines()) > epochs:
            process.send_signal(signal.SIGINT)
            break
        time.sleep(0.02)
    process.wait()
    measured = len(read_metrics(folder))
    if (folder / RESULT).exists() or measured >= EPOCHS:
        raise SystemExit(f"{folder} came to its end before it was interrupted; try again")


def record() -> None:
    """Record everything in the working folder."""
    for name in ("wards.csv", "search_spaces"):
        source = OLD / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, Path(name))
    Path("expected").mkdir()
    cut, whole = Path("results/wards/cut"), Path("results/wards/whole")
    run("train_one.py", *RUN, "--name", "whole")
    shutil.move(whole / METRICS, "expected/wards.csv")
    shutil.move(whole / RESULT, "expected/wards.json")
    interrupted(cut, CUT_AFTER, "train_one.py", *RUN, "--name", "cut")
    few = ("--num-trials", "2", "--keep-checkpoints", "2", "--no-report", "--no-pooled-reference")
    run("tune_search.py", "recorded", "--name", "finished", *few)
    sweeps = Path("results/digits")
    run("tune_search.py", "recorded", "--name", "whole", *LONG, "--no-pooled-reference")
    for name in TRIALS_OF_TWO:
        shutil.move(sweeps / "whole" / name / METRICS, f"expected/{name}.csv")
    second = trial_folder(sweeps / "interrupted", 1)
    interrupted(second, 2, "tune_search.py", "recorded", "--name", "interrupted", *LONG)
    for folder in (whole, sweeps / "whole"):
        shutil.rmtree(folder)
    for path in Path().rglob("*"):
        if path.name in {"driver.lock", "driver.alive", "ray"}:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def anonymise() -> None:
    """Put made-up names in the place of this machine's and of the working folder's."""
    here = str(Path.cwd())
    for path in Path().rglob("*"):
        if path.suffix in {".json", ".journal", ".log", ".md", ".txt"}:
            text = path.read_text(encoding="utf-8").replace(here, HOME)
            path.write_text(re.sub(rf"\b{re.escape(platform.node())}\b", HOST, text), "utf-8")
        if path.name == TRIALS:
            frame = pd.read_parquet(path)
            frame["node"] = frame["node"].where(frame["node"].isna(), HOST)
            for name in ("folder", "data_dir", "results_dir"):
                frame[name] = frame[name].str.replace(here, HOME, regex=False)
            frame.to_parquet(path, index=False)


def main() -> None:
    """Record, and put it in the place of what is there."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(Path(folder).resolve())
        record()
        anonymise()
        os.chdir(ROOT)
        shutil.rmtree(NEW, ignore_errors=True)
        shutil.copytree(folder, NEW)


if __name__ == "__main__":
    main()
