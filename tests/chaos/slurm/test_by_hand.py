"""A cluster started by hand: the page's commands, typed as they stand on three nodes."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from tests.chaos.slurm.nodes import NETWORK, USERS, Nodes, why_not
from tests.helpers import ROOT

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.xdist_group("slurm"),
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "-"),
]
HEAD, OTHERS = "n1", ("n2", "n3")


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    with Nodes() as made:
        yield made


def typed() -> list[str]:
    """Return the page's commands, for a cluster of three nodes and a sweep of digits."""
    page = (ROOT / "cluster" / "README.md").read_text(encoding="utf-8")
    section = page.partition("## A cluster started by hand")[2].partition("\n## ")[0]
    once = re.search(r"`(\(umask [^`]+)`", section)
    assert once is not None
    lines = [line.strip() for line in section.splitlines() if line.startswith("    ")]
    changes = {
        "HEAD:": f"{NETWORK}.1:",
        "nodes.py 4": "nodes.py 3",
        "femnist": "digits --num-trials 3 --num-epochs 3 --no-pooled-reference --no-report",
        "/shared/": "$HOME/",
    }
    for here, there in changes.items():
        assert any(here in line for line in lines), here
        lines = [line.replace(here, there) for line in lines]
    return [once[1], *lines]


def test_the_pages_commands_as_they_stand(nodes: Nodes) -> None:
    once, enter, folder, head, other, wait, sweep, end = typed()
    home = nodes.tree("alice").parent
    (nodes.tree("alice") / ".venv").symlink_to(sys.prefix)
    os.chown(home, USERS["alice"], USERS["alice"])

    def say(node: str, *lines: str) -> str:
        words = "\n".join(("set -e", *lines))
        return nodes.run(node, "bash", "-c", words, user="alice")

    say(HEAD, enter, once)
    token = home / ".ray" / "auth_token"
    assert token.stat().st_mode & 0o077 == 0
    say(HEAD, enter, folder, head)
    for node in OTHERS:
        say(node, enter, folder, other)
    assert [path.stat().st_mode & 0o777 for path in nodes.left("alice")] == [0o700] * 3
    printed = say(HEAD, enter, f"export RAY_ADDRESS={NETWORK}.1:6379", wait)
    assert "it begins with these" not in printed  # all three are there
    printed = say(HEAD, enter, sweep)
    frame = pd.read_parquet(home / "results" / "digits" / "wide" / "trials.parquet")
    assert set(frame["status"]) <= {"completed", "stopped"}, printed
    assert len(frame) == 3
    assert "other users could read this token" not in printed
    for node in (*OTHERS, HEAD):
        say(node, enter, end)
    assert nodes.processes("alice") == []
    assert nodes.left("alice") == []
    assert Path(home, "results", "digits", "wide", "README.md").exists()
