"""Folders behind an address: S3 (a real server on loopback), file://, and what fsspec knows."""

from __future__ import annotations

import html
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hlvnn.analysis import load_runs, load_sweep
from hlvnn.commands import train_one, tune_search
from hlvnn.config import repeated
from hlvnn.errors import ConfigError, RunError
from hlvnn.patience import Patience
from hlvnn.records import run_folder, sweep_folder, weight_files
from hlvnn.storage import Remote, files_below, is_address, local_copy
from hlvnn.sweep import closing, node_checks, plan
from hlvnn.sweep.copies import Mirror, TrialCopy
from tests.chaos.server import s3_server
from tests.conftest import Ended

PLACES = ("s3", "file", "fsspec")
LATER = [pytest.param(place, marks=pytest.mark.slow) for place in PLACES[1:]]


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with s3_server() as (address, _):
        yield address


@pytest.fixture(params=PLACES)
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> Remote:
    """Return an empty folder behind an address of each kind."""
    if request.param == "s3":
        return Remote.at(request.getfixturevalue("s3")) / tmp_path.name
    scheme = {"file": "file", "fsspec": "local"}[request.param]
    return Remote.at(f"{scheme}://{tmp_path}/remote") / "below"


def test_a_folder_goes_there_and_comes_back(remote: Remote, tmp_path: Path) -> None:
    remote.check_writable()
    assert remote.names() == []
    folder = tmp_path / "run"
    (folder / "training_stats").mkdir(parents=True)
    (folder / "metrics.csv").write_text("epoch\n1\n")
    (folder / "training_stats" / "epoch_0001.parquet").write_bytes(b"\0\1\2")
    (folder / ".metrics.csv.7.tmp").write_text("half")
    sent: dict[str, tuple[int, int]] = {}
    remote.push(folder, sent, files_below(folder))
    assert remote.names() == ["metrics.csv", "training_stats/epoch_0001.parquet"]
    copy = local_copy(str(remote), tmp_path / "copy")
    assert (copy / "training_stats" / "epoch_0001.parquet").read_bytes() == b"\0\1\2"

    remote.write("metrics.csv", b"by another")
    (folder / "training_stats" / "epoch_0001.parquet").unlink()
    (folder / "result.json").write_text("{}")
    remote.push(folder, sent, [*files_below(folder), *sent])
    assert remote.names() == ["metrics.csv", "result.json"]
    assert remote.read("metrics.csv") == b"by another", "what had not changed was uploaded again"
    assert remote.read("none") is None
    assert not remote.exists("none")
    with pytest.raises(RunError, match="exists already; nothing was overwritten"):
        local_copy(str(remote), copy)
    with pytest.raises(RunError, match="nothing is there"):
        local_copy(str(remote / "elsewhere"), tmp_path / "nothing")


def test_a_trial_that_was_taken_over_uploads_no_more(remote: Remote, tmp_path: Path) -> None:
    def copied(token: str) -> TrialCopy:
        copy = TrialCopy(remote, Patience(0))
        copy.folder.mkdir(exist_ok=True)
        (copy.folder / run_folder.WRITER).write_text(token)
        return copy

    first = copied("first")
    (first.folder / "metrics.csv").write_text("1")
    first.push()
    second = copied("second")
    assert (second.folder / "metrics.csv").read_text() == "1"
    (second.folder / "metrics.csv").write_text("1 and 2")
    second.push()
    (first.folder / "metrics.csv").write_text("1 and another 2")
    with pytest.raises(RunError, match="taken over by another process"):
        first.push()
    first.close()
    (second.folder / run_folder.WRITER).unlink()  # as a run does when it has finished
    second.push()
    second.close()
    assert remote.names() == ["metrics.csv"]
    assert remote.read("metrics.csv") == b"1 and 2"
    assert not first.folder.exists()


def test_a_name_that_leads_out_of_the_folder_is_not_fetched(s3: str, tmp_path: Path) -> None:
    remote = Remote.at(s3) / tmp_path.name
    for name in ("../../escaped", "/tmp/escaped"):
        with pytest.raises(RunError, match="leads out of the folder"):
            remote.pull(tmp_path / "copy", [name])


@pytest.mark.slow
def test_an_outage_is_waited_for_and_then_told(tmp_path: Path) -> None:
    said: list[str] = []
    with s3_server() as (address, server):
        mirror = Mirror(tmp_path, Remote.at(address) / "sweep", Patience(1, said.append))
        (tmp_path / "sweep.json").write_text("{}")
        mirror.push()
        server.kill()
        server.wait()
        (tmp_path / "sweep.json").write_text("{ }")
        mirror.last = 0.0
        mirror.push_now_and_then()
        assert "the sweep goes on and uploads later" in said[0]
        with pytest.raises(RunError, match=r"s3://.* \(waited 1 s for it, --storage-patience\)"):
            mirror.push()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("s3://key:secret@bucket/dir", "a key in an address would be written into the results"),
        ("nowhere://bucket/dir", "no such kind of storage"),
    ],
)
def test_an_address_that_makes_no_sense_is_told(address: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Remote.at(address)
    assert "secret" not in str(caught.value)


def test_addresses_are_told_from_folders() -> None:
    assert is_address("s3://bucket/dir")
    assert not is_address("results/digits")
    assert not is_address(Path("/tmp/x"))
    assert str(Remote("s3://b/d?scheme=http") / "x" / "y") == "s3://b/d/x/y?scheme=http"


def test_a_sweep_at_an_address_is_told_by_it(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"{s3.split('?')[0]}/told?{s3.split('?')[1]}"
    flags = ["digits", "--name", "one", "--results-dir", address]
    planned = plan.new_plan(tune_search.parse(flags))
    told = str(Remote(address) / "digits" / "one")
    assert planned.place() == f"'{told}'"
    assert planned.resume_command == f"python tune_search.py --resume '{told}'"
    (Remote(address) / "digits" / "one").write(sweep_folder.SWEEP, b"{}")
    with pytest.raises(RunError, match=r"s3://.*exists already; nothing was overwritten"):
        plan.new_plan(tune_search.parse(flags))
    with pytest.raises(RunError, match=r"is not a sweep: sweep\.json is missing"):
        tune_search.parse(["--resume", str(Remote(address) / "none")])


# a sweep that is read from its address


@pytest.mark.parametrize("remote", ["s3", *LATER], indirect=True)
def test_a_sweep_is_read_reported_repeated_and_pruned_at_its_address(
    small_sweep: Path,
    remote: Remote,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    analysis: Callable[..., Ended],
) -> None:
    monkeypatch.chdir(tmp_path)
    sweep = remote / "small"
    sweep.push(small_sweep, {}, files_below(small_sweep))
    here, there = load_sweep(small_sweep, alive=False), load_sweep(str(sweep), alive=False)
    assert there.table.drop(columns="folder").equals(here.table.drop(columns="folder"))
    assert there.groups.read(trials=[0]).equals(here.groups.read(trials=[0]))
    assert there.problems == []
    with pytest.raises(RunError, match=r"is a sweep.*load_sweep"):
        load_runs(str(sweep))

    best = sweep / f"trial_{here.best_trial:04d}"
    run = run_folder.load_run(str(best), "best")
    assert train_one.parse(["--from-trial", str(best)]).run_config() == repeated(run.config)

    ended = analysis(str(sweep))
    assert ended.code == 0, ended.err
    written = html.unescape((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert f"python train_one.py --from-trial {shlex.quote(str(best))}" in written
    assert closing.write_report(small_sweep, sweep) == f"report: {sweep / 'report.html'}"
    assert "hlvnn-copy" not in (sweep.read("report.html") or b"").decode()

    placed = here.placed.head(3)
    freed = weight_files.prune(sweep, placed.assign(unfinished=False), keep=1)
    assert freed.trials == 2
    weights = [name for name in sweep.names() if name.rpartition("/")[2] in weight_files.WEIGHTS]
    assert freed.bytes == sum(
        (small_sweep / name).stat().st_size
        for name in files_below(small_sweep)
        if name.rpartition("/")[2] in weight_files.WEIGHTS and name not in weights
    )
    assert {name.partition("/")[0] for name in weights}.isdisjoint(placed["name"].iloc[1:])
    assert best.exists(run_folder.BEST)


def test_a_node_proves_that_it_reaches_the_address(remote: Remote) -> None:
    with node_checks.leaving_token(remote) as request:
        assert node_checks.inspect(request).storage == ""
        elsewhere = node_checks.Request(str(remote / "elsewhere"), request.token, ())
        assert "does not see the files" in node_checks.inspect(elsewhere).storage
    assert remote.names() == [], "nothing was left there"


def test_a_new_sweep_learns_from_one_at_an_address_and_it_is_extended(
    small_sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(small_sweep.parent.parent.parent)
    sweep = Remote.at(f"file://{tmp_path}/there")
    sweep.push(small_sweep, {}, files_below(small_sweep))
    planned = plan.of(tune_search.parse(["study", "--warm-start", str(sweep), "--name", "warmed"]))
    assert planned.earlier is not None
    assert len(planned.earlier.trials) > 1
    assert f"of {sweep} inform" in planned.earlier.told()
    with pytest.raises(RunError, match=f"--extend {sweep}: trial 7 has not ended"):
        plan.of(tune_search.parse(["--extend", str(sweep), "--num-trials", "3"]))
