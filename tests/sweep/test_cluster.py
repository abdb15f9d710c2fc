"""Ray on this machine: where its sockets lie when TMPDIR is too long for them."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from hlvnn.errors import RunError
from hlvnn.sweep import local_ray
from tests.helpers import ROOT

LONG = "a-folder-for-temporary-files-of-a-batch-job-on-a-cluster"


def test_a_long_tmpdir_is_left_for_a_short_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/tmp")
    assert local_ray.temporary_place() == Path("/tmp")
    (long := tmp_path / LONG).mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    short = local_ray.temporary_place()
    assert len(str(short)) + local_ray.NAME_BYTES + local_ray.BELOW <= local_ray.SOCKET_BYTES
    with local_ray.private() as options:
        private = Path(options["_temp_dir"]).parent
        assert private.parent == short
        assert len(private.name) + 1 == local_ray.NAME_BYTES
        assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert not private.exists()
    monkeypatch.setattr(local_ray, "SHORT_PLACES", ("/nowhere",))
    with pytest.raises(RunError, match=r"TMPDIR=/\S* is no folder for Ray, .* 10[37] bytes"):
        local_ray.temporary_place()


def test_a_place_where_others_may_rename_folders_is_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = Path(tempfile.mkdtemp(dir="/tmp"))
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(place))
    for mode, is_safe in ((0o700, True), (0o755, True), (0o777, False), (0o1777, True)):
        place.chmod(mode)
        assert local_ray.is_safe(place) == is_safe
        assert (local_ray.temporary_place() == place) == is_safe
    place.rmdir()


def test_a_token_is_made_before_ray_starts_and_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of some cluster")
    seen = []
    for _ in range(2):
        with local_ray.private():
            token = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
            assert stat.S_IMODE(token.stat().st_mode) == 0o600
            seen.append(token.read_text(encoding="utf-8"))
            assert "RAY_AUTH_TOKEN" not in os.environ
        assert os.environ["RAY_AUTH_TOKEN"] == "of some cluster"
        assert "RAY_AUTH_TOKEN_PATH" not in os.environ
    assert len({*seen}) == 2
    assert {len(token) for token in seen} == {64}


@pytest.mark.ray
def test_ray_starts_below_a_long_tmpdir_and_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / LONG / LONG
    folder.mkdir(parents=True)
    code = (
        "import ray; from hlvnn.sweep import cluster\n"
        "with cluster.connecting(None):\n"
        "    assert cluster.nodes()\n"
        "    place = ray._private.worker._global_node.get_session_dir_path()\n"
        "from pathlib import Path; assert not Path(place).parent.exists()\n"
    )
    env = {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": str(ROOT)}
    env.pop("RAY_TMPDIR", None)
    run = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
