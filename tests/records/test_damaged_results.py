"""Files of results cut short and with bytes flipped: reading works, or gives one clear error."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from hlvnn import files, search_space
from hlvnn.analysis.group_attributes import KnownGroups
from hlvnn.commands import train_one, tune_search
from hlvnn.config import run_config
from hlvnn.errors import ConfigError, HlvnnError, RunError
from hlvnn.records import (
    group_file,
    journal,
    outcomes,
    perturbations,
    predictions,
    run_folder,
    sweep_folder,
    trials_table,
)
from hlvnn.records.journal import Journal
from hlvnn.records.outcomes import Outcome, Status
from hlvnn.records.perturbations import Change
from hlvnn.sweep import plan
from hlvnn.training import execution
from tests.rayless import proposer_of
from tests.runs import contents

TRIES = 60
"""Damages of each file."""
SPACE = """
BASE = {"dataset": "digits", "backbone": "mlp", "hidden": [4], "batch_size": 256, "num_epochs": 2}
METRIC, MODE = "val_acc", "max"
SWEEP = {"num_trials": 3}

def space(trial):
    return {
        "lr": trial.suggest_float("lr", 1e-3, 1e-1, log=True),
        "latent_config": trial.suggest_categorical("latent_config", ["none", "factor"]),
    }
"""


def work_folder(root: Path) -> Path:
    (root / "search_spaces").mkdir()
    (root / "search_spaces" / "study.py").write_text(SPACE, encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a sweep's folder: two trials that ended, and one that was drawn."""
    here = work_folder(tmp_path_factory.mktemp("whole"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        planned = plan.new_plan(tune_search.parse(["study", "--name", "sweep"]))
    with sweep_folder.locking(planned.sweep):
        plan.begin(planned)
        study = Journal.create(planned.sweep, "max")
        propose = proposer_of(planned)
        for number in range(3):
            config = propose(study.study.ask())
            if number == 2:
                continue
            run = run_config(json.loads(config["settings"]), "trial")
            execution.execute(run, Path(config["folder"]), resume=True)
            outcomes.write(planned.sweep, Outcome(trial=number, status=Status.COMPLETED))
            study.settle(number, [0.5])
        trials_table.TrialsTable(planned.sweep, planned.space).write(study.draws(), 3, alive=False)
        begun = Change(epoch=0, params={"lr": 0.01}, settings={"lr": 0.01})
        after = Change(epoch=1, from_trial=0, params={"lr": 0.02}, settings={"lr": 0.02})
        perturbations.write(outcomes.trial_folder(planned.sweep, 1), [begun, after])
    return planned.sweep


def read_table(sweep: Path, space: search_space.Space) -> None:
    frame = trials_table.TrialsTable(sweep, space).collect(
        Journal.open(sweep).draws(), 3, alive=False
    )
    trials_table.ranked(frame, space)


def read_run(sweep: Path, space: search_space.Space) -> None:
    run = run_folder.load_run(outcomes.trial_folder(sweep, 0))
    assert len(run.metrics.columns)
    assert len(run.groups.columns)


def read_best(sweep: Path, space: search_space.Space) -> None:
    run_folder.load_run(outcomes.trial_folder(sweep, 0), "best")


def read_rows(sweep: Path, space: search_space.Space) -> None:
    found = predictions.read_predictions(outcomes.trial_folder(sweep, 0))
    assert found is not None
    assert found.epoch in (1, 2)


def read_what_groups_are(sweep: Path, space: search_space.Space) -> None:
    folders = {0: outcomes.trial_folder(sweep, 0)}
    known = KnownGroups(folders, lambda: {0: None}, lambda sentence: None).of(0)
    assert known["gid"].is_unique
    assert group_file.read_groups_file(folders[0]) is not None


def repeat(sweep: Path, space: search_space.Space) -> None:
    train_one.parse(["--from-trial", str(outcomes.trial_folder(sweep, 0))])


def resumed(sweep: Path, space: search_space.Space) -> None:
    plan.resumed_plan(tune_search.parse(["--resume", str(sweep)]))


TRIAL = "trial_0000"
CHANGED = f"trial_0001/{perturbations.PERTURBATIONS}"
READERS: dict[str, tuple[Callable[[Path, search_space.Space], None], ...]] = {
    sweep_folder.SWEEP: (resumed,),
    journal.JOURNAL: (read_table,),
    f"{TRIAL}/{outcomes.OUTCOME}": (read_table,),
    f"{TRIAL}/{run_folder.METRICS}": (read_table, read_run),
    f"{TRIAL}/{run_folder.HYPERPARAMS}": (read_run, repeat),
    f"{TRIAL}/{run_folder.SCHEMA}": (read_run,),
    f"{TRIAL}/{run_folder.STATS}/epoch_0001.parquet": (read_run,),
    f"{TRIAL}/{run_folder.CHECKPOINT}": (read_run,),
    f"{TRIAL}/{run_folder.BEST}": (read_best,),
    f"{TRIAL}/{predictions.PREDICTIONS}": (read_rows,),
    f"{TRIAL}/{group_file.GROUPS}": (read_what_groups_are,),
    CHANGED: (read_table,),
}
UNREAD = {
    *(sweep_folder.LOCK, sweep_folder.SPACE_COPY, sweep_folder.README, trials_table.TRIALS),
    *(f"{TRIAL}/{name}" for name in (run_folder.LOG, run_folder.RESULT, run_folder.PREVIOUS)),
}
"""Files that none of these readers opens."""


def damaged(whole: bytes, chosen: random.Random) -> bytes:
    """Return the bytes cut short, with one flipped, with many flipped, or with a hole in them."""
    kind, at = chosen.randrange(4), chosen.randrange(len(whole))
    content = bytearray(whole)
    if kind == 0:
        return whole[:at]
    if kind == 1:
        content[at] ^= 1 << chosen.randrange(8)
    elif kind == 2:
        for _ in range(20):
            content[chosen.randrange(len(content))] = chosen.randrange(256)
    else:
        content[at : at + chosen.randrange(1, 200)] = b""
    return bytes(content)


def test_every_kind_of_file_is_damaged_below(whole: Path) -> None:
    kinds = {name for name in contents(whole) if not name.startswith("trial_0001/")} | {CHANGED}
    assert kinds == READERS.keys() | UNREAD | {f"{TRIAL}/{run_folder.STATS}/epoch_0002.parquet"}


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_read_or_named_and_left_as_it_is(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(work_folder(tmp_path))
    sweep = tmp_path / "sweep"
    shutil.copytree(whole, sweep)
    space = search_space.load("study")
    chosen = random.Random(name)
    original = (whole / name).read_bytes()
    errors = 0
    for attempt in range(TRIES):
        (sweep / name).write_bytes(damaged(original, chosen))
        before = contents(sweep)
        for read in READERS[name]:
            try:
                read(sweep, space)
            except HlvnnError as error:
                errors += 1
                text = str(error)
                named = (
                    Path(name).name,
                    "unknown search space",
                    "has changed since sweep began",
                    "is not the space that sweep draws from",  # its metric, by a flipped letter
                    "than the configuration describes",
                )
                assert any(words in text for words in named), text
                assert "Traceback" not in text
        assert contents(sweep) == before, f"attempt {attempt}: reading changed the folder"
    assert errors, "nothing was ever refused: the damage is not seen"
    (sweep / name).write_bytes(original)
    for read in READERS[name]:
        read(sweep, space)


# what a file may not do


def test_a_search_space_is_never_taken_from_results(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(work_folder(tmp_path))
    sweep = tmp_path / "sweep"
    shutil.copytree(whole, sweep)
    evil = f'open({str(tmp_path / "ran")!r}, "w").close()\n'
    with (sweep / sweep_folder.SPACE_COPY).open("a") as file:
        file.write(evil)
    (tmp_path / "evil.py").write_text(SPACE + evil)
    resumed(sweep, search_space.load("study"))
    for name in ("../evil", str(tmp_path / "evil"), "../sweep/search_space", "evil"):
        record = files.read_json(whole / sweep_folder.SWEEP)
        record["options"]["space"] = name
        files.write_json(sweep / sweep_folder.SWEEP, record)
        with pytest.raises(ConfigError, match="unknown search space"):
            resumed(sweep, search_space.load("study"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("number", ["../../escaped", "/tmp/escaped", 1.5, None, [1]])
def test_a_trial_of_the_journal_cannot_leave_its_folder(
    whole: Path, tmp_path: Path, number: object
) -> None:
    lines = (whole / journal.JOURNAL).read_text().splitlines()
    (tmp_path / journal.JOURNAL).write_text(
        "\n".join(
            line.replace('"user_attr":{"trial":1}', f'"user_attr":{{"trial":{json.dumps(number)}}}')
            for line in lines
        )
        + "\n"
    )
    assert (tmp_path / journal.JOURNAL).read_text().splitlines() != lines
    if number is None:
        assert sorted(Journal.open(tmp_path).draws()) == [0, 2]
        return
    with pytest.raises(RunError, match="number"):
        Journal.open(tmp_path)


@pytest.mark.parametrize("dataset", ["../../escaped", "/tmp/escaped", "a/b", ".."])
def test_the_data_sets_name_in_a_file_cannot_lead_out_of_the_results(
    whole: Path, tmp_path: Path, dataset: str
) -> None:
    folder = tmp_path / "trial"
    shutil.copytree(whole / TRIAL, folder)
    record = files.read_json(folder / run_folder.HYPERPARAMS)
    record["config"]["dataset"] = dataset
    files.write_json(folder / run_folder.HYPERPARAMS, record)
    with pytest.raises(HlvnnError, match="dataset"):
        run_folder.read_config(folder)
