"""Settings that are gone: old files with them are read as before, new configurations refused."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import hlvnn
from hlvnn import evaluate, load_run, search_space
from hlvnn.analysis import load_runs, load_sweep
from hlvnn.commands import tune_search
from hlvnn.config import run_config
from hlvnn.errors import CheckpointError, ConfigError, run_command
from hlvnn.gone import GONE, SAID, STEPS
from hlvnn.records import perturbations, run_folder
from hlvnn.records.checkpoint import load_checkpoint
from hlvnn.records.journal import JOURNAL
from hlvnn.sweep import warm
from tests.conftest import Ended
from tests.helpers import ROOT, same_bits
from tests.runs import contents
from tests.spaces import loaded, write_space
from tests.sweep.populations import FLAGS, SPACE

RECORDED = ROOT / "tests" / "files" / "recorded"
FINISHED, INTERRUPTED = Path("results/digits/finished"), Path("results/digits/interrupted")
TRIAL, CUT = FINISHED / "trial_0001", Path("results/wards/cut")
SET: dict[str, Any] = {"latent_lr": 20.0, "prior_updates": "closed_form"}
"""What the planted files say."""
REASON = "a posterior moves in units of its own covariance"
PRIORS = "learned priors move by EM steps of their own"


def plant(folder: Path, **values: Any) -> None:
    """Have a run's record say that it was trained with these settings."""
    path = folder / run_folder.HYPERPARAMS
    record = json.loads(path.read_text(encoding="utf-8"))
    record["config"] |= values
    path.write_text(json.dumps(record), encoding="utf-8")


def plant_draw(sweep: Path, trial: int, **values: Any) -> None:
    """Have a sweep's journal say that a trial drew `latent_lr`, among these settings."""
    lines = []
    for line in (sweep / JOURNAL).read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if entry.get("trial_id") == trial and "draw" in entry.get("user_attr", {}):
            entry["user_attr"]["draw"]["settings"] |= values
        lines.append(json.dumps(entry))
        if entry.get("trial_id") == trial and entry.get("param_name") == "lr":
            ranged = json.loads(entry["distribution"])
            ranged["attributes"] |= {"low": 1.0, "high": 60.0}
            more = {"param_name": "latent_lr", "param_value_internal": values["latent_lr"]}
            lines.append(json.dumps({**entry, **more, "distribution": json.dumps(ranged)}))
    (sweep / JOURNAL).write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a copy of what a first version left, with values set in a trial and in a run."""
    shutil.copytree(RECORDED, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    plant(TRIAL, **SET)
    plant_draw(FINISHED, 1, **SET)
    plant(CUT, latent_lr=5.0)
    return tmp_path


@pytest.fixture
def sweep(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Return `tune_search.py` as a function of its flags, run in this process."""

    def run(*args: object) -> Ended:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run_command(lambda: tune_search.main([str(arg) for arg in args]))
        code = ended.value.code
        return Ended(code if isinstance(code, int) else 1, *capsys.readouterr())

    return run


# files that hold them


def test_a_run_loads_and_predicts_as_before_and_says_once_what_was_set(
    old: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        run, again = load_run(TRIAL, "best"), load_run(TRIAL, "best")
    (told,) = caplog.messages
    assert told.startswith("results/digits/finished/trial_0001 had latent_lr=20, prior_updates=")
    assert REASON in told
    assert PRIORS in told
    caplog.clear()
    untouched = load_run(RECORDED / TRIAL, "best")
    assert caplog.messages == []  # nothing was set there
    assert run.config == untouched.config
    assert same_bits(run.model, untouched.model)
    assert same_bits(run.model, again.model)
    pooled = load_run(FINISHED / "trial_0002", "best")
    measured = run_folder.read_metrics(FINISHED / "trial_0002").set_index("epoch")
    val = pooled.data.val
    assert val is not None
    assert evaluate(pooled.model, val).scalars["acc"] == measured.loc[pooled.epoch, "val_acc"]


def test_a_sweeps_table_shows_what_was_set_and_says_it_once(
    old: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trials = load_sweep(FINISHED).table
    (told,) = caplog.messages
    assert told.startswith(
        "1 of 6 runs in results/digits/finished had latent_lr=20, prior_updates=closed_form (lat"
    )
    load_sweep(FINISHED)
    load_run(TRIAL)
    assert len(caplog.messages) == 1
    assert trials["latent_lr"].dropna().to_dict() == {1: 20.0}
    assert trials["param_latent_lr"].dropna().to_dict() == {1: 20.0}
    assert trials["prior_updates"].dropna().to_dict() == {1: "closed_form"}
    before = load_sweep(RECORDED / FINISHED).table
    assert not {*before} & {*GONE}
    kept = [name for name in before if name != "folder"]
    pd.testing.assert_frame_equal(trials[kept], before[kept])


def test_runs_are_compared_with_what_was_set(old: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copytree(CUT, CUT.parent / "usual")
    plant(CUT.parent / "usual", latent_lr=None)
    settings = load_runs(CUT.parent).settings
    assert settings["latent_lr"].dropna().to_dict() == {"cut": 5.0}
    (told,) = caplog.messages
    assert told.startswith("1 of 2 runs in results/wards had latent_lr=5 (latent_lr is gone since")
    for number in range(4):
        shutil.copytree(CUT, CUT.parent / f"run{number}")
        plant(CUT.parent / f"run{number}", latent_lr=6.0 + number)
    SAID.clear()
    load_runs(CUT.parent)
    assert caplog.messages[-1].startswith(
        "5 of 6 runs in results/wards had latent_lr=5 … 9 (latent"
    )


def test_commands_read_them_and_say_it(
    old: Path, analysis: Callable[..., Ended], caplog: pytest.LogCaptureFixture
) -> None:
    ended = analysis(FINISHED)
    assert ended.code == 0, ended.err
    assert caplog.text.count(REASON) == 1
    assert "latent_lr" in (FINISHED / "report.html").read_text(encoding="utf-8")
    for args in (("calibration", TRIAL), ("find", "scores"), ("promote", FINISHED / "trial_0002")):
        ended = analysis(*args)
        assert ended.code == 0, ended.err


def test_changes_of_a_population_that_hold_them_are_read(
    old: Path, train_one: Callable[..., Ended]
) -> None:
    settings = {"lr": 0.01, "latent_lr": 7.0}
    first = {"epoch": 0, "params": settings, "settings": settings}
    changes = [first, first | {"epoch": 2, "from_trial": 0}]
    (TRIAL / perturbations.PERTURBATIONS).write_text(json.dumps(changes), encoding="utf-8")
    assert load_sweep(FINISHED).row(1)["latent_lr"] == 7.0
    ended = train_one("--from-trial", TRIAL)
    assert ended.code == 2
    assert "it is one of a population" in ended.err


# what was begun before


def test_a_run_of_before_does_not_go_on_and_is_repeated_with_a_warning(
    old: Path, train_one: Callable[..., Ended]
) -> None:
    before = contents(CUT)
    ended = train_one("--resume", CUT)
    assert ended.code == 2
    assert "cut was begun before the steps in groups' own units and cannot go on" in ended.err
    assert ended.err.count("\n") == 1
    assert contents(CUT) == before
    command = ended.err.strip().rpartition(": ")[2].split()
    assert command[:3] == ["python", "train_one.py", "--from-trial"]
    ended = train_one(*command[2:], "--name", "again")
    assert ended.code == 0, ended.err
    told = ended.out.splitlines()[0]
    assert told.startswith(f"--from-trial {command[3]} was trained before the steps in groups' own")
    assert f"without its latent_lr=5 (latent_lr is gone since {STEPS}: {REASON}" in told
    assert told.endswith("so that its bits and its figures will be others")
    again = CUT.parent / "again"
    assert len(run_folder.read_metrics(again)) == 8
    assert not {*GONE} & {*run_folder.recorded_settings(again)}
    ended = train_one("--from-trial", again, "--name", "third")
    assert ended.code == 0
    assert "was trained before" not in ended.out  # that one was trained by today's
    assert same_bits(load_run(again).model, load_run(again.parent / "third").model)


def test_a_checkpoint_of_before_is_not_gone_on_from(
    old: Path, train_one: Callable[..., Ended]
) -> None:
    path = CUT / run_folder.HYPERPARAMS
    record = json.loads(path.read_text(encoding="utf-8"))
    record["config"] = {k: v for k, v in record["config"].items() if k not in GONE}
    path.write_text(json.dumps(record), encoding="utf-8")
    before = contents(CUT)
    ended = train_one("--resume", CUT)
    assert ended.code == 2
    assert "checkpoint.pt was written before the steps in groups' own units" in ended.err
    assert contents(CUT) == before
    run = load_run(CUT)
    checkpoint = load_checkpoint(CUT / run_folder.CHECKPOINT)
    with pytest.raises(CheckpointError, match="the checkpoint to resume was written before"):
        hlvnn.fit(run.model, run.data, run.config.train, resume=checkpoint)


@pytest.mark.parametrize(
    "flags",
    [
        ("--resume", INTERRUPTED),
        ("--extend", FINISHED),
        ("--resume", FINISHED),
        ("recorded", "--name", "interrupted", "--or-resume"),
    ],
)
def test_a_sweep_of_before_does_not_go_on(
    old: Path, sweep: Callable[..., Ended], flags: tuple[object, ...]
) -> None:
    before = contents(old)
    ended = sweep(*flags)
    assert ended.code == 2
    place = FINISHED if FINISHED in flags else INTERRUPTED
    assert f"error: {place} was begun before the steps in groups' own units" in ended.err
    assert ended.err.strip().endswith("a new sweep begins with: python tune_search.py recorded")
    assert ended.err.count("\n") == 1
    assert contents(old) == before


def test_a_sweep_of_before_is_learned_from_by_what_can_still_be_drawn(old: Path) -> None:
    space = search_space.load("recorded")
    earlier = warm.read(FINISHED, space)
    assert len(earlier.trials) == 6
    assert not any("latent_lr" in trial.params for trial in earlier.trials)
    assert "trained before the steps in groups' own units" in earlier.told()


# new configurations


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--latent-lr", "5"), REASON),
        (("--latent_lr=5",), REASON),
        (("--prior-updates", "closed_form"), PRIORS),
    ],
)
def test_their_flags_are_refused_with_the_reason(
    here: Path,
    train_one: Callable[..., Ended],
    sweep: Callable[..., Ended],
    flags: tuple[str, ...],
    reason: str,
) -> None:
    for ended in (
        train_one("--dataset", "digits", *flags),
        train_one("--space", "study", "--draw", 0, *flags),
        sweep("study", "--dry-run", *flags),
    ):
        assert ended.code == 2
        assert ended.err.startswith(f"error: {flags[0].partition('=')[0]}: setting ")
        assert reason in ended.err
        assert ended.err.count("\n") == 1
    assert not Path("results").exists()


def test_configurations_in_python_are_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match=f"'latent_lr' is gone since the steps.*{REASON}"):
        hlvnn.TrainConfig(latent_lr=5.0)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match=PRIORS):
        hlvnn.RunConfig(train={"prior_updates": "closed_form"})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=f"here: setting 'latent_lr' is gone.*{REASON}"):
        run_config({"dataset": "digits", "latent_lr": None}, "here")


DRAWN = SPACE.replace('{"lr": ', '{"latent_lr": trial.suggest_float("x", 1.0, 9.0), "lr": ')


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (DRAWN, "study.py: space(trial) draws 'latent_lr': setting 'latent_lr' is gone"),
        (
            SPACE.replace("BASE = {", 'BASE = {"latent_lr": 5.0, '),
            "study.py: BASE sets 'latent_lr'",
        ),
        (SPACE + 'SWEEP = {"fixed": {"latent_lr": 5.0}}\n', "study.py: SWEEP: fixed: setting"),
    ],
)
def test_spaces_and_populations_are_refused_with_the_reason(
    here: Path,
    train_one: Callable[..., Ended],
    sweep: Callable[..., Ended],
    text: str,
    place: str,
) -> None:
    write_space(text)
    for flags in (FLAGS, ("study",)):
        ended = sweep(*flags, "--dry-run")
        assert ended.code == 2
        assert place in ended.err
        assert REASON in ended.err
        assert ended.err.count(REASON) == 1
    assert not Path("results").exists()
    if "SWEEP" not in text:
        ended = train_one("--space", "study", "--draw", 0)
        assert ended.code == 2
        assert place in ended.err


def test_a_population_perturbs_the_learning_rate_of_points(
    here: Path, sweep: Callable[..., Ended]
) -> None:
    loaded(DRAWN.replace("latent_lr", "embedding_lr"))
    ended = sweep(*FLAGS, "--dry-run")
    assert ended.code == 0, ended.err
