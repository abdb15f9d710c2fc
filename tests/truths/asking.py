"""How planted worlds are asked: commands run in this process, what they print, and their pages."""

from __future__ import annotations

import contextlib
import html
import io
import logging
import re
from collections.abc import Callable
from pathlib import Path

from hlvnn.analysis import load_runs
from hlvnn.analysis.report import REPORT
from hlvnn.analysis.results import Results
from hlvnn.commands import analysis, train_one

EXACT = ("--batch-size", "None", "--lr", "0.05", "--num-epochs", "400", "--eval-every", "400")
"""Flags of a fit of a linear model, to its end."""
COUNTED = re.compile(r"(\d+) groups? gains? and (\d+) loses? beyond their own error")
"""What a report says of how many groups gain."""


def table(
    path: str, target: str, groups: str, features: str, *flags: object, name: str = "run"
) -> tuple[str, ...]:
    """Return the flags of a run on a table; groups and features are parted by commas."""
    data = ("--dataset", "table", "--table", path, "--target", target)
    columns = ("--groups", *groups.split(","), "--features", *features.split(","))
    return (*data, *columns, "--device", "cpu", "--name", name, *map(str, flags))


def trained(*flags: object) -> str:
    """Run `train_one.py`, which must end well; return what it printed."""
    return _printed(train_one.main, *flags)


def analysed(*arguments: object) -> str:
    """Run `python -m hlvnn.analysis`, which must end well; return what it printed."""
    return _printed(analysis.main, *arguments)


def reported(folder: Path | str) -> str:
    """Write the report of a sweep, or of single runs, by its command; return the page's words."""
    assert str(REPORT) in analysed(folder, "--num-samples", 4)
    return words_of(Path(folder) / REPORT)


def words_of(page: Path) -> str:
    """Return what a reader sees of a report, without figures."""
    text = re.sub(r"<(script|style).*?</\1>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", text)))


def first_screen(page: str) -> str:
    """Return the words of a page up to what repeats the best trial."""
    return page.split("Repeat the best trial")[0]


def runs(folder: str) -> Results:
    """Return a folder of single runs, in which nothing may be damaged."""
    results = load_runs(folder)
    assert results.problems == []
    return results


def _printed(main: Callable[[list[str]], int], *words: object) -> str:
    logger, text = logging.getLogger("hlvnn"), io.StringIO()
    before = list(logger.handlers), logger.level
    with contextlib.redirect_stdout(text):
        code = main([str(word) for word in words])
    logger.handlers[:], logger.level = before
    assert code == 0
    return text.getvalue()
