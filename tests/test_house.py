"""The order of the house: what may import what, where things stand, what the README promises."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import hlvnn
from hlvnn import families
from tests.helpers import ROOT

FILES = sorted((ROOT / "hlvnn").rglob("*.py"))
MAX_LINES = 400

# family -> its base class, which hlvnn/<family>/base.py defines
BASES = {
    "latents.posteriors": "Posterior",
    "latents.priors": "Prior",
    "latents.placements": "Placement",
    "backbones": "Backbone",
    "likelihoods": "Likelihood",
}
NAMED_OTHERWISE = {"none": "NoPrior"}  # None is Python's
MEMBERS = [(family, name) for family in BASES for name in families.members(family)]


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_imports_keep_the_order_of_the_house() -> None:
    run = python("from importlinter.cli import lint_imports; raise SystemExit(lint_imports())")
    assert run.returncode == 0, run.stdout + run.stderr


HEAVY = ("ray", "optuna", "matplotlib")
NOT_AT_START = ("scipy", "sklearn", "IPython", "tensorboardX", "torch._dynamo")
"""Libraries that a run of digits does not need, with what their import takes: up to seconds."""
RUN = ("--dataset", "digits", "--fast", "--latent-config", "factor", "--clip-grad", "1")


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> list[set[str]]:
    """Return those of these libraries that came with each step of one process.

    Steps: importing hlvnn, reading a search space, training as `train_one.py` does.
    """
    flags = [*RUN, "--results-dir", str(tmp_path_factory.mktemp("imported"))]
    run = python(
        "import sys, hlvnn\n"
        "def tell():\n"
        f"    print('imported:', *({{*{(*HEAVY, *NOT_AT_START)}}} & sys.modules.keys()))\n"
        "tell()\n"
        "from hlvnn import search_space\n"
        "search_space.load('digits')\n"
        "tell()\n"
        f"from hlvnn.commands.train_one import main\nmain({flags})\n"
        "tell()\n"
    )
    assert run.returncode == 0, run.stderr
    told = [line.split() for line in run.stdout.splitlines() if line.startswith("imported:")]
    return [set(names) for _, *names in told]


@pytest.mark.parametrize("library", HEAVY)
def test_importing_hlvnn_leaves_heavy_libraries_alone(
    library: str, imported: list[set[str]]
) -> None:
    assert library not in imported[0]


def test_reading_a_space_imports_neither_ray_nor_optuna(imported: list[set[str]]) -> None:
    assert not imported[1] & {"ray", "optuna"}


def test_a_single_run_imports_no_library_that_it_does_not_need(imported: list[set[str]]) -> None:
    """Nor torch's compiler, whose import takes seconds in every worker of a sweep."""
    assert imported[2] == set()


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_file_is_too_long(file: Path) -> None:
    lines = len(file.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES, f"{file.name} has {lines} lines, at most {MAX_LINES} are allowed"


def test_every_console_shows_names_as_they_are() -> None:
    """Rich reads [brackets] as markup unless it is told not to, once for all."""
    made = [str(file.relative_to(ROOT)) for file in FILES if "Console(" in file.read_text()]
    assert made == ["hlvnn/terminal.py"]


@pytest.mark.parametrize(("family", "name"), MEMBERS)
def test_a_members_file_holds_the_class_of_its_name(family: str, name: str) -> None:
    base = getattr(importlib.import_module(f"hlvnn.{family}.base"), BASES[family])
    found = families.member_class(family, name, base, family)
    assert found.__name__.lower() == NAMED_OTHERWISE.get(name, name).replace("_", "").lower()


@pytest.mark.parametrize("name", families.members("data.sources"))
def test_a_data_source_has_a_load_function(name: str) -> None:
    assert callable(families.member_module("data.sources", name, "data set").load)


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="one process has all tests")
def test_tests_that_share_fixtures_go_to_one_process(request: pytest.FixtureRequest) -> None:
    assert request.node.nodeid.endswith("@tests/test_house.py")


def test_the_readme_names_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make sweep" in text
    assert "make test" in text


def test_the_readme_names_every_public_name() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in hlvnn.__all__ if name not in text] == []
