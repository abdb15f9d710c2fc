"""What the tests of analysis share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hlvnn.analysis import Results, load_sweep


@pytest.fixture(scope="module")
def swept(small_sweep: Path) -> Results:
    return load_sweep(small_sweep)


@pytest.fixture
def copy(small_sweep: Path, tmp_path: Path) -> Path:
    """Return a copy of the sweep, to be damaged."""
    return Path(shutil.copytree(small_sweep, tmp_path / "damaged"))
