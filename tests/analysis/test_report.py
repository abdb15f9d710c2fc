"""The report of a sweep: what it says, and that a real browser shows, sorts and prints it."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from hlvnn.analysis import load_runs, load_sweep
from hlvnn.analysis.report import coded, write_report
from hlvnn.analysis.report.tables import fixed
from hlvnn.commands.report import main
from hlvnn.errors import run_command
from hlvnn.records import outcomes, trials_table
from hlvnn.records.journal import JOURNAL
from hlvnn.records.sweep_folder import locking
from hlvnn.sweep import closing
from tests.conftest import Ended
from tests.sweeps import FAILED, TRIALS

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

FIGURES = (
    *("curves", "importances", "parallel", "spread", "gain", "attributes", "shrinkage", "kl"),
    "calibration",
)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1100, "height": 900}


@pytest.fixture(scope="module")
def report(small_sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the report of the small sweep, written while a driver holds it."""
    with locking(small_sweep):
        results = load_sweep(small_sweep)
    return write_report(results, tmp_path_factory.mktemp("report") / "a.html", num_samples=4)


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
        if tag not in ("img", "meta", "link", "br"):
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
    pictures = [source for source in pieces.sources if not source.startswith("#")]
    assert len(pictures) == len(FIGURES) + 1  # and the use of the machine
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
    report: Path, small_sweep: Path
) -> None:
    html = report.read_text(encoding="utf-8")
    assert "a &lt;small&gt; look" in html
    assert "and &lt;how wide&gt; should it be?" in html
    assert "<small>" not in html
    text = " ".join(Pieces(html).texts["li"])
    with locking(small_sweep):
        results = load_sweep(small_sweep)
    best = results.row(results.best_trial)
    assert f"Best is trial {results.best_trial}, latents {best['structure']}" in text
    assert f"validation nats a row {best['best_val_loss']:.4g}" in text
    assert "Over the 14 groups the mean gain by latents in test accuracy is" in text
    assert "In test nats a row, which tell more of a few rows than accuracy does" in text
    assert "1 running" in " ".join(Pieces(html).texts["dd"])
    assert "Trials that were stopped early (1 of 5) count with what they had reached" in html
    assert "1 trial failed" in text
    code = "".join(Pieces(html).texts["code"])
    assert f"train_one.py --from-trial {small_sweep / best['name']}" in code
    assert f"<code>{best['structure']}</code>" in html
    assert "on test rows its mean confidence is 0." in text
    steps = html.split('<section id="next"')[1].split("</section>")[0]
    command = f"python train_one.py --from-trial {small_sweep / best['name']} --seed 1"
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


# ------------------------------------------------------------------------------ in a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start an installed Chromium without a window, or skip."""
    playwright = pytest.importorskip("playwright.sync_api")
    found = next((path for path in map(shutil.which, BROWSERS) if path), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser: Browser, report: Path) -> Iterator[Page]:
    """Open the report, without a network; fail on anything that the browser complains about."""
    context = browser.new_context(viewport=DESK, offline=True)
    opened = context.new_page()
    complaints: list[str] = []
    asked_for: list[str] = []
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", lambda request: asked_for.append(request.url[:60]))
    opened.goto(report.as_uri())
    yield opened
    assert complaints == []
    assert [url for url in asked_for if not url.startswith(("file:", "data:"))] == []
    context.close()


def column(page: Page, table: str, title: str) -> list[str]:
    """Return a column of a table as it stands, top to bottom."""
    heads = page.locator(f"#{table} thead th").all_inner_texts()
    place = next(i for i, head in enumerate(heads) if head.strip() == title)
    return page.locator(f"#{table} tbody tr td:nth-child({place + 1})").all_inner_texts()


def test_a_browser_shows_every_picture(page: Page) -> None:
    shown = page.evaluate(
        "[...document.images].map(i => [i.complete && i.naturalWidth > 400, i.alt.length > 20])"
    )
    assert shown == [[True, True]] * (len(FIGURES) + 1)
    assert page.locator("#trials tbody tr").count() == TRIALS
    statuses = column(page, "trials", "status")
    assert set(statuses) == {
        *("completed", "stopped", "diverged", "failed", "running", "not started")
    }


def test_tables_sort_by_a_click_and_by_the_keyboard(page: Page) -> None:
    title = "validation nats a row"
    head = page.locator("#trials th", has_text=title)
    assert head.get_attribute("aria-sort") == "none"
    head.locator("button").click()
    up = column(page, "trials", title)
    known = [float(text) for text in up if text]
    assert known == sorted(known)
    assert len(known) == 6
    assert up[6:] == [""] * 4  # what is missing stays last
    assert head.get_attribute("aria-sort") == "ascending"
    head.locator("button").focus()
    page.keyboard.press("Enter")
    down = column(page, "trials", title)
    assert [float(text) for text in down if text] == known[::-1]
    assert down[6:] == [""] * 4
    assert head.get_attribute("aria-sort") == "descending"
    assert page.locator("#sorted").inner_text() == f"sorted by {title}, largest first"
    page.locator("#trials th", has_text="status").locator("button").click()
    statuses = column(page, "trials", "status")
    assert statuses == sorted(statuses)
    assert head.get_attribute("aria-sort") == "none"
    page.locator("#trials th", has_text="trial").first.locator("button").click()
    assert column(page, "trials", "trial") == [str(number) for number in range(TRIALS)]


@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
def test_the_report_is_accessible_and_fits(page: Page, viewport: dict[str, int]) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page.set_viewport_size(viewport)  # type: ignore[arg-type]
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    found = axe.run(page).response
    assert [(rule["id"], rule["nodes"][0]["html"][:200]) for rule in found["violations"]] == []
    passed = {rule["id"] for rule in found["passes"]}
    assert {"color-contrast", "image-alt", "scrollable-region-focusable", "aria-roles"} <= passed
    page.evaluate("document.images[0].removeAttribute('alt')")  # the check can fail
    assert [rule["id"] for rule in axe.run(page).response["violations"]] == ["image-alt"]


def test_on_paper_nothing_is_cut_off(page: Page) -> None:
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 680, "height": 1000})  # A4 within its margins
    for table in ("leaderboard", "trials"):
        box = page.evaluate(
            f"(t => [getComputedStyle(t.parentElement).overflowX, t.offsetWidth,"
            f" document.body.offsetWidth])(document.getElementById('{table}'))"
        )
        assert box[0] == "visible"
        assert box[1] <= box[2] + 1
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("[...document.querySelectorAll('details')].every(d => d.open)")
    assert page.pdf(format="A4")[:5] == b"%PDF-"
