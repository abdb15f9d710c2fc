"""What another user of the machine can do with a Ray of ours: nothing. Tried as that user."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from hlvnn.errors import RunError
from hlvnn.sweep import access, local_ray
from tests.cluster.intruder import look
from tests.cluster.recipes import SPACE
from tests.helpers import ROOT, wait_until

INTRUDER = Path(__file__).with_name("intruder.py")
OTHER = 65534
"""A user who owns nothing."""
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def intrude(folder: Path, target: dict[str, Any]) -> list[str]:
    """Return what another user can do with a target (see intruder.py)."""
    (folder / "target.json").write_text(json.dumps(target), encoding="utf-8")
    asked = [sys.executable, str(INTRUDER), str(OTHER), str(folder / "target.json")]
    return json.loads(subprocess.check_output(asked, text=True, timeout=120))


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@as_root
def test_an_open_place_is_not_safe_from_this_intruder(tmp_path: Path) -> None:
    """As Ray itself leaves it: without this the other tests would show nothing."""
    place = Path(tempfile.mkdtemp(dir="/tmp"))
    (place / "logs").mkdir()
    for folder in (place, place / "logs"):
        folder.chmod(0o777)
    (place / "token").write_text("secret", encoding="utf-8")
    (place / "token").chmod(0o644)
    with socket.socket(socket.AF_UNIX) as listens:
        listens.bind(str(place / "socket"))
        (place / "socket").chmod(0o777)
        listens.listen()
        found = intrude(
            tmp_path,
            {
                "uid": os.geteuid(),
                "http": [],
                "grpc": [],
                "files": [str(place / "token")],
                "folders": [str(place / "logs")],
                "sockets": [str(place / "socket")],
                "pids": [],
                "secret": "secret",
            },
        )
    shutil.rmtree(place)
    assert [sentence.split()[0] for sentence in found] == [
        *("read", "listed", "wrote", "renamed", "connected")
    ]


@as_root
@pytest.mark.ray
def test_nobody_else_gets_at_a_sweep_on_this_machine(tmp_path: Path) -> None:
    """A real one, as somebody types it: umask 022, a home that others can read, no settings."""
    for name in ("home", "search_spaces"):
        (tmp_path / name).mkdir()
    (tmp_path / "search_spaces" / "tiny.py").write_text(SPACE, encoding="utf-8")
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env |= {"HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    short = Path(subprocess.check_output(["mktemp", "-d", "/tmp/rt.XXXX"], text=True).strip())
    short.chmod(0o1777)
    command = [sys.executable, str(ROOT / "tune_search.py"), "tiny", "--num-trials", "2"]
    more = ["--num-epochs", "100000", "--max-concurrent", "1", "--scheduler", "none"]
    driver = subprocess.Popen(
        [*command, *more, "--patience", "1000000"],
        cwd=tmp_path,
        env=env | {"TMPDIR": str(short)},
        umask=0o022,
        stdout=(log := (tmp_path / "log").open("wb")),
        stderr=subprocess.STDOUT,
    )
    try:
        wait_until(
            lambda: driver.poll() is not None or list(tmp_path.glob("results/*/*/trial_*/*.csv")),
            seconds=120,
        )
        assert driver.poll() is None, (tmp_path / "log").read_text(encoding="utf-8")
        (private,) = short.glob(f"{local_ray.PREFIX}*")
        top = psutil.Process(driver.pid)
        pids = [one.pid for one in (top, *top.children(recursive=True))]
        target = look(private, pids)
        token = private / local_ray.TOKEN
        assert stat.S_IMODE(private.stat().st_mode) == 0o700
        assert stat.S_IMODE(token.stat().st_mode) == 0o600
        assert target["hosts"] == ["127.0.0.1"]
        assert len(target["sockets"]) >= 2
        assert len(target["grpc"]) >= 4
        target["secret"] = token.read_text(encoding="utf-8")
        assert intrude(tmp_path, target) == []
        assert not (tmp_path / "home" / ".ray").exists()
    finally:
        driver.terminate()
        driver.wait(timeout=120)
        log.close()
    assert not private.exists()
    assert not any(map(is_running, target["pids"]))
    assert list(short.iterdir()) == []
    short.rmdir()


def test_what_a_killed_driver_leaves_its_users_next_one_takes_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = Path(tempfile.mkdtemp(dir="/tmp"))
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    old = time.time() - local_ray.NEW_SECONDS - 1
    with local_ray.private() as options:  # of a driver that lives
        alive = Path(options["_temp_dir"]).parent
        (killed := place / f"{local_ray.PREFIX}killed").mkdir(mode=0o700)
        (killed / local_ray.OWNER).touch()
        (linked := place / f"{local_ray.PREFIX}linked").symlink_to(place)
        for folder in (alive, killed):
            os.utime(folder, (old, old))
        with local_ray.private():
            assert alive.exists()
            assert not killed.exists()
            assert linked.is_symlink()
    linked.unlink()
    assert list(place.iterdir()) == []
    place.rmdir()


def test_a_token_that_all_can_read_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    token = tmp_path / "auth_token"
    token.write_text("0" * 64, encoding="utf-8")
    token.chmod(0o644)  # as `ray get-auth-token --generate` leaves it
    monkeypatch.setenv(access.TOKEN_PATH, str(token))
    for _ in range(2):
        access.close_token_file()
        assert stat.S_IMODE(token.stat().st_mode) == 0o600
    told = capsys.readouterr().err
    assert told.count("other users could read this token") == 1
    assert str(token) in told


def test_address_auto_takes_ones_own_ray_and_never_another_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(access, "PROCESSES", tmp_path)

    def process(number: int, address: str, uid: int = -1) -> None:
        (folder := tmp_path / str(number)).mkdir()
        words = f"/lib/ray/core/src/ray/raylet/raylet\0{access.FLAG}{address}\0--x=1\0"
        (folder / "cmdline").write_text(words, encoding="utf-8")
        os.chown(folder, uid, -1)

    with pytest.raises(RunError, match="a Ray of yours on this machine, and there is none"):
        access.own_cluster()
    if os.geteuid() == 0:
        process(1, "10.0.0.9:6379", OTHER)
        with pytest.raises(RunError, match="and there is none"):
            access.own_cluster()
    process(2, "10.0.0.1:6379")
    assert access.own_cluster() == "10.0.0.1:6379"
    process(3, "10.0.0.1:6379")  # another node of the same
    assert access.own_cluster() == "10.0.0.1:6379"
    process(4, "10.0.0.2:6379")
    with pytest.raises(RunError, match=r"several of them: 10\.0\.0\.1:6379, 10\.0\.0\.2:6379"):
        access.own_cluster()
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.2:6379")
    assert access.own_cluster() == "10.0.0.2:6379"
