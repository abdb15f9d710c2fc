"""What a sweep tells Prometheus, and Ray's logs that are kept when it fails."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import pytest

from hlvnn.errors import ResourceError
from hlvnn.records.board import Board, Entry
from hlvnn.records.outcomes import Status
from hlvnn.records.sweep_folder import RAY_LOGS
from hlvnn.search_space import load
from hlvnn.sweep import metrics, ray_logs


@pytest.fixture
def board(here: Path) -> Board:
    made = Board(load("study"), num_trials=5, slots=2)
    made.entries[0] = Entry(0, "lr=1", 4, Status.COMPLETED, epoch=4, best=0.5, starts=1)
    made.entries[1] = Entry(1, "lr=2", 4, Status.RUNNING, epoch=2, best=0.75, starts=2)
    return made


def free_port() -> int:
    with socket.socket() as free:
        free.bind((metrics.HOST, 0))
        return free.getsockname()[1]


def test_a_sweeps_metrics_are_read_on_loopback(board: Board) -> None:
    port = free_port()
    with metrics.serving(port, 'a "sweep"', board):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            lines = answer.read().decode().splitlines()
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/other")
        taken = pytest.raises(ResourceError, match=f"--metrics-port {port}: .*give a port that is")
        with taken, metrics.serving(port, "b", board):
            pass
    of = r'sweep="a \"sweep\""'
    assert f'hlvnn_sweep_trials{{{of},status="completed"}} 1' in lines
    assert f'hlvnn_sweep_trials{{{of},status="running"}} 1' in lines
    assert f'hlvnn_sweep_trials{{{of},status="not started"}} 3' in lines
    assert f"hlvnn_sweep_epochs{{{of}}} 6" in lines
    assert f"hlvnn_sweep_starts{{{of}}} 3" in lines
    best = next(line for line in lines if line.startswith("hlvnn_sweep_best{"))
    assert f'metric="{board.space.metric}"' in best
    assert sum(line.startswith("# TYPE") for line in lines) == 6
    with pytest.raises(urllib.error.URLError):  # it went with the sweep
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics")
    with metrics.serving(None, "c", board):
        pass


def test_the_ends_of_rays_logs_are_kept(tmp_path: Path, monkeypatch) -> None:
    logs, sweep = tmp_path / "logs", tmp_path / "sweep"
    (logs / "events").mkdir(parents=True)
    sweep.mkdir()
    monkeypatch.setattr(ray_logs, "MOST_BYTES", 10)
    assert not ray_logs.keep(sweep)  # no Ray
    monkeypatch.setattr(ray_logs, "logs_folder", lambda: logs)
    (logs / "raylet.out").write_text("a long story, and why", encoding="utf-8")
    (logs / "events" / "event.log").write_text("an event", encoding="utf-8")
    assert ray_logs.keep(sweep)
    with zipfile.ZipFile(sweep / RAY_LOGS) as kept:
        assert sorted(kept.namelist()) == ["events/event.log", "raylet.out"]
        assert kept.read("raylet.out") == b"y, and why"
