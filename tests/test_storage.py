"""Folders behind an address: S3 (a real server on loopback), file://, and what fsspec knows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hlvnn import runs
from hlvnn.errors import ConfigError, RunError
from hlvnn.storage import Remote, files_below, is_address, local_copy
from hlvnn.sweep import command, plan
from hlvnn.sweep.mirror import Mirror, TrialCopy
from hlvnn.sweep.patience import Patience
from tests.chaos.server import s3_server

PLACES = ("s3", "file", "fsspec")


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
        (copy.folder / runs.WRITER).write_text(token)
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
    (second.folder / runs.WRITER).unlink()  # as a run does when it has finished
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
    planned = plan.new_plan(command.parse(flags))
    told = str(Remote(address) / "digits" / "one")
    assert planned.place() == f"'{told}'"
    assert planned.resume_command == f"python tune_search.py --resume '{told}'"
    (Remote(address) / "digits" / "one").write(plan.SWEEP, b"{}")
    with pytest.raises(RunError, match=r"s3://.*exists already; nothing was overwritten"):
        plan.new_plan(command.parse(flags))
    with pytest.raises(RunError, match=r"is not a sweep: sweep\.json is missing"):
        command.parse(["--resume", str(Remote(address) / "none")])
