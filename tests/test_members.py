"""A family never asks for a member by name: others know its base, and what kinds there are."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from hlvnn import families
from hlvnn.likelihoods.base import Likelihood
from tests.helpers import ROOT

PACKAGE = ROOT / "hlvnn"
FILES = sorted(PACKAGE.rglob("*.py"))
FAMILIES = (
    "latents.posteriors",
    "latents.priors",
    "latents.placements",
    "likelihoods",
    "backbones",
    "data.sources",
)
MEMBERS = {f"hlvnn.{family}.{name}" for family in FAMILIES for name in families.members(family)}


def imported(code: str) -> set[str]:
    """Return the dotted names that code imports: modules, and what is taken from them."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_file_imports_a_member_of_a_family(file: Path) -> None:
    assert sorted(imported(file.read_text(encoding="utf-8")) & MEMBERS) == []


@pytest.mark.parametrize(
    "code",
    [
        "from hlvnn.latents.posteriors.joint import Joint",
        "from hlvnn.latents.posteriors import joint",
        "import hlvnn.backbones.mlp as mlp",
        "def f():\n    from hlvnn.likelihoods.gaussian import Gaussian",
    ],
)
def test_an_import_of_a_member_is_seen_in_every_form(code: str) -> None:
    assert imported(code) & MEMBERS


def test_members_that_are_alike_are_found_by_their_class() -> None:
    found = families.members_with("likelihoods", Likelihood, lambda one: one.counts_trials)
    assert found == ("binomial",)
