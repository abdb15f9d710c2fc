"""Names with brackets, colons and signs, as users have them: shown as they are, everywhere."""

from __future__ import annotations

import ast
import html
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from hlvnn.analysis import load_sweep
from hlvnn.commands import tune_search, watch
from hlvnn.records import trials_table
from hlvnn.records.journal import Journal
from hlvnn.sweep import plan
from hlvnn.sweep.closing import conclude
from hlvnn.sweep.context import Context
from hlvnn.terminal import plain_console
from tests.rayless import run_sweep

AGE, WARD, UNIT, HEART = "age[/yr]", "[bold]ward", "unit [/]", ":heart:"
BOTH = f"{AGE} {HEART}"
SPACE = f'''"""Does {AGE} matter {HEART}?"""
BASE = {{"dataset": "table", "table": "a[b].csv", "target": "y", "num_epochs": 1, "hidden": [4]}}
METRIC, MODE = "val_loss", "min"

def space(trial):
    return {{
        "features": trial.suggest_categorical("features", [[{AGE!r}], [{AGE!r}, {HEART!r}]]),
        "groups": [{WARD!r}],
    }}
'''


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / 'my "work" [b]'
    folder.mkdir()
    frame = pd.DataFrame({AGE: range(60), HEART: [n % 7 for n in range(60)]})
    frame[WARD] = [f"{UNIT}{n % 5}" for n in range(60)]
    frame.assign(y=frame[AGE] * 0.1 + 0.5).to_csv(folder / "a[b].csv", index=False)
    return folder


def test_a_sweep_shows_them_from_the_dry_run_to_the_report(
    work: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    analysis: Callable[..., Any],
    train_one: Callable[..., Any],
) -> None:
    sweep = run_sweep(work, SPACE, 4, ["--num-trials", "4", "--description", f"of {AGE} {HEART}"])
    monkeypatch.chdir(work)
    assert tune_search.main(["study", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert BOTH in shown

    planned = plan.of(tune_search.parse(["--resume", str(sweep)]))
    for journal in [Journal.open(sweep)]:
        for trial in journal.study.trials:
            journal.study.tell(trial.number, 0.5)
    for make in (lambda file: Console(file=file, width=200), lambda file: plain_console(file, 200)):
        file = io.StringIO()
        context = Context.of(planned, 1, make(file))
        assert conclude(context, context.save_table(alive=False)) == 0
        assert AGE in file.getvalue()
        assert "no report" not in file.getvalue()
    assert BOTH in file.getvalue()
    report = html.unescape((sweep / "report.html").read_text(encoding="utf-8"))
    assert AGE in report
    for line in re.findall(r"(?:run|sweep) = hlvnn\.[^<\n]*", report):
        assert ast.parse(line)
    shutil.copytree(sweep, copy := work / 'a "copy"')
    analysis(copy)
    report = html.unescape((copy / "report.html").read_text(encoding="utf-8"))
    assert "hlvnn.analysis.load_sweep(" + json.dumps(copy.name) + ")" in report
    assert '--from-trial \'a "copy"/trial_000' in report
    assert (
        pd.read_parquet(sweep / trials_table.TRIALS)["features"]
        .str.contains(AGE, regex=False)
        .all()
    )

    file = io.StringIO()
    watch.watch(watch.WatchOptions(sweep=str(sweep), once=True), plain_console(file, 200))
    assert AGE in file.getvalue()
    found = analysis("find", "matter")
    assert found.code == 0
    assert f"of {AGE} {HEART}" in " ".join(found.out.split())
    assert analysis("prune", str(sweep), "--keep", 0).code == 0

    ended = train_one("--from-trial", sweep / "trial_0000", "--name", "a[b]")
    assert ended.code == 0, ended.err
    assert f"{UNIT}0" in ended.out
    assert len(load_sweep(sweep).trials) == 4


@pytest.mark.parametrize("flag", ["--targte", "--lr", "--model-size"])
def test_what_a_flag_was_given_is_shown_as_it_is(train_one: Callable[..., Any], flag: str) -> None:
    ended = train_one("--dataset", "digits", flag, AGE)
    assert ended.code == 2
    assert AGE in ended.err
    assert "Traceback" not in ended.err
