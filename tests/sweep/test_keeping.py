"""Sweeps after they ran, and while: watched, found, the best promoted, the rest pruned."""

from __future__ import annotations

import io
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from hlvnn.analysis import promote
from hlvnn.analysis.loading import load_sweep
from hlvnn.commands import find, prune, train_one, watch
from hlvnn.config import RunConfig, command_line, flatten, run_config
from hlvnn.records import outcomes, run_folder, sweep_folder
from hlvnn.records.outcomes import Status
from hlvnn.records.weight_files import WEIGHTS
from tests.conftest import Ended
from tests.rayless import run_sweep

SPACE = '''"""Digits | a small study: how fast to learn.

It searches the learning rate alone, which
matters most.

    python tune_search.py study
"""

BASE = {"dataset": "digits", "backbone": "mlp", "hidden": [8], "num_epochs": 2}
METRIC, MODE = "val_acc", "max"
SWEEP = {"num_trials": 5}


def space(trial):
    return {"lr": trial.suggest_float("lr", 1e-3, 1e-1, log=True), "latent_config": "factor"}
'''


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a sweep: 0, 1 and 2 completed, 3 was cut off, 4 was never drawn."""
    root = tmp_path_factory.mktemp("made")
    sweep = run_sweep(root, SPACE, trials=4, flags=["--description", "thin | networks"])
    (sweep / "trial_0003" / run_folder.RESULT).unlink()
    outcomes.forget(sweep, 3)
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of it, as working folder."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


SWEEP = Path("results/digits/s")


def test_a_sweep_says_what_it_is_about(root: Path) -> None:
    text = (SWEEP / "README.md").read_text(encoding="utf-8")
    assert text.startswith(
        "# s\n\nDigits | a small study: how fast to learn.\n\n"
        "It searches the learning rate alone, which\nmatters most.\n\nthin | networks\n\n"
        "5 trials of `search_spaces/study.py`"
    )
    assert "python tune_search.py --resume " in text
    assert "python tune_search.py study" not in text, "only how it opens"


# ---------------------------------------------------------------------------------- watch


def test_a_running_sweep_is_shown_as_its_driver_shows_it(root: Path) -> None:
    console = Console(file=io.StringIO(), width=160)
    with sweep_folder.locking(SWEEP):
        results = load_sweep(SWEEP)
        assert results.alive
        board = watch.board_of(results)
        watch.watch(watch.WatchOptions(sweep=str(SWEEP), once=True), console)
    entries = board.entries
    assert [entries[n].status for n in range(4)] == [*[Status.COMPLETED] * 3, Status.RUNNING]
    assert list(entries) == [0, 1, 2, 3], "what is not drawn yet is only counted"
    assert board.num_trials == 5
    for number, entry in entries.items():
        metrics = run_folder.read_metrics(outcomes.trial_folder(SWEEP, number))
        assert entry.metric == pytest.approx(metrics["val_acc"].iloc[-1])
        assert entry.best == pytest.approx(metrics["val_acc"].max())
        assert entry.worst_group == pytest.approx(metrics["val_group_worst"].iloc[-1])
        assert (entry.epoch, entry.num_epochs) == (2, 2)
        assert entry.settings.startswith("lr=")
    shown = console.file.getvalue()
    assert "3 of 5 trials over (3 completed, 1 running)" in shown
    assert "no driver works on it" not in shown


def test_a_sweep_that_nobody_drives_is_shown_and_left(root: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in SWEEP.rglob("*")}
    console = Console(file=io.StringIO(), width=160, force_terminal=True)
    watch.watch(watch.WatchOptions(sweep=str(SWEEP)), console)  # ends by itself
    shown = console.file.getvalue()
    assert f"no driver works on {SWEEP}" in shown
    assert "stopped" in shown
    assert before == {path: path.stat().st_mtime_ns for path in SWEEP.rglob("*")}


def test_watch_says_what_is_no_sweep(root: Path, analysis: Callable[..., Ended]) -> None:
    ended = analysis("watch", SWEEP / "trial_0000")
    assert ended.code == 2
    assert "is not a sweep: sweep.json is missing" in ended.err


@pytest.mark.parametrize("command", ["watch", "promote", "prune"])
def test_what_needs_a_folder_says_so_of_an_address(
    root: Path, analysis: Callable[..., Ended], command: str
) -> None:
    ended = analysis(command, "s3://bucket/sweep")
    assert ended.code == 2
    assert "s3://bucket/sweep: " in ended.err
    assert "a folder of this machine; copy the results here first" in ended.err


# ----------------------------------------------------------------------------------- find


def test_runs_and_sweeps_are_found_by_description_name_and_opening(
    root: Path, analysis: Callable[..., Ended]
) -> None:
    shutil.copytree(SWEEP / "trial_0001", Path("results/digits/single"))
    record = Path("results/digits/single/hyperparams.json")
    text = record.read_text(encoding="utf-8").replace("thin | networks", "A Second Latent [bold]")
    record.write_text(text, encoding="utf-8")
    found = {one.folder: one.kind for one in find.described(Path("results"))}
    assert found == {SWEEP: "sweep", Path("results/digits/single"): "run"}
    ended = analysis("find", "latent", "second")
    assert ended.code == 0
    assert "results/digits/single" in ended.out
    assert "A Second Latent [bold]" in ended.out
    assert str(SWEEP) + " " not in ended.out
    assert "thin | networks" in analysis("find", "learning", "RATE").out
    assert (
        "none of 2 runs and sweeps in results is described by zebra"
        in analysis("find", "zebra").out
    )
    (SWEEP / "sweep.json").write_text("{", encoding="utf-8")
    ended = analysis("find", "second")
    assert ended.code == 0, "a damaged one does not hide the others"
    missing = analysis("find", "x", "--results", "nowhere")
    assert missing.code == 2
    assert "--results nowhere: no such folder" in missing.err


# -------------------------------------------------------------------------------- promote


def test_the_command_of_a_run_makes_its_configuration_again() -> None:
    latents = ["concat@hidden level=writer width=3 prior=learned", "bias@output level=writer"]
    for settings in (
        {"dataset": "digits"},
        {"dataset": "digits", "lr": 0.1 + 0.2, "batch_size": None, "z_dim": [8, 4], "seed": 7},
        {"dataset": "digits", "latents": latents, "skip": True, "description": "a 'b' | c"},
        {"dataset": "table", "table": "a b.csv", "groups": ["x", "y z"], "latent_config": "double"},
        {"dataset": "d", "data_dir": "/somewhere/else", "hidden": [8], "patience": 3},
    ):
        config = run_config(settings, "test")
        words = shlex.split(command_line(config))
        assert train_one.parse(words).run_config() == config
    shown = run_config({"dataset": "digits", "testing": True, "debug": True}, "test")
    assert command_line(shown) == "--dataset digits"


def test_promoted_trials_are_copied_and_ranked(root: Path, analysis: Callable[..., Ended]) -> None:
    results = load_sweep(SWEEP)
    sota = Path("results/sota/digits")
    for number in (2, 0, 1):
        ended = analysis("promote", SWEEP / f"trial_{number:04d}")
        assert ended.code == 0, ended.err
    table = pd.read_csv(sota / "leaderboard.csv")
    assert table.columns.tolist() == [*promote.COLUMNS]
    assert sorted(table["name"]) == [f"s-trial_{number:04d}" for number in range(3)]
    assert (table["value"].diff().dropna() <= 0).all()
    assert table["rank"].tolist() == table["value"].rank(ascending=False, method="min").tolist()
    for row in table.itertuples():
        number = int(row.name[-4:])
        trial_row = results.row(number)
        assert row.value == pytest.approx(trial_row["best_val_acc"])
        assert row.test == pytest.approx(trial_row["best_test_acc"])
        assert row.epoch == trial_row["best_epoch"]
        assert row.data_hash == trial_row["data_hash"]
        assert row.metric == "val_acc"
        source = run_folder.read_config(SWEEP / f"trial_{number:04d}")
        words = shlex.split(row.command.removeprefix("python train_one.py "))
        again = train_one.parse(words).run_config()
        keep = {"results_dir": source.results_dir}
        assert flatten(again.model_copy(update=keep)) == flatten(source)
        kept = run_folder.load_run(sota / row.name, "best").model.state_dict()
        original = run_folder.load_run(SWEEP / f"trial_{number:04d}", "best").model.state_dict()
        assert all(kept[key].equal(original[key]) for key in original)
    text = (sota / "README.md").read_text(encoding="utf-8")
    assert text.startswith("# The best of digits\n\n## val_acc on data ")
    assert "thin \\| networks" in text, "a description cannot break the table"
    assert text.count("    python train_one.py --dataset digits") == 3


def test_other_metrics_and_single_runs_have_ranks_of_their_own(
    root: Path, analysis: Callable[..., Ended]
) -> None:
    flags = ["--metric", "val_loss", "--mode", "min", "--name", "by-loss"]
    assert analysis("promote", SWEEP / "trial_0000", *flags).code == 0
    shutil.copytree(SWEEP / "trial_0001", Path("results/digits/alone"))
    ended = analysis("promote", "results/digits/alone")
    assert "rank 1 of 1 by val_acc" in ended.out
    table = promote.leaderboard(Path("results/sota/digits")).set_index("name")
    assert table["rank"].tolist() == [1, 1]
    metrics = run_folder.read_metrics(SWEEP / "trial_0000")
    assert table["value"]["by-loss"] == pytest.approx(metrics["val_loss"].min())
    assert table["test"]["by-loss"] == pytest.approx(
        metrics["test_loss"][metrics["val_loss"].idxmin()]
    )


def test_promote_refuses_and_leaves_nothing_half_written(
    root: Path, analysis: Callable[..., Ended]
) -> None:
    best = SWEEP / "trial_0000"
    assert analysis("promote", best).code == 0
    before = sorted(Path("results/sota").rglob("*"))
    damaged = Path("results/digits/damaged")
    shutil.copytree(best, damaged)
    (damaged / "best.pt").write_bytes(b"PK\x03\x04 cut short")
    for args, message in (
        ([best], "exists already; nothing was overwritten"),
        ([SWEEP / "trial_0003"], "has not ended"),
        ([damaged], "not a readable checkpoint"),
        ([best, "--name", "../x"], "a plain name is expected"),
        ([best, "--metric", "val_ac", "--mode", "max", "--name", "y"], "did you mean 'val_acc'?"),
        ([best, "--metric", "val_acc", "--name", "y"], "--metric and --mode belong together"),
        ([SWEEP], "no such file"),
    ):
        ended = analysis("promote", *args)
        assert ended.code == 2
        assert message in ended.err
    assert sorted(Path("results/sota").rglob("*")) == before


# ---------------------------------------------------------------------------------- prune


def test_prune_lists_first_and_deletes_when_asked_again(
    root: Path, analysis: Callable[..., Ended]
) -> None:
    (SWEEP / "ray").mkdir()
    (SWEEP / "ray" / "state.json").write_text("x" * 2000, encoding="utf-8")
    test_run = Path("results/tests/quick")
    shutil.copytree(SWEEP / "trial_0000", test_run)
    assert analysis("promote", SWEEP / "trial_0000").code == 0
    best = int(load_sweep(SWEEP).best(1)["trial"][0])
    ended = [f"trial_{number:04d}" for number in range(3) if number != best]
    everything = sorted(Path("results").rglob("*"))
    listed = analysis("prune", "results", "--keep", 1)
    assert listed.code == 0, listed.err
    assert "nothing was deleted. To delete it, add --yes" in listed.out
    assert sorted(Path("results").rglob("*")) == everything
    expected = {SWEEP / name / file for name in ended for file in WEIGHTS}
    expected |= {SWEEP / "ray", test_run}
    found, _ = prune.waste(Path("results"), 1)
    assert {
        one.path.relative_to(Path.cwd()) if one.path.is_absolute() else one.path for one in found
    } == expected
    sizes = {one.path.name: one.bytes for one in found}
    assert sizes["ray"] == 2000
    deleted = analysis("prune", "results", "--keep", 1, "--yes")
    assert deleted.code == 0, deleted.err
    gone = set(everything) - set(Path("results").rglob("*"))
    below = {path for path in everything if {SWEEP / "ray", test_run} & {path, *path.parents}}
    assert gone == expected | below
    run_folder.load_run(SWEEP / f"trial_{best:04d}")
    run_folder.load_run(SWEEP / "trial_0003")  # to go on with
    assert load_sweep(SWEEP).trials["best_val_acc"].notna().sum() == 4, "tables stay"
    assert "nothing in results could go" in analysis("prune", "results", "--keep", 1).out


def test_a_running_or_damaged_sweep_is_left_alone(
    root: Path, analysis: Callable[..., Ended]
) -> None:
    with sweep_folder.locking(SWEEP):
        ended = analysis("prune", SWEEP, "--keep", 0, "--yes")
        assert "it runs" in ended.out
    assert (SWEEP / "trial_0000" / "best.pt").exists()
    (SWEEP / "sweep.json").write_text("{", encoding="utf-8")
    ended = analysis("prune", "results", "--keep", 0, "--yes")
    assert "left alone" in ended.out
    assert (SWEEP / "trial_0000" / "best.pt").exists()
    assert analysis("prune", "nowhere").code == 2


def test_links_are_not_followed(root: Path, analysis: Callable[..., Ended]) -> None:
    outside = root / "outside"
    shutil.move(SWEEP, outside)
    SWEEP.symlink_to(outside, target_is_directory=True)
    found, _ = prune.waste(Path("results"), 0)
    assert found == []
    assert RunConfig().results_dir == Path("results")
