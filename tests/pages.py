"""Pages of docs/ whose blocks are run, one after the other, in a folder of their own.

    python -m tests.pages docs/three_trials.md FOLDER

prints each block with what it wrote, to be shortened and put on the page, and puts this run's
numbers into the lines that are there. A block `python` is a
cell: its last expression is shown, and a block `text` behind it holds what it writes; one that
begins with `# search_spaces/…` is a file. A block `console` holds commands, behind `$`, with what
they write. A page shows some of the lines, in their order; `…` stands for others, or
for the rest of a line.
"""

from __future__ import annotations

import ast
import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from tests.helpers import ROOT

BLOCK = re.compile(r"^```(python|console|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (\S+\.py)\n")
NUMBER = re.compile(r"(?<![\w.])[-−+±]?\d[\d.,]*(e[-+]?\d+)?")
SHOWN = {"display.width": 100, "display.max_columns": 20, "display.max_colwidth": 30}


@dataclass
class Block:
    """A block of a page: what it runs, the lines that the page shows, and those that it wrote."""

    kind: str
    code: str
    shown: list[str]
    wrote: str = ""

    @property
    def matched(self) -> list[tuple[str, str | None]]:
        """Each shown line with the one that it wrote, whatever the numbers, in this order."""
        wrote = iter(self.wrote.splitlines())
        found: list[tuple[str, str | None]] = []
        for line in self.shown:
            if plain(line) in ("", "…"):
                found.append((line, line))
                continue
            is_cut = line.endswith("…")
            wanted = plain(line.removesuffix("…"))
            for one in wrote:
                if plain(one) == wanted or (is_cut and plain(one).startswith(wanted)):
                    found.append((line, line if is_cut else one.rstrip()))
                    break
            else:
                found.append((line, None))
        return found

    @property
    def missing(self) -> list[str]:
        """The shown lines that it did not write."""
        return [line for line, wrote in self.matched if wrote is None]


def plain(line: str) -> str:
    """Return a line without its numbers, frames and spaces."""
    return " ".join(NUMBER.sub("#", re.sub("[─━│┃╭╮╰╯┏┓┡┩╇┳┴└┘┌┐├┤┬┼╞╡╪]", " ", line)).split())


def blocks_of(page: Path) -> list[Block]:
    """Return a page's blocks, in order."""
    found: list[Block] = []
    for kind, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        if kind == "python":
            found.append(Block(kind, text, []))
        elif kind == "text":
            found[-1].shown = text.splitlines()
        else:
            for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
                command, _, shown = part.replace("\\\n", " ").partition("\n")
                found.append(Block(kind, command, shown.splitlines()))
    return found


def run(page: Path, folder: Path) -> Iterator[Block]:
    """Run a page's blocks in a folder; yield each with what it wrote. Raises where one fails."""
    names: dict[str, Any] = {"__name__": "__page__"}
    with contextlib.chdir(folder), pd.option_context(*(x for o in SHOWN.items() for x in o)):
        for block in blocks_of(page):
            if block.kind == "console":
                is_to_fail = any(line.startswith("error: ") for line in block.shown)
                block.wrote = command(block.code, is_to_fail)
            elif file := FILE.match(block.code):
                Path(file[1]).parent.mkdir(parents=True, exist_ok=True)
                Path(file[1]).write_text(block.code.split("\n", 1)[1], encoding="utf-8")
            else:
                block.wrote = cell(block.code, names)
            yield block


def command(line: str, is_to_fail: bool) -> str:
    """Run a command line; return what it wrote to the terminal. `RuntimeError` if it fails."""
    words = shlex.split(line)
    if words[0] == "python":
        words[0] = sys.executable
        if words[1].endswith(".py"):
            words[1] = str(ROOT / words[1])
    done = subprocess.run(
        words,
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "100", "PYTHONBREAKPOINT": "0"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if bool(done.returncode) != is_to_fail:
        raise RuntimeError(f"{line}\nended with {done.returncode}:\n{done.stdout}")
    return done.stdout.replace(f"{ROOT}/", "")


def cell(code: str, names: dict[str, Any]) -> str:
    """Run a cell as a notebook does; return what it printed, and its last expression's value."""
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(tree, "cell", "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
            if value is not None:
                print(value)
    return printed.getvalue()


def main(page: Path, folder: Path) -> None:
    """Run a page, print what it wrote, and bring the numbers of its lines up to date."""
    text = page.read_text(encoding="utf-8")
    for done in run(page, folder):
        print(f"===== {done.code.strip()}\n{done.wrote}", flush=True)
        for line in done.missing:
            print(f"MISSING: {line}", flush=True)
        if done.shown:
            now = "\n".join(wrote or line for line, wrote in done.matched)
            text = text.replace("\n".join(done.shown), now, 1)
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]))
