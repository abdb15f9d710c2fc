"""`--or-resume`: the same command begins a sweep and goes on with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hlvnn import errors
from hlvnn.commands import tune_search
from hlvnn.errors import ConfigError, RunError
from hlvnn.files import read_json, write_json
from hlvnn.records.sweep_folder import LOCK, SPACE_COPY, SWEEP
from hlvnn.sweep import plan
from tests.rayless import run_sweep
from tests.spaces import SPACE

FLAGS = ["study", "--name", "s", "--or-resume"]


def test_the_same_command_begins_and_goes_on(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "search_spaces").mkdir()
    (tmp_path / "search_spaces" / "study.py").write_text(SPACE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    new = plan.of(tune_search.parse([*FLAGS, "--seed", "3"]))
    assert new.options.resume is None
    assert not new.sweep.exists()
    run_sweep(tmp_path / "again", SPACE, 1, ["--seed", "3"])
    monkeypatch.chdir(tmp_path / "again")
    on = plan.of(tune_search.parse([*FLAGS, "--seed", "3", "--num-trials", "40"]))
    assert on.options.resume == "results/digits/s"
    assert on.options.num_trials == 40
    assert on.sweep == tmp_path / "again" / "results" / "digits" / "s"
    with pytest.raises(ConfigError, match=r"--seed \(was 3, got 4\) cannot change"):
        plan.of(tune_search.parse([*FLAGS, "--seed", "4"]))


@pytest.mark.parametrize(
    "flags", [["study", "--or-resume"], ["--name", "s", "--or-resume"], [*FLAGS, "--resume", "x"]]
)
def test_what_it_needs_is_told(here: Path, flags: list[str]) -> None:
    with pytest.raises(ConfigError, match="give a search space and --name NAME, and neither"):
        tune_search.parse(flags)


def test_a_driver_that_ended_as_it_began_does_not_block_the_name(here: Path, capsys) -> None:
    folder = here / "results" / "digits" / "s"
    folder.mkdir(parents=True)
    for name in (LOCK, SPACE_COPY):
        (folder / name).touch()
    for flags in (FLAGS, FLAGS[:-1]):
        planned = plan.claimed(plan.of(tune_search.parse(flags)))
        assert planned.sweep == folder
    plan.begin(planned)
    with pytest.raises(RunError, match="exists already; nothing was overwritten"):
        plan.begin(planned)  # by another driver, which planned it at the same time
    (folder / SWEEP).unlink()
    (folder / "trial_0000").mkdir()
    with pytest.raises(SystemExit):
        errors.run_command(lambda: tune_search.main(FLAGS))
    assert "results/digits/s exists already" in capsys.readouterr().err


def test_a_cluster_that_is_gone_is_not_looked_for_again(tmp_path: Path, monkeypatch) -> None:
    sweep = run_sweep(tmp_path, SPACE, 1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(plan.COMMAND, raising=False)
    record = read_json(sweep / SWEEP)
    assert "address" not in record["options"]
    assert record["starts"][-1]["address"] is None
    record["options"]["address"] = "10.0.0.1:6379"  # of an older version
    del record["starts"][-1]["address"]
    write_json(sweep / SWEEP, record)
    on = plan.of(tune_search.parse(["--resume", "results/digits/s"]))
    assert on.options.address is None
    assert on.was_at == "10.0.0.1:6379"
    assert on.resume_command == "python tune_search.py --resume results/digits/s"
    there = plan.of(tune_search.parse(["--resume", "results/digits/s", "--address", "auto"]))
    assert there.resume_command.endswith("--resume results/digits/s --address auto")
    monkeypatch.setenv(plan.COMMAND, "sbatch [OPTIONS] cluster/slurm.sh")
    assert there.resume_command == "sbatch [OPTIONS] cluster/slurm.sh --resume results/digits/s"
