"""Ray on this machine: where its sockets lie when TMPDIR is too long for them."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from hlvnn.errors import RunError
from hlvnn.sweep import cluster
from tests.helpers import ROOT

LONG = "a-folder-for-temporary-files-of-a-batch-job-on-a-cluster"


def test_a_long_tmpdir_is_left_for_a_short_private_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/tmp")
    assert cluster.short_folder() is None
    monkeypatch.setenv("TMPDIR", f"/scratch/{LONG}")
    short = cluster.short_folder()
    assert short is not None
    assert len(short) + cluster.BELOW_TMPDIR <= cluster.SOCKET_BYTES
    assert stat.S_IMODE(Path(short).stat().st_mode) == 0o700
    shutil.rmtree(short)
    monkeypatch.setattr(cluster, "SHORT_PLACES", ("/nowhere",))
    with pytest.raises(RunError, match=r"TMPDIR=/scratch/.* is too long for Ray .* 10[37] bytes"):
        cluster.short_folder()


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
