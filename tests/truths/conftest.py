"""What planted worlds share: one sweep."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from tests.truths.swept import Swept, run_sweep


@pytest.fixture(scope="session")
def swept_once(tmp_path_factory: pytest.TempPathFactory) -> Swept:
    return run_sweep(tmp_path_factory.mktemp("wards"))


@pytest.fixture
def swept(swept_once: Swept) -> Iterator[Swept]:
    """Return the sweep that has ended; the working folder is the one that it was started in."""
    with contextlib.chdir(swept_once.folder.parents[2]):
        yield swept_once
