"""What every test shares: one thread, a quiet Ray, and the folder of shared data."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

# Before torch, ray or matplotlib are imported. Ray's worker processes inherit these.
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("MPLBACKEND", "Agg")

import torch

from hlvnn.commands import train_one as train_one_command
from hlvnn.config import DataConfig
from hlvnn.data import GroupedDataset, load_data
from hlvnn.errors import run_command
from tests.helpers import ROOT, readme_block, write_folder
from tests.runs import Finished, configured
from tests.spaces import SPACE, write_space
from tests.sweeps import make_sweep

torch.set_num_threads(1)  # models here are tiny: more threads only wait for each other


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder `shared` (real data) beside or inside the repository, or skip."""
    places = (ROOT.parent / "shared", ROOT / "shared")
    for place in places:
        if (place / "data").is_dir():
            return place
    pytest.skip(f"no shared data: looked for {' and '.join(f'{place}/data' for place in places)}")


@pytest.fixture(scope="session")
def readme_example(shared: Path) -> dict[str, Any]:
    """Return the names that the README's first Python example leaves, executed as it stands."""
    names: dict[str, Any] = {}
    with contextlib.chdir(shared / "data" / "grouped"):
        exec(readme_block("sleepstudy.csv.gz"), names)
    return names


@pytest.fixture(scope="session")
def digits() -> GroupedDataset:
    """Return real handwriting: 1,797 digits of 14 writers, split for training, val and test."""
    return load_data(DataConfig(dataset="digits"))


@pytest.fixture(scope="session")
def small_sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a real sweep of digits, one trial of each fate (see tests/sweeps.py)."""
    root = tmp_path_factory.mktemp("swept")
    with contextlib.chdir(root):
        return make_sweep(root)


@pytest.fixture
def here(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty working folder; its search space `study` is the SPACE of the test's file."""
    monkeypatch.chdir(tmp_path)
    write_space(getattr(request.module, "SPACE", SPACE))
    return tmp_path


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of data `tiny`: images of two levels of groups, as users' arrays are."""
    return write_folder(tmp_path_factory.mktemp("data"), levels=2)


@pytest.fixture(scope="session")
def whole(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Return a finished run on `image_folder`, with its folder as it was after each epoch."""
    return Finished(configured(image_folder), tmp_path_factory.mktemp("whole"))


@pytest.fixture
def local_ray() -> None:
    """Have a Ray in this process, one for all tests that ask for it; its GPU is only a number."""
    import ray

    if not ray.is_initialized():
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        words = {"include_dashboard": False, "log_to_driver": False}
        ray.init(address="local", num_cpus=2, num_gpus=1, **words)


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Stop that Ray behind the last test that asked for it: others must not find it."""
    if _asks_for(item, "local_ray") and not (nextitem and _asks_for(nextitem, "local_ray")):
        import ray

        ray.shutdown()


class Ended(NamedTuple):
    """How a command line ended: its exit status, and what it wrote."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def own_handlers() -> Iterator[None]:
    """Take back the handlers that a command adds to the logger: they hold the test's own stdout."""
    logger = logging.getLogger("hlvnn")
    before = list(logger.handlers), logger.level
    yield
    logger.handlers[:], logger.level = before


@pytest.fixture
def train_one(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Return `train_one.py` as a function of its flags, run in this process."""
    logger = logging.getLogger("hlvnn")
    before = list(logger.handlers)

    def run(*args: object) -> Ended:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run_command(lambda: train_one_command.main([str(arg) for arg in args]))
        logger.handlers[:] = before
        code = ended.value.code
        return Ended(code if isinstance(code, int) else 1, *capsys.readouterr())

    return run


@pytest.fixture
def analysis(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Return `python -m hlvnn.analysis` as a function of its arguments, run in this process."""
    from hlvnn.commands.analysis import main

    def run(*args: object) -> Ended:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run_command(lambda: main([str(arg) for arg in args]))
        logging.getLogger("hlvnn").handlers.clear()
        code = ended.value.code
        return Ended(code if isinstance(code, int) else 1, *capsys.readouterr())

    return run


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in a hook of the same name
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the gpu tests where there is no CUDA device; share the tests out to processes.

    Tests that start Ray go to one process, first, as each uses the cores by itself; those of a
    file go to one, as they share fixtures; and so do those of several files that say so.
    """
    skip = pytest.mark.skip(reason="no CUDA device")
    for item in items:
        if not torch.cuda.is_available() and item.get_closest_marker("gpu"):
            item.add_marker(skip)
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(
                pytest.mark.xdist_group("ray" if _uses_ray(item) else item.nodeid.split("::")[0])
            )
    items.sort(key=lambda item: (not _asks_for(item, "local_ray"), not _uses_ray(item)))


def pytest_collection_finish() -> None:
    """Spare the garbage collector what tests and imports have made: it stays to the end."""
    gc.collect()
    gc.freeze()


def _uses_ray(item: pytest.Item) -> bool:
    return item.get_closest_marker("ray") is not None or _asks_for(item, "small_sweep")


def _asks_for(item: pytest.Item, fixture: str) -> bool:
    return fixture in getattr(item, "fixturenames", ())
