"""One HTML page per sweep, in one file that opens offline.

python -m hlvnn.analysis results/handwriting/SWEEP
"""

from __future__ import annotations

import json
import re
import sys
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import jinja2
import pandas as pd
from markupsafe import Markup, escape

from hlvnn import search_space
from hlvnn.analysis.figures.svg import paints
from hlvnn.analysis.loading import load_sweep
from hlvnn.analysis.report import attributes, findings, levels, panels, tables, verdict
from hlvnn.analysis.report.sections import Measured, sections
from hlvnn.analysis.results import Results
from hlvnn.columns import best_of
from hlvnn.files import replacing
from hlvnn.records.outcomes import Status
from hlvnn.records.sweep_folder import SPACE_COPY
from hlvnn.storage import shown_path, typed

REPORT = "report.html"
"""The page, in the sweep's folder."""
PAINTS = "/* the figures' colours */"
"""Where in the page's style they go."""
HERE = Path(__file__).parent
STYLES = ("page.css", "verdict.css")
WORDS = [
    ("trial", "one training run with one drawn configuration; a sweep is many"),
    ("group", "whose rows share latents: a writer, a character, a hospital"),
    ("latent", "a small vector of each group's own, learned beside the weights that all share"),
    ("pooled model", "a model without latents, which treats all groups alike"),
    ("validation, test", "rows to choose by, and rows that nothing was chosen by"),
    ("10th percentile", "a tenth of the groups do worse than this; the worst group is the last"),
    ("nats a row", "minus the log of the probability given to the truth; 0 is perfect"),
    ("KL", "how much the latents say of their groups beyond the prior; part of the loss"),
]
RUNG = "at a rung the worse trials are stopped, so that the others get the time"


def write_report(results: Results, path: Path | None = None, *, num_samples: int = 20) -> Path:
    """Write the report of a sweep; return its path (SWEEP/report.html unless `path` is given).

    num_samples: draws of z a prediction, for the calibration. What cannot be measured or drawn is
    told in the page.
    """
    target = path or results.path / REPORT
    html = page(results, num_samples=num_samples)
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return target


def of_ended_sweep(sweep: Path) -> Path:
    """Write the report of a sweep whose driver has just ended; return its path."""
    headless()
    return write_report(load_sweep(sweep, alive=False))


def page(results: Results, *, num_samples: int = 20) -> str:
    """Return the report of a sweep as HTML."""
    measured = Measured(results, num_samples)
    drawn = levels.among(measured, sections(measured))
    shown = panels.some(measured)
    problems = list(dict.fromkeys([*results.problems, *measured.faults]))
    record = results.record
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.filters["coded"] = coded
    about = (
        search_space.opening(results.path / SPACE_COPY).split("\n\n") if record is not None else []
    )
    html = environment.get_template("page.html").render(
        results=results,
        paints=Markup(PAINTS),
        css=Markup("".join((HERE / name).read_text(encoding="utf-8") for name in STYLES)),
        js=Markup((HERE / "page.js").read_text(encoding="utf-8")),
        description=record.description if record is not None else "",
        about=[paragraph for paragraph in about if paragraph],
        best=results.best_trial,
        chosen_on=findings.chosen_on(results),
        has_test=best_of(findings.test_column(results.metric)) in results.table,
        short=findings.in_short(results, measured.evidence),
        problems=problems,
        verdict=verdict.first_screen(measured, len(problems)),
        commands=commands(results),
        leaderboard=tables.leaderboard(results),
        groups=shown,
        one_group=one_group(results, shown),
        attributes=attributes.table(measured.by_attribute),
        sections=drawn,
        next_steps=findings.next_steps(results, measured.evidence),
        all_trials=tables.all_trials(results),
        failures=tables.failures(results),
        words=words(results),
        facts=tables.facts(results),
        in_python=in_python(results),
        written=f"{datetime.now():%Y-%m-%d %H:%M}",
        version=version("hlvnn"),
    )
    return html.replace(PAINTS, paints(html), 1)


def words(results: Results) -> list[tuple[str, str]]:
    """Return the words of a report with their meanings: those that its sweep has a use for."""
    scheduler = results.scheduler
    found, cutters = list(WORDS), ["the time budget", "an interrupt"]
    if scheduler is not None and scheduler.has_rungs:
        found.append((f"{scheduler.title}, rung", RUNG))
    elif scheduler is not None:
        found.append((scheduler.title, scheduler.sentence))
    if scheduler is not None and scheduler.stops:
        cutters.insert(0, scheduler.title)
    used = set(results.table["status"])
    told = ((str(one), one.facts.meaning) for one in Status if one in used)
    return found + [(one, said.format(cutters=", ".join(cutters))) for one, said in told]


def coded(sentence: str) -> Markup:
    """Return a sentence as HTML, what stands between backticks in it as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(sentence))))


def commands(results: Results) -> list[tuple[str, str]]:
    """Return what a command does, and the command, for the best trial."""
    best = results.best_trial
    if best is None:
        return []
    if pd.isna(results.row(best)["folder"]):
        return []  # it is gone: what there was to repeat is told among the problems
    path = results.path / str(results.row(best)["name"])
    again = f"python train_one.py --from-trial {typed(path)}"
    for name, place in results.places.items():
        again += "" if place is None else f" --{name.replace('_', '-')} {typed(place)}"
    return [
        ("Train it again, exactly:", again),
        ("The same with another seed:", f"{again} --seed 1"),
        ("Take its model, with the weights of its best epoch:", _loaded(path)),
    ]


def _loaded(path: Path) -> str:
    place = in_quotes(shown_path(path))
    return f'import hlvnn\nrun = hlvnn.load_run({place}, "best")  # run.model, run.data, run.groups'


def in_quotes(text: str) -> str:
    """Return text as Python has it, in double quotes."""
    return json.dumps(text, ensure_ascii=False)


def in_python(results: Results) -> str:
    """Return how to read the sweep in Python."""
    load = "load_sweep" if results.record is not None else "load_runs"
    places = [in_quotes(shown_path(results.path))]
    given = {name: place for name, place in results.places.items() if place is not None}
    places += [f"{name}={in_quotes(shown_path(place))}" for name, place in given.items()]
    return (
        "import hlvnn.analysis\n"
        f"sweep = hlvnn.analysis.{load}({', '.join(places)})\n"
        "sweep.trials, sweep.epochs, sweep.best(10), sweep.latents(), "
        "sweep.groups.read(trials=[sweep.best_trial], labels=True)"
    )


def one_group(results: Results, groups: panels.Groups | None) -> str:
    """Return how to see a group in Python that has no panel in the page."""
    if groups is None:
        return ""
    load = "load_sweep" if results.record is not None else "load_runs"
    return (
        "import hlvnn.analysis\n"
        f"sweep = hlvnn.analysis.{load}({in_quotes(shown_path(results.path))})\n"
        f"sweep.group({in_quotes(groups.others)}, level={in_quotes(groups.level)})  "
        '# .figure().savefig("group.png"), .rows, .confusion, .posterior'
    )


def headless() -> None:
    """Draw without a display, unless the process has chosen how to draw already."""
    if "matplotlib.pyplot" not in sys.modules:
        import matplotlib

        matplotlib.use("Agg")
