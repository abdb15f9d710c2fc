"""The parts of a sweep, without starting Ray: options, ASHA, journal, outcomes, table, checks."""

from __future__ import annotations

import math
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pandas as pd
import pytest
from rich.console import Console

from hlvnn import errors, search_space
from hlvnn.commands import tune_search
from hlvnn.errors import ConfigError, ResourceError, RunError
from hlvnn.records import journal, outcomes, trials_table
from hlvnn.records.board import Board, Entry
from hlvnn.records.journal import Draw, Journal
from hlvnn.records.outcomes import Outcome, Status
from hlvnn.records.sweep_folder import locked
from hlvnn.sweep import cluster
from hlvnn.sweep.context import Context
from hlvnn.sweep.estimate import expected_share
from hlvnn.sweep.options import SweepConfig, check_changes
from hlvnn.sweep.plan import Plan
from hlvnn.sweep.proposer import Proposer
from hlvnn.sweep.schedulers import MAKERS, Rules
from hlvnn.sweep.trainable import scalars
from hlvnn.terminal import leaderboard, live_view
from hlvnn.words import duration

SPACE = """
BASE = {"dataset": "digits", "backbone": "mlp", "hidden": [8], "num_epochs": 3}
METRIC, MODE = "val_acc", "max"
SWEEP = {"num_trials": 5, "reduction_factor": 2}

def space(trial):
    return {"lr": trial.suggest_float("lr", 1e-3, 1e-1, log=True)}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty working folder with one search space, `study`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "search_spaces").mkdir()
    (tmp_path / "search_spaces" / "study.py").write_text(SPACE, encoding="utf-8")
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """Run tune_search.py's command; return what it says when it refuses (exit code 2)."""
    with pytest.raises(SystemExit) as end:
        errors.run_command(lambda: tune_search.main(list(args)))
    message = capsys.readouterr().err
    assert end.value.code == 2
    assert "Traceback" not in message
    return message


# ------------------------------------------------------------------------------ bad input


def test_bad_input_ends_with_code_2_and_one_message(here: Path, capsys) -> None:
    assert "did you mean 'study'?" in told(capsys, "stdy")
    assert "name a search space" in told(capsys)
    if cluster.this_machine()["GPU"] == 0:
        assert "this machine has no GPU" in told(capsys, "study", "--gpus-per-trial", "0.5")
    assert "no node of this machine has that" in told(capsys, "study", "--cpus-per-trial", "4096")
    assert "no Ray cluster answers" in told(capsys, "study", "--address", "127.0.0.1:9")
    assert "--address auto" in told(capsys, "study", "--address", "ray://127.0.0.1:10001")
    assert "needs a GPU, and the trials have none" in told(capsys, "study", "--device", "cuda")
    assert "is not a sweep" in told(capsys, "--resume", str(here))
    nowhere = "s3://bucket/a?endpoint_override=127.0.0.1:9&scheme=http"
    assert "s3://bucket/a/digits" in told(capsys, "study", "--name", "x", "--storage", nowhere)
    assert "--num-trials" in told(capsys, "study", "--num-trails", "3")
    assert "a plain name is expected" in told(capsys, "study", "--name", "../x")
    assert "unknown data set 'digts'" in told(capsys, "study", "--dataset", "digts")
    assert not (here / "results").exists()


def test_a_sweep_folder_that_exists_is_left_alone(here: Path, capsys) -> None:
    (here / "results" / "digits" / "mine").mkdir(parents=True)
    message = told(capsys, "study", "--name", "mine")
    assert "results/digits/mine exists already" in message
    assert "--resume results/digits/mine" in message


def test_a_space_that_is_wrong_is_told_by_the_command(here: Path, capsys) -> None:
    (here / "search_spaces" / "study.py").write_text("import nowhere", encoding="utf-8")
    assert "does not import: ModuleNotFoundError" in told(capsys, "study")
    (here / "search_spaces" / "study.py").write_text("BASE = {}", encoding="utf-8")
    assert "METRIC is missing" in told(capsys, "study")
    text = SPACE.replace('{"lr"', '{"backbone": "transformer", "lr"')
    (here / "search_spaces" / "study.py").write_text(text, encoding="utf-8")
    assert "unknown backbone 'transformer'" in told(capsys, "study")
    text = SPACE.replace('"dataset"', '"z_dim": [1, 2, 3], "latent_config": "factor", "dataset"')
    (here / "search_spaces" / "study.py").write_text(text, encoding="utf-8")
    assert "draw 0: --z-dim has 3 widths" in told(capsys, "study")
    text = SPACE.replace("val_acc", "val_mse")
    (here / "search_spaces" / "study.py").write_text(text, encoding="utf-8")
    assert "'val_mse' is not measured" in told(capsys, "study")
    text = SPACE.replace('"reduction_factor": 2', '"factor": 2')
    (here / "search_spaces" / "study.py").write_text(text, encoding="utf-8")
    assert "SWEEP: unknown setting 'factor'" in told(capsys, "study")


def test_a_trial_must_fit_on_one_node() -> None:
    nodes = [{"CPU": 8.0, "GPU": 4.0}, {"CPU": 64.0, "GPU": 0.0}]
    cluster.check(SweepConfig(cpus_per_trial=64), nodes)
    cluster.check(SweepConfig(gpus_per_trial=4, cpus_per_trial=8), nodes)
    with pytest.raises(ResourceError, match=r"64 CPUs and 1 GPUs on one node.*ask for at most"):
        cluster.check(SweepConfig(cpus_per_trial=64, gpus_per_trial=1), nodes)
    with pytest.raises(ResourceError, match="this machine has no GPU"):
        cluster.check(SweepConfig(gpus_per_trial=0.25), nodes[1:])


@pytest.mark.parametrize(
    ("cpus", "gpus", "limit", "expected"),
    [
        (1, 0, None, 12),
        (2, 0, None, 6),
        (1, 0.25, None, 8),
        (1, 0.3, None, 6),
        (1, 2, None, 1),
        (1, 0, 3, 3),
    ],
)
def test_slots_count_shares_of_single_gpus(cpus, gpus, limit, expected) -> None:
    nodes = [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 4.0, "GPU": 0.0}]
    options = SweepConfig(cpus_per_trial=cpus, gpus_per_trial=gpus, max_concurrent=limit)
    assert cluster.slots(options, nodes) == expected


# ------------------------------------------------------------------------------ options


def test_defaults_come_from_the_space_and_flags_win(here: Path) -> None:
    assert tune_search.parse(["study"]).num_trials == 5
    options = tune_search.parse(
        ["study", "--num-trials", "9", "--time-budget", "30m", "--hidden", "4"]
    )
    assert (options.num_trials, options.reduction_factor, options.time_budget) == (9, 2, 1800)
    assert options.fixed_settings == {"hidden": [4]}


def test_a_resumed_sweep_keeps_its_meaning() -> None:
    before = SweepConfig(space="study", seed=1)
    check_changes(before, before.model_copy(update={"cpus_per_trial": 2, "num_trials": 50}))
    with pytest.raises(ConfigError, match=r"--seed cannot change .*was 1, got 2"):
        check_changes(before, before.model_copy(update={"seed": 2}))
    with pytest.raises(ConfigError, match="can only be raised"):
        check_changes(before, before.model_copy(update={"num_trials": 3}))


def test_a_dry_run_starts_and_writes_nothing(here: Path, capsys) -> None:
    assert tune_search.main(["study", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    for words in ("study: the first draws of seed 0", "5 trials with 1 CPUs", "at most 15"):
        assert words in shown
    assert not (here / "results").exists()


def test_the_expected_share_of_epochs() -> None:
    options = SweepConfig(grace_period=1, reduction_factor=3)
    assert expected_share(options, 1) == 1
    assert expected_share(options, 9) == pytest.approx((1 + 2 / 3 + 6 / 9) / 9)


# ------------------------------------------------------------------------------ ASHA


def trial(number: int) -> SimpleNamespace:
    return SimpleNamespace(trial_id=f"id {number}", config={"trial": number})


def row(epoch: int, value: float, diverged: int = 0) -> dict[str, float]:
    return {"epoch": epoch, "num_epochs": 9, "val_acc": value, "diverged": diverged}


def asha() -> Any:
    return MAKERS["asha"](Rules("val_acc", "max", max_epochs=9, grace_period=1, reduction_factor=3))


def decisions(scheduler: Any, number: int, values: list[float]) -> str:
    """Report a trial's values, an epoch each; return "STOP at" that epoch, or ""."""
    scheduler.on_trial_add(None, trial(number))
    for epoch, value in enumerate(values, start=1):
        if scheduler.on_trial_result(None, trial(number), row(epoch, value)) == "STOP":
            return f"STOP at {epoch}"
    return ""


def test_a_diverged_trial_neither_stalls_nor_softens_asha() -> None:
    scheduler = asha()
    for number in range(6):  # infinities in a rung would make its percentile NaN
        scheduler.on_trial_add(None, trial(number))
        told = row(1, -math.inf, diverged=1)
        assert scheduler.on_trial_result(None, trial(number), told) == "CONTINUE"
        scheduler.on_trial_complete(None, trial(number), told)
    assert decisions(scheduler, 10, [0.5]) == ""
    assert decisions(scheduler, 11, [0.4]) == "STOP at 1"
    assert "val_acc 0.4 at epoch 1" in scheduler.reasons["id 11"]


def test_the_last_epoch_is_not_stopped() -> None:
    scheduler = asha()
    assert decisions(scheduler, 0, [0.9] * 9) == ""
    assert decisions(scheduler, 1, [0.91] * 8 + [0.1]) == ""


def test_a_refilled_asha_decides_as_an_uninterrupted_one() -> None:
    history = {0: [0.5, 0.6, 0.7], 1: [0.6, 0.65, 0.68], 2: [0.3]}
    whole, resumed = asha(), asha()
    for number, values in history.items():
        decisions(whole, number, values)
    rows = {
        number: [row(epoch, value) for epoch, value in enumerate(values, 1)]
        for number, values in history.items()
    }
    resumed.refill([rows[0], rows[2]], {1: rows[1]})
    resumed.on_trial_add(None, trial(1))
    rungs = [
        [sorted(recorded.values()) for _, recorded in scheduler.inner._brackets[0]._rungs]
        for scheduler in (whole, resumed)
    ]
    assert rungs[0] == rungs[1]
    # its own earlier results do not count twice
    assert resumed.on_trial_result(None, trial(1), row(3, 0.68)) == "CONTINUE"
    assert decisions(resumed, 3, [0.4]) == "STOP at 1"


def test_what_ray_is_told_of_an_epoch() -> None:
    known = {"epoch": 2, "val_acc": 0.5, "val_group_worst": 0.1, "diverged": 0.0}
    assert scalars(known, 9, {"val_acc": -math.inf})["val_acc"] == 0.5
    assert scalars(known | {"val_acc": math.nan}, 9, {"val_acc": -math.inf})["val_acc"] == -math.inf
    gone = scalars({"epoch": 1, "diverged": 1.0}, 9, {"val_loss": math.inf})
    assert (gone["val_loss"], gone["diverged"]) == (math.inf, 1)
    with pytest.raises(ConfigError, match="'val_f1' is not measured; there are: val_acc"):
        scalars(known, 9, {"val_f1": -math.inf})


# ------------------------------------------------------------------------------ journal


def proposer(here: Path) -> Proposer:
    planned = Plan(SweepConfig(space="study"), search_space.load("study"), here, {}, [])
    return Proposer(Context.of(planned, 1, Console(quiet=True)))


def test_a_trial_that_goes_on_is_the_same_optuna_trial(here: Path) -> None:
    study = Journal.create(here, "max")
    propose = proposer(here)
    first = [propose(study.study.ask()) for _ in range(3)]
    study.study.tell(0, 0.5)

    with (here / journal.JOURNAL).open("ab") as file:
        file.write(b'{"op_code":4,"wor')  # the driver was killed while it wrote
    (here / f"{journal.JOURNAL}.lock").symlink_to(here / journal.JOURNAL)
    journal.mend(here)
    again = Journal.open(here)
    again.study.ask()  # the driver was killed before it gave this one its number
    open_trials = again.to_continue([1, 2])
    assert again.to_continue([1, 2]) == open_trials  # killed once more before they ran
    propose = proposer(here)
    second = [propose(optuna.Trial(again.study, number)) for number in open_trials]
    assert [config["trial"] for config in second] == [1, 2, 3]
    assert second[:2] == first[1:]
    assert sorted(again.draws()) == [0, 1, 2, 3]
    states = [trial.state.name for trial in again.study.trials]
    assert states == ["COMPLETE", "RUNNING", "RUNNING", "RUNNING"]
    # one had ended, and the driver was killed before the study knew
    again.settle(1, 0.7)
    again.settle(2, None)
    again.settle(0, 0.1)  # told already
    told = [(trial.state.name, trial.value) for trial in again.study.trials]
    assert told == [("COMPLETE", 0.5), ("COMPLETE", 0.7), ("FAIL", None), ("RUNNING", None)]
    with pytest.raises(RunError, match=r"trial 1 is over in optuna\.journal"):
        again.to_continue([1])


def test_an_invalid_draw_is_recorded_with_its_problem(here: Path) -> None:
    text = SPACE.replace("return {", 'return {"lr": -1.0} if trial.number == 1 else {')
    (here / "search_spaces" / "study.py").write_text(text, encoding="utf-8")
    study = Journal.create(here, "max")
    propose = proposer(here)
    good, bad = (propose(study.study.ask()) for _ in range(2))
    assert good["problem"] == ""
    assert "lr: Input should be greater than 0" in bad["problem"]
    assert study.draws()[1].problem == bad["problem"]


def test_a_missing_or_damaged_journal_is_named(here: Path) -> None:
    with pytest.raises(RunError, match=r"optuna\.journal is missing"):
        Journal.open(here)
    (here / journal.JOURNAL).write_text("not a journal\n{}\n", encoding="utf-8")
    with pytest.raises(RunError, match=r"optuna\.journal is damaged"):
        Journal.open(here)


def test_two_drivers_do_not_work_on_one_sweep(here: Path) -> None:
    with (
        locked(here / "sweep"),
        pytest.raises(RunError, match=r"is being worked on by process \d+"),
        locked(here / "sweep"),
    ):
        pass
    with locked(here / "sweep"):
        pass


# ------------------------------------------------------------------------------ table


def leave(here: Path, number: int, accuracies: list[float], outcome: Outcome | None) -> None:
    """Leave the folder of a trial behind."""
    folder = outcomes.trial_folder(here, number)
    folder.mkdir(exist_ok=True)
    rows = [
        {"epoch": epoch, "val_acc": value, "test_acc": 1 - value, "seconds": 1.0, "diverged": 0.0}
        for epoch, value in enumerate(accuracies, start=1)
    ]
    if rows:
        pd.DataFrame(rows).to_csv(folder / "metrics.csv", index=False)
    if outcome is not None:
        outcomes.write(here, outcome)


def test_the_table_has_a_row_for_every_trial_whatever_became_of_it(here: Path) -> None:
    leave(here, 0, [0.5, 0.9, 0.7], Outcome(trial=0, status=Status.COMPLETED))
    leave(here, 1, [0.6], Outcome(trial=1, status=Status.STOPPED, reason="ASHA"))
    leave(here, 2, [], Outcome(trial=2, status=Status.FAILED, error="ValueError: no"))
    leave(here, 3, [0.4], None)
    settings = {"lr": 0.1, "z_dim": [8, 4], "hidden": None, "seed": 3}
    draws = {number: Draw(number, settings, {"lr": 0.1}) for number in range(5)}
    space = search_space.load("study")
    frame = trials_table.TrialsTable(here, space).write(draws, 6, alive=False)
    read = pd.read_parquet(here / trials_table.TRIALS)
    assert list(read.columns) == list(frame.columns)
    assert read["status"].tolist() == [
        *("completed", "stopped", "failed", "stopped", "not started", "not started")
    ]
    assert read["epochs"].tolist() == [3, 1, 0, 1, 0, 0]
    assert read["seconds"].iloc[0] == 3
    assert (read["best_epoch"].iloc[0], read["final_val_acc"].iloc[0]) == (2, 0.7)
    # the test accuracy of the epoch that validation chose, not the best one
    assert read["best_test_acc"].iloc[0] == pytest.approx(0.1)
    assert read["z_dim"].iloc[0] == "8 4"
    assert read["error"].iloc[2] == "ValueError: no"
    assert "--resume" in read["reason"].iloc[3]
    assert read["unfinished"].tolist() == [False, False, False, True, True, False]
    assert (
        trials_table.TrialsTable(here, space).collect(draws, 6, alive=True)["status"][3]
        == "running"
    )
    ranked = trials_table.ranked(frame, space)
    assert ranked["trial"].tolist()[:3] == [0, 1, 3]
    console = Console(width=120, record=True, file=None, quiet=True)
    console.print(leaderboard(ranked, space, {0: {"lr": 0.1}}))


def test_the_table_follows_a_trial_that_goes_on_after_an_interrupt(here: Path) -> None:
    leave(here, 0, [0.5], Outcome(trial=0, status=Status.STOPPED, reason="Ctrl-C", unfinished=True))
    trials = trials_table.TrialsTable(here, search_space.load("study"))
    draws = {0: Draw(0, {"lr": 0.1}, {"lr": 0.1})}
    assert trials.collect(draws, 1, alive=True)["unfinished"].tolist() == [True]
    leave(here, 0, [0.5, 0.6], Outcome(trial=0, status=Status.COMPLETED))
    frame = trials.collect(draws, 1, alive=True)
    assert (frame["status"].tolist(), frame["unfinished"].tolist()) == (["completed"], [False])


def test_an_outcome_is_read_back_strictly(here: Path) -> None:
    outcomes.write(here, Outcome(trial=7, status=Status.DIVERGED, reason="NaN"))
    assert outcomes.read(here, 7) == Outcome(trial=7, status=Status.DIVERGED, reason="NaN")
    assert outcomes.read(here, 8) is None
    path = outcomes.trial_folder(here, 7) / outcomes.OUTCOME
    path.write_text('{"trial": 7, "status": "fine"}', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"outcome\.json: status"):
        outcomes.read(here, 7)


def test_the_board_estimates_the_time_left(here: Path) -> None:
    board = Board(search_space.load("study"), num_trials=4, slots=2)
    assert board.seconds_left() is None
    board.started = time.monotonic() - 30
    for number in range(3):
        board.entries[number] = Entry(number, "lr=0.1", 3)
        board.began(number)
    for number, epochs in ((0, 3), (1, 1), (2, 1)):
        for epoch in range(1, epochs + 1):
            told = {"epoch": epoch, "num_epochs": 3, "val_acc": 0.1 * epoch, "diverged": 0}
            board.told(number, told)
    board.ended(Outcome(trial=0, status=Status.COMPLETED))
    board.ended(Outcome(trial=1, status=Status.STOPPED))
    # 5 epochs in 30 s; ended trials had 2 each: 1 is left of trial 2, and 2 of trial 3
    assert board.seconds_left() == pytest.approx(18, abs=0.5)
    assert board.best is board.entries[0]
    board.deadline = time.monotonic() + 5
    assert board.seconds_left() == pytest.approx(5, abs=0.5)
    console = Console(width=100, file=None, record=True, quiet=True)
    console.print(live_view(board, 24))


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        *((1.25, "1.2 s"), (45.4, "45 s"), (59.7, "1 min 00 s"), (185, "3 min 05 s")),
        *((3600, "1 h 00 min"), (7384, "2 h 03 min"), (7199, "2 h 00 min")),
    ],
)
def test_durations_are_readable(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown
