"""The report of a sweep: what it says (a browser shows it in test_report_page.py)."""

from __future__ import annotations

import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from hlvnn.analysis import Results, load_runs, load_sweep
from hlvnn.analysis.report import coded, write_report
from hlvnn.analysis.report.numbers import ROWS, table
from hlvnn.analysis.report.tables import ends_of, fixed, groups_of_best
from hlvnn.commands.report import main
from hlvnn.errors import run_command
from hlvnn.records import outcomes, trials_table
from hlvnn.records.journal import JOURNAL
from hlvnn.sweep import closing
from tests.analysis.conftest import FIGURES
from tests.conftest import Ended
from tests.sweeps import FAILED, TRIALS

VOID = ("img", "meta", "link", "br")


class Pieces(HTMLParser):
    """Texts by the tag that they are in, and all links and sources."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts: dict[str, list[str]] = {}
        self.sources: list[str] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        for tag in set(self.open):
            self.texts[tag][-1] += data


def test_the_report_is_one_file_with_every_figure(report: Path) -> None:
    html = report.read_text(encoding="utf-8")
    pieces = Pieces(html)
    assert html.count('<svg class="figure"') == len(FIGURES) + 1  # and the use of the machine
    pictures = [source for source in pieces.sources if not source.startswith("#")]
    assert len(pictures) == 14 * 10  # the worst rows of each writer
    assert all(source.startswith("data:image/png;base64,") for source in pictures)
    without_pictures = re.sub(r"base64,[A-Za-z0-9+/=]+", "", html)
    assert "://" not in without_pictures  # nothing is fetched from anywhere
    assert "Not drawn" not in html
    assert "By number of training rows: " in html
    assert "What else groups are like is told by --group-table FILE." in html
    assert "not everything could be read" not in html
    for name in FIGURES:
        assert f'<figure id="{name}">' in html


def test_the_report_says_what_won_and_escapes_what_it_was_told(
    report: Path, planted_results: Results
) -> None:
    html = report.read_text(encoding="utf-8")
    assert "a &lt;small&gt; look" in html
    assert "and &lt;how wide&gt; should it be?" in html
    assert "<small>" not in html
    text = " ".join(Pieces(html).texts["li"])
    best = planted_results.row(planted_results.best_trial)
    assert f"Best is trial {planted_results.best_trial}, latents {best['structure']}" in text
    assert f"validation nats a row {best['best_val_loss']:.4g}" in text
    assert "Over the 14 groups the mean gain by latents in test accuracy is" in text
    assert "In test nats a row, which tell more of a few rows than accuracy does" in text
    assert "1 running" in " ".join(Pieces(html).texts["dd"])
    assert "Trials that were stopped early (1 of 5) count with what they had reached" in html
    assert "1 trial failed" in text
    code = "".join(Pieces(html).texts["code"])
    assert f"train_one.py --from-trial {planted_results.path / best['name']}" in code
    assert f"<code>{best['structure']}</code>" in html
    assert "on test rows its mean confidence is 0." in text
    steps = html.split('<section id="next"')[1].split("</section>")[0]
    command = f"python train_one.py --from-trial {planted_results.path / best['name']} --seed 1"
    assert f'difference:<pre tabindex="0"><code>{command}</code></pre>' in steps


def test_measurements_of_a_column_have_the_same_decimals() -> None:
    def shown(values: list[float], digits: int, sign: str = "") -> list[str]:
        return [cell.text for cell in fixed(pd.Series(values), digits, sign)]

    assert shown([0.07692, 0.2, math.nan], 3) == ["0.077", "0.200", ""]
    assert shown([0.5, 1.0], 3) == ["0.500", "1.000"]
    assert shown([0.1, -0.25, 0], 3, "+") == ["+0.100", "-0.250", "+0.000"]
    assert shown([1752.04, 3.6], 4) == ["1752", "4"]
    assert shown([math.nan, math.inf], 4) == ["", "inf"]
    assert shown([], 4) == []


def test_a_table_of_numbers_is_cut_and_says_where_all_are() -> None:
    frame = pd.DataFrame(
        {"trial": range(25_000), "loss": 1 / 3, "name": "x" * 99, "none": math.nan}
    )
    found = table(frame, "All", "the best first", "trials.parquet")
    assert len(found.rows) == ROWS
    assert found.rows[1] == ["1", "0.333333", "x" * 59 + "…", ""]
    assert found.caption == (
        f"All: the first {ROWS} of 25,000 rows, the best first; all are in trials.parquet"
    )
    wide = table(pd.DataFrame(0, range(500), [f"p{k}" for k in range(100)]), "", "", "")
    assert len(wide.rows) * len(wide.columns) <= 3000


def test_without_a_pooled_model_groups_are_shown_by_how_they_fare(swept: Results) -> None:
    best = swept.best_trial
    assert best is not None
    epoch = max(swept.groups.files_of(best))
    last = swept.groups.read(trials=[best], epochs=[epoch], split="val", labels=True)
    weakest = last.sort_values("acc", kind="stable")["gid"].tolist()
    gids = ends_of(last, "acc")
    assert gids[:10] == weakest[:10]
    assert set(gids) == set(last["gid"])
    found = groups_of_best(swept, last, gids, {weakest[0]: "here"})
    assert [title for title, _ in found.columns] == [
        *("writer", "validation rows", "accuracy", "nats a row")
    ]
    assert (found.rows[0][0].text, found.rows[0][0].link) == (str(weakest[0]), "here")
    assert [row[2].sort for row in found.rows] == sorted(last["acc"])
    assert f"in the last epoch of trial {best}, on validation rows" in found.caption


def test_words_between_backticks_are_code() -> None:
    assert coded("a <b> and `x<y`, `z`") == ("a &lt;b&gt; and <code>x&lt;y</code>, <code>z</code>")


def test_failed_trials_are_told_with_their_tracebacks(report: Path) -> None:
    pieces = Pieces(report.read_text(encoding="utf-8"))
    (summary,) = [text for text in pieces.texts["summary"] if "failed" in text]
    assert summary.startswith(f"Trial {FAILED} failed: --likelihood gaussian needs a real target")
    (trace,) = [text for text in pieces.texts["pre"] if "ConfigError" in text]
    assert trace.strip().splitlines()[-1].startswith("hlvnn.errors.ConfigError")
    assert any("diverged: the loss was not finite" in text for text in pieces.texts["summary"])


def command(*args: object) -> Ended:
    with pytest.raises(SystemExit) as ended:
        run_command(lambda: main([str(arg) for arg in args]))
    return Ended(int(str(ended.value.code)), "", "")


def test_the_command_writes_beside_the_sweep_and_refuses_clearly(
    small_sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(small_sweep, tmp_path / "copy"))
    assert command(copy, "--num-samples", "2").code == 0
    printed = capsys.readouterr().out
    assert f"{TRIALS} trials: 4 completed, 2 stopped, 2 not started" in printed
    assert f"report: {copy / 'report.html'}" in printed
    assert (copy / "report.html").stat().st_size > 100_000
    for wrong, words in (
        (tmp_path / "nowhere", "nowhere: no such folder; give that of a sweep"),
        (tmp_path, "no run is in it"),
        (copy / "trial_0001", "no run is in it"),
    ):
        assert command(wrong).code == 2
        message = capsys.readouterr().err
        assert words in message
        assert "Traceback" not in message


def test_a_sweep_that_has_nothing_yet_has_a_report(small_sweep: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(small_sweep, tmp_path / "copy"))
    for folder in copy.glob("trial_*"):
        shutil.rmtree(folder)
    for name in (trials_table.TRIALS, JOURNAL):
        (copy / name).unlink()
    html = write_report(load_sweep(copy)).read_text(encoding="utf-8")
    assert "No trial has a result" in html
    assert html.count("Not drawn") == len(FIGURES)  # attributes are left out
    assert html.count("status-not-started") >= TRIALS
    assert "could not be drawn" not in html  # every reason is a known one


def test_a_damaged_sweep_has_a_report_that_says_so(small_sweep: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(small_sweep, tmp_path / "copy"))
    (copy / "trial_0003" / outcomes.OUTCOME).write_text("{", encoding="utf-8")
    (copy / JOURNAL).write_bytes(b"\x00 no journal\n")
    for path in copy.glob("trial_*/*.pt"):
        path.write_bytes(b"cut short")
    html = write_report(load_sweep(copy)).read_text(encoding="utf-8")
    assert "not everything could be read" in html
    assert "trial_0003/outcome.json: not readable as JSON" in html
    assert "optuna.journal cannot be read" in html
    assert "could not be drawn" not in html
    assert 'id="curves"' in html


def test_runs_of_train_one_have_a_report(small_sweep: Path, tmp_path: Path) -> None:
    for number in (0, 1):
        shutil.copytree(small_sweep / f"trial_{number:04d}", tmp_path / f"run_{number}")
    html = write_report(load_runs(tmp_path), num_samples=2).read_text(encoding="utf-8")
    assert "load_runs(" in html
    assert 'id="gain"' in html


def test_a_report_that_cannot_be_written_does_not_fail_the_sweep(
    small_sweep: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(small_sweep, tmp_path / "copy"))
    (copy / "report.html").mkdir()
    line = closing.write_report(copy)
    assert line.startswith("no report: IsADirectoryError")
    assert f"python -m hlvnn.analysis {copy}" in line
    assert list(copy.glob(".report*")) == []  # nothing half-written
