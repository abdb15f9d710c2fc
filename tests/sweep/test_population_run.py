"""Populations that really run: what each trial ran, and a driver that was killed."""

from __future__ import annotations

import contextlib
import itertools
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from hlvnn import files, search_space
from hlvnn.analysis import load_sweep
from hlvnn.commands import train_one, tune_search
from hlvnn.config import flatten, run_config
from hlvnn.data import data_of
from hlvnn.errors import ConfigError
from hlvnn.optim import lr_factor
from hlvnn.records import outcomes, perturbations, run_folder
from hlvnn.records.checkpoint import load_checkpoint
from hlvnn.sweep import plan, warm
from hlvnn.training import execution
from hlvnn.training.loop import EpochReport
from tests.helpers import ROOT
from tests.sweep.populations import FLAGS, SPACE  # noqa: F401 (`here` writes it)
from tests.sweep.running import sweep


def lineage(folder: Path, number: int, end: int) -> list[tuple[int, dict[str, Any]]]:
    """Return what made a trial's weights of epoch `end`: settings, and the epoch they held from."""
    at = outcomes.trial_folder(folder, number)
    changes = perturbations.read(at)
    before = [change for change in changes[1:] if change.epoch < end]
    if before and before[-1].from_trial is not None:
        last = before[-1]
        return [*lineage(folder, before[-1].from_trial, last.epoch), (last.epoch, last.settings)]
    settings = flatten(run_folder.read_config(at))
    return [(0, settings | (changes[0].settings if changes else {}))]


def replayed(folder: Path, number: int, into: Path) -> dict[str, Any]:
    """Train in this process as a trial and its forebears did; return the last checkpoint."""
    steps = lineage(folder, number, 7)
    settings: dict[str, Any] = {}
    for (_, changed), (end, _) in itertools.pairwise([*steps, (7, {})]):
        settings |= changed
        config = run_config(settings, "replayed")
        if (into / run_folder.HYPERPARAMS).exists():
            record = files.read_json(into / run_folder.HYPERPARAMS)
            files.write_json(into / run_folder.HYPERPARAMS, record | {"config": flatten(config)})

        def report(epoch: EpochReport, end: int = end) -> None:
            if epoch.epoch == end < 7:
                raise InterruptedError

        with contextlib.suppress(InterruptedError):
            execution.execute(config, into, report=report, resume=True)
    return load_checkpoint(into / run_folder.CHECKPOINT)


@pytest.mark.ray
@pytest.mark.timeout(280)
def test_a_population_trains_and_tells_what_each_trial_ran(here: Path, local_ray: None) -> None:
    code, printed = sweep(*FLAGS)
    assert code == 0, printed
    folder = here / "results" / "digits" / "one"
    frame = pd.read_parquet(folder / "trials.parquet").set_index("trial")
    assert set(frame["status"]) == {"completed"}
    assert (frame["epochs"] == 7).all()
    changes = {n: perturbations.read(outcomes.trial_folder(folder, n)) for n in range(5)}
    found = [(n, change) for n in range(5) for change in changes[n][1:]]
    assert sorted({change.epoch for _, change in found}) == [3, 6]
    assert len(found) == 4  # two of five in each of two rounds

    for number in range(5):
        at = outcomes.trial_folder(folder, number)
        metrics = run_folder.read_metrics(at)
        assert metrics["epoch"].tolist() == list(range(1, 8))
        assert sorted(run_folder.read_groups(at)["epoch"].unique()) == list(range(1, 8))
        # each epoch's row tells the settings of that epoch
        steps = math.ceil(len(data_of(run_folder.read_config(at).data).train) / 32)
        for row in metrics.to_dict("records"):
            held = [change.settings for change in changes[number] if change.epoch < row["epoch"]]
            if held:
                factor = lr_factor("cosine", (row["epoch"] * steps - 1) / (7 * steps))
                assert row["kl_weight"] == held[-1]["kl_weight"]
                assert row["lr"] == pytest.approx(held[-1]["lr"] * factor, rel=1e-6)
        # the table, the trial's own settings and the analysis tell the last
        now = perturbations.settings_now(at)
        config = run_folder.read_config(at)
        for name, value in now.items():
            assert getattr(config.train, name) == value
            assert frame[name][number] == pytest.approx(value)
        state = torch.load(at / run_folder.CHECKPOINT, weights_only=True)
        decays = {group["weight_decay"] for group in state["optimizers"][0]["param_groups"]}
        assert decays <= {0.0, config.train.weight_decay}
        assert bool(now) == ("took over other trials" in frame["reason"][number])
        if now:
            assert f"trial {number}: {changes[number][1].told()}" in printed
    table = load_sweep(folder).trials.set_index("trial")
    number, change = found[-1]
    assert table["param_decay"][number] == change.params["decay"]

    # what is told is all there is: to train as it says leads to the same weights, bit for bit
    for number, change in found:
        if change is changes[number][-1]:
            state = replayed(folder, number, here / f"again_{number}")
            theirs = load_checkpoint(outcomes.trial_folder(folder, number) / run_folder.CHECKPOINT)
            assert all(
                torch.equal(theirs["model"][key], state["model"][key]) for key in theirs["model"]
            )

    # nothing repeats it, and it says so; a trial that took over nobody is repeated
    with pytest.raises(ConfigError, match=r"no settings of its own repeat it: after epoch") as told:
        train_one.parse(["--from-trial", str(outcomes.trial_folder(folder, number))])
    assert "python train_one.py --dataset digits" in str(told.value)
    alone = [n for n in range(5) if not changes[n]]
    assert train_one.parse(
        ["--from-trial", str(outcomes.trial_folder(folder, alone[0]))]
    ).data.dataset
    # it can be read back, teaches no other sweep, and cannot be joined
    assert run_folder.load_run(outcomes.trial_folder(folder, number)).epoch == 7
    learned = warm.read(folder, search_space.load("study"))
    assert len(learned.trials) == len(alone)
    assert "its settings changed as it ran" in learned.told()
    with pytest.raises(ConfigError, match="a population of 5 trials cannot be joined later"):
        plan.of(tune_search.parse(["--extend", str(folder), "--num-trials", "2"]))
    with pytest.raises(ConfigError, match="cannot be joined later"):
        plan.of(tune_search.parse(["--resume", str(folder), "--num-trials", "7"]))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(280)
def test_a_population_whose_driver_was_killed_goes_on_as_if_it_had_not(here: Path) -> None:
    def started(*args: str) -> subprocess.Popen[bytes]:
        with (here / "log").open("ab") as log:
            words = [sys.executable, str(ROOT / "tune_search.py"), *args]
            return subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT)

    process = started(*FLAGS)
    folder = here / "results" / "digits" / "one"
    until = time.monotonic() + 120
    while not list(folder.glob(f"*/{perturbations.PERTURBATIONS}")):
        assert time.monotonic() < until, (here / "log").read_text()
        time.sleep(0.01)
    process.kill()
    process.wait()
    process = started("--resume", str(folder))
    process.wait()
    printed = (here / "log").read_text()
    assert process.returncode == 0, printed
    assert "Traceback" not in printed
    frame = pd.read_parquet(folder / "trials.parquet")
    assert set(frame["status"]) == {"completed"}
    for number in range(5):
        at = outcomes.trial_folder(folder, number)
        assert run_folder.read_metrics(at)["epoch"].tolist() == list(range(1, 8))
        state = replayed(folder, number, here / f"again_{number}")
        weights = load_checkpoint(at / run_folder.CHECKPOINT)["model"]
        assert all(torch.equal(weights[key], state["model"][key]) for key in weights)
    changes = [perturbations.read(at) for at in folder.glob("trial_*")]
    assert sorted(change.epoch for one in changes for change in one[1:]) == [3, 3, 6, 6]
