"""Of every status, file's name and column there is one place: nowhere else is it spelt out.

What is one word (`epoch`, `acc`) is left out, and docstrings and longer messages are.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from hlvnn import columns
from hlvnn.config import flat_settings
from hlvnn.records.outcomes import Status
from tests.helpers import ROOT

PACKAGE = ROOT / "hlvnn"
FILES = sorted(PACKAGE.rglob("*.py"))
FILE_NAME = re.compile(r"\.?[\w-]+(\.[\w-]+)*\.(json|csv|parquet|pt|log|txt|html|journal|lock|npy)")
PAGE = {"page.html"}
"""A file of the package itself, beside the module that reads it."""
MADE = {
    columns.of_split(split, measure)
    for split in (columns.TRAIN, columns.VAL, columns.TEST)
    for measure in (
        *("loss", "nll", "acc", "f1", "mse"),
        *(columns.GROUP_MEAN, columns.GROUP_P10, columns.GROUP_P90, columns.GROUP_WORST),
    )
}
SPELT = {value for value in vars(columns).values() if isinstance(value, str) and "_" in value}
COLUMNS = (
    {name for name in SPELT | MADE if not name.startswith("__")}
    | {columns.best_of(name) for name in MADE}
    | {columns.final_of(name) for name in MADE}
) - set(flat_settings())
STATUSES = {str(status) for status in Status}
PLACES = {
    "status": ("records/outcomes.py", "columns.py"),  # a column is called "diverged", too
    "column": ("columns.py",),
}


def literals(text: str) -> Iterator[tuple[ast.Constant, bool]]:
    """Yield the strings of a module, docstrings left out, and whether each is a constant's value.

    Of an f-string its fixed parts are strings.
    """
    tree = ast.parse(text)
    told = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)
    }  # docstrings, also those of constants and fields
    constants = {
        id(part)
        for node in tree.body
        if isinstance(node, ast.Assign)
        for part in ast.walk(node.value)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in told:
            yield node, id(node) in constants


def spelt_out(text: str, place: str) -> list[str]:
    """Return what a module spells out that stands elsewhere: "line 3: column 'val_loss'"."""
    found = []
    for node, is_constant in literals(text):
        value = str(node.value)
        kind = "column" if value in COLUMNS else "status" if value in STATUSES else ""
        if kind and place not in PLACES[kind]:
            found.append(f"line {node.lineno}: {kind} {value!r}")
        if FILE_NAME.fullmatch(value) and not is_constant and value not in PAGE:
            found.append(f"line {node.lineno}: file {value!r}")
    return found


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(PACKAGE)) for path in FILES])
def test_no_status_column_or_file_is_spelt_out_outside_its_place(path: Path) -> None:
    found = spelt_out(path.read_text(encoding="utf-8"), str(path.relative_to(PACKAGE)))
    assert not found, f"{path}: take these from their one place: {'; '.join(found)}"


def test_each_files_name_is_one_constant() -> None:
    texts = [path.read_text(encoding="utf-8") for path in FILES]
    every = itertools.chain.from_iterable(literals(text) for text in texts)
    names = Counter(str(n.value) for n, _ in every if FILE_NAME.fullmatch(str(n.value)))
    twice = [name for name, count in names.items() if count > 1]
    assert not twice, f"spelt out more than once: {twice}"
    assert {"hyperparams.json", "trials.parquet", "outcome.json", "sweep.json"} <= set(names)


def test_what_is_spelt_out_is_seen() -> None:
    text = '''
"""completed is a word here."""
TABLE = "rows.csv"
"""rows.csv"""
def f(row):
    """val_loss"""
    open("other.json"); row["val_loss"]; row[f"best_{row}"]; row["status"] == "out of memory"
    return "a message on val_loss and other.json"
'''
    assert spelt_out(text, "somewhere.py") == [
        "line 7: file 'other.json'",
        "line 7: column 'val_loss'",
        "line 7: status 'out of memory'",
        "line 7: column 'best_'",
    ]
    assert spelt_out("x = 'completed'", "records/outcomes.py") == []
