"""The report in a real browser: it shows, opens, sorts, copies and prints what it says."""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from hlvnn.analysis import Results
from tests.analysis.conftest import BAD, FIGURES, LOG_PROB
from tests.sweeps import TRIALS

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}


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


def test_a_browser_shows_every_figure_in_the_colours_of_the_page(page: Page) -> None:
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    drawn = """[...document.querySelectorAll("svg.figure")].map(s => [
        s.getAttribute("aria-label").length > 20, s.getBoundingClientRect().width,
        Math.min(...[...s.querySelectorAll("text")].map(t => {
            const m = t.getScreenCTM();
            return parseFloat(getComputedStyle(t).fontSize) * Math.hypot(m.a, m.b); }))])"""
    figures = page.evaluate(drawn)
    assert len(figures) == len(FIGURES) + 1
    for has_alt, width, letters in figures:
        assert has_alt
        assert 320 < width <= PHONE["width"]
        assert letters >= 9, "pixels, on a phone"
    colours = """[getComputedStyle(document.querySelector("#curves text")).fill,
        getComputedStyle(document.querySelector("#curves path[style*=c0072b2]")).stroke,
        getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"""
    light = page.evaluate(colours)
    assert light == ["rgb(27, 27, 27)", "rgb(0, 114, 178)", "rgb(255, 255, 255)", light[0]]
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(colours)
    assert dark == ["rgb(232, 232, 232)", "rgb(88, 186, 241)", "rgb(26, 26, 26)", dark[0]]
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate(colours) == light  # paper is white


def test_the_numbers_behind_a_figure_are_those_it_draws(
    page: Page, planted_results: Results
) -> None:
    best = planted_results.best_trial
    page.locator("#curves .numbers summary").click()
    rows = page.locator("#curves .plain tbody tr").all_inner_texts()
    known = planted_results.epochs[["trial", "epoch", "val_loss"]]
    assert len(rows) == len(known)
    own = known[known["trial"] == best]
    cells = [[float(cell) for cell in row.split("\t") if cell] for row in rows]
    assert [one[:2] for one in cells[: len(own)]] == own[["trial", "epoch"]].to_numpy().tolist()
    told = [one[2] for one in cells[: len(own)]]
    assert told == pytest.approx(own["val_loss"].tolist(), rel=1e-5)
    path = page.locator("#curves path[style*=c0072b2][style*='width: 2.2']").first
    points = re.findall(r"[ML] [-\d.]+ ([-\d.]+)", path.get_attribute("d") or "")
    heights = np.array(points, float)
    assert len(heights) == len(told)
    slope, at = np.polyfit(told, heights, 1)
    np.testing.assert_allclose(heights, slope * np.array(told) + at, atol=0.03)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("#curves .copy").click()
    copied = page.evaluate("navigator.clipboard.readText()").splitlines()
    assert copied[0] == "trial\tepoch\tval_loss"
    assert len(copied) == 1 + len(known)
    counts = page.locator("#slices .plain tbody tr").count()
    assert counts == len(planted_results.placed)
    caption = page.locator("#calibration .plain caption").text_content() or ""
    assert caption == "Bins of rows; all are in sweep.calibration()"


def test_a_bad_group_opens_with_its_worst_row(page: Page, planted_results: Results) -> None:
    name = page.locator("#groups tbody a").first  # the weakest stand first
    assert name.inner_text() == str(BAD)
    panel = page.locator(f"#group-{BAD}")
    assert not panel.is_visible()
    name.click()
    panel.wait_for(state="visible")
    page.locator("details.panel[open] summary").first.click()
    assert not panel.is_visible()
    name.focus()
    page.keyboard.press("Enter")
    panel.wait_for(state="visible")
    assert page.evaluate("document.activeElement.id") == f"group-{BAD}"
    found = planted_results.group(BAD)
    y, prediction = int(found.worst["y"].iloc[0]), int(found.worst["prediction"].iloc[0])
    assert (found.worst["loss"].iloc[0], prediction) == (-LOG_PROB, (y + 1) % 10)
    said = f"{y} as {prediction}, {-LOG_PROB:.2f} nats"
    assert panel.locator(".worst li").first.inner_text().strip() == said
    assert panel.locator(".worst img").first.evaluate("i => i.complete && i.naturalWidth") == 8
    assert f"{len(found.rows)} test rows" in panel.locator("p").first.inner_text()
    shown = panel.locator(".plain").first.locator("tbody tr").all_inner_texts()
    counts = [list(map(int, row.split("\t")[1:])) for row in shown]
    assert counts == found.confusion.to_numpy().tolist()
    panel.locator(".numbers summary").click()
    posterior = panel.locator(".numbers .plain").nth(1).locator("tbody tr").all_inner_texts()
    means = [float(row.split("\t")[2]) for row in posterior]
    assert means == pytest.approx(found.posterior["mean"].tolist(), rel=1e-5)
    assert panel.locator("svg.sketch").count() == 2
    assert page.locator("details.panel").count() == 14
    assert (
        f'sweep.group("LABEL", level="{found.level}")' in page.locator("#one-by-one").inner_text()
    )


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


def test_the_verdict_fits_one_screen(page: Page) -> None:
    bottom = "document.getElementById('verdict').getBoundingClientRect().bottom"
    assert page.evaluate(bottom) <= DESK["height"]


def test_the_report_is_accessible_and_fits(page: Page) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    for viewport in (DESK, PHONE):
        page.set_viewport_size(viewport)  # type: ignore[arg-type]
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    page.evaluate(  # axe takes time for each piece; all rows, panels and figures are alike
        """document.querySelectorAll("tbody").forEach(
            body => [...body.rows].slice(2).forEach(row => row.remove()));
        [...document.querySelectorAll("details.panel")].slice(1).forEach(one => one.remove());
        [...document.querySelectorAll("svg.figure")].slice(2).forEach(one => one.replaceChildren());
        document.querySelectorAll("details").forEach(one => { one.open = true; })"""
    )
    passed: set[str] = set()
    for viewport, scheme in itertools.product((DESK, PHONE), ("light", "dark")):
        page.set_viewport_size(viewport)  # type: ignore[arg-type]
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        rules = {"runOnly": ["color-contrast"]} if passed else None  # all others see no colours
        found = axe.run(page, options=rules).response
        wrong = [(rule["id"], rule["nodes"][0]["html"][:200]) for rule in found["violations"]]
        assert wrong == [], (viewport, scheme)
        assert "color-contrast" in {rule["id"] for rule in found["passes"]}
        passed |= {rule["id"] for rule in found["passes"]}
    wanted = {"image-alt", "svg-img-alt", "summary-name", "link-name", "aria-roles"}
    assert wanted | {"scrollable-region-focusable"} <= passed
    page.evaluate("document.images[0].removeAttribute('alt')")  # the check can fail
    page.evaluate("document.querySelector('.figure').removeAttribute('aria-label')")
    found = axe.run(page, options={"runOnly": ["image-alt", "svg-img-alt"]}).response
    assert [rule["id"] for rule in found["violations"]] == ["image-alt", "svg-img-alt"]


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
    widest = """Math.max(...[...document.querySelectorAll("svg, table, img, pre")]
        .filter(one => !one.closest(".numbers")).map(one => one.getBoundingClientRect().right))"""
    assert page.evaluate(widest) <= 680
    assert page.pdf(format="A4")[:5] == b"%PDF-"
