"""What a sweep is asked for: defaults and flags, bad input, and what its nodes can hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from hlvnn import errors
from hlvnn.commands import tune_search
from hlvnn.errors import ConfigError, ResourceError
from hlvnn.sweep import cluster
from hlvnn.sweep.estimate import expected_share
from hlvnn.sweep.options import SweepConfig, check_changes

SPACE = """
BASE = {"dataset": "digits", "backbone": "mlp", "hidden": [8], "num_epochs": 3}
METRIC, MODE = "val_acc", "max"
SWEEP = {"num_trials": 5, "reduction_factor": 2}

def space(trial):
    return {"lr": trial.suggest_float("lr", 1e-3, 1e-1, log=True)}
"""


def told(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """Run tune_search.py's command; return what it says when it refuses (exit code 2)."""
    with pytest.raises(SystemExit) as end:
        errors.run_command(lambda: tune_search.main(list(args)))
    message = capsys.readouterr().err
    assert end.value.code == 2
    assert "Traceback" not in message
    return message


# bad input


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
    cluster.check(SweepConfig(gpus_per_trial=1, cpus_per_trial=8), nodes)
    with pytest.raises(ResourceError, match=r"64 CPUs and 1 GPUs on one node.*ask for at most"):
        cluster.check(SweepConfig(cpus_per_trial=64, gpus_per_trial=1), nodes)
    with pytest.raises(ResourceError, match="this machine has no GPU"):
        cluster.check(SweepConfig(gpus_per_trial=0.25), nodes[1:])


def test_a_cluster_that_is_said_to_grow_may_begin_with_nothing() -> None:
    head = [{"CPU": 0.0, "GPU": 0.0}]
    grows = SweepConfig(address="auto", max_concurrent=8)
    cluster.check(grows, head)
    assert cluster.slots(grows, head) == 8
    gpus = SweepConfig(address="auto", max_concurrent=8, gpus_per_trial=0.5)
    cluster.check(gpus, [*head, {"CPU": 8.0, "GPU": 0.0}])
    with pytest.raises(
        ResourceError, match=r"0 CPUs and 0 GPUs.*on a cluster that grows say --max"
    ):
        cluster.check(SweepConfig(address="auto"), head)
    with pytest.raises(ResourceError, match="no node of the cluster"):  # what is there is too small
        cluster.check(
            SweepConfig(address="auto", max_concurrent=8, cpus_per_trial=64),
            [{"CPU": 8.0, "GPU": 0.0}],
        )


@pytest.mark.parametrize("gpus", [2, 1.5, 8])
def test_more_than_one_gpu_a_trial_is_refused(here: Path, capsys, gpus: float) -> None:
    message = told(capsys, "study", "--gpus-per-trial", str(gpus))
    assert f"a trial trains on one GPU, and {gpus:g} would leave the others idle" in message


@pytest.mark.parametrize(
    ("cpus", "gpus", "limit", "expected"),
    [
        (1, 0, None, 12),
        (2, 0, None, 6),
        (1, 0.25, None, 8),
        (1, 0.3, None, 6),
        (1, 1, None, 2),
        (1, 0, 3, 3),
    ],
)
def test_slots_count_shares_of_single_gpus(cpus, gpus, limit, expected) -> None:
    nodes = [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 4.0, "GPU": 0.0}]
    options = SweepConfig(cpus_per_trial=cpus, gpus_per_trial=gpus, max_concurrent=limit)
    assert cluster.slots(options, nodes) == expected


# options


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
    with pytest.raises(ConfigError, match=r"^--seed \(was 1, got 2\) cannot change"):
        check_changes(before, before.model_copy(update={"seed": 2}))
    fixed = SweepConfig.model_validate({"fixed": {"lr": 0.5, "data_dir": "elsewhere"}}).fixed
    with pytest.raises(ConfigError, match=r"^--lr \(was None, got 0.5\) cannot change"):
        check_changes(before, before.model_copy(update={"fixed": fixed}))
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
