"""Where a run came from: the commit of the code that ran, and the trial that it repeats."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from hlvnn.config import NOT_REPEATED, RunConfig, flatten
from hlvnn.files import read_json, write_json
from hlvnn.words import text

CODE = "code"
"""Key of hyperparams.json: the commit of the code, and whether it was dirty; absent where the code
was in no git work tree."""
ORIGIN = "origin"
"""Key of hyperparams.json: "from trial X, changed: …", of a run repeated by --from-trial."""
SENT = "sent.json"
"""Beside the code that a cluster's workers are sent: its state where it came from."""
SECONDS = 10.0
"""How long git is waited for."""
PACKAGE = Path(__file__).resolve().parent.parent


@lru_cache(maxsize=1)
def code_state(package: Path = PACKAGE) -> dict[str, Any] | None:
    """Return the commit of the package's code, and whether its files differ from it.

    dirty: files of the package were changed, added or removed since the commit. Code that was sent
    to a node is what it was there, at that time. None where the code is no part of a git work tree
    (it is installed), or git is not there.
    """
    if (package / SENT).exists():
        known: dict[str, Any] = read_json(package / SENT)
        return known
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None  # a work tree around an installed package is that of something else
    commit = _git(package, "rev-parse", "HEAD")
    changed = _git(package, "status", "--porcelain", "--", ".")
    if not commit or changed is None:
        return None
    return {"commit": commit, "dirty": bool(changed)}


def write_sent(package: Path, copy: Path) -> None:
    """Write the state of a package's code into a copy of it that goes elsewhere, if it is known."""
    if known := code_state(package):
        write_json(copy / SENT, known)


def _git(folder: Path, *words: str) -> str | None:
    """Return what git says of a folder; None where it says no, or is not there."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    own["GIT_OPTIONAL_LOCKS"] = "0"  # looking writes nothing
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words],
            capture_output=True,
            text=True,
            env=own,
            timeout=SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def code_told(record: Mapping[str, Any]) -> str | None:
    """Return what a run's record says of its code, in words; None where it says nothing.

    >>> code_told({"code": {"commit": "9043608aa", "dirty": True}})
    '9043608aa with changes'
    """
    known = record.get(CODE)
    if not isinstance(known, dict) or not known.get("commit"):
        return None
    return str(known["commit"]) + (" with changes" if known.get("dirty") else "")


def repetition(place: str, was: RunConfig, now: RunConfig) -> str:
    """Return where a repeated run came from: "from trial X, changed: lr=0.1 (was 0.001)".

    What is shown, where it goes and how it is described are no changes.
    """
    before, after = flatten(was), flatten(now)
    left_out = {*NOT_REPEATED, "description"}
    changed = [
        f"{name}={text(value)} (was {text(before[name])})"
        for name, value in after.items()
        if name not in left_out and before[name] != value
    ]
    return f"from trial {place}, changed: {', '.join(changed) or 'nothing'}"
