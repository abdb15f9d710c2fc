"""The figures of a report, each with a sentence that says what to look at."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import pandas as pd
from matplotlib.figure import Figure

from hlvnn.analysis import figures
from hlvnn.analysis.figures.parameters import MOST
from hlvnn.analysis.figures.style import said
from hlvnn.analysis.figures.svg import svg
from hlvnn.analysis.gains import alike, gains
from hlvnn.analysis.report import attributes, numbers
from hlvnn.analysis.report.attributes import SECTION, of_sweep
from hlvnn.analysis.report.compared import Compared
from hlvnn.analysis.report.findings import Evidence
from hlvnn.analysis.report.numbers import Numbers
from hlvnn.analysis.report.tables import Table
from hlvnn.analysis.results import Results
from hlvnn.columns import BEST_EPOCH, VAL
from hlvnn.errors import DamagedCheckpointError, DataChangedError, HlvnnError, RunError
from hlvnn.records.outcomes import Status
from hlvnn.words import text

logger = logging.getLogger("hlvnn")

T = TypeVar("T")


@dataclass(frozen=True)
class Section:
    """One figure of a report; without an image, `missing` says why."""

    id: str
    title: str
    look: str
    """What to look at."""
    alt: str
    """What the image shows, for those who cannot see it."""
    image: str = ""
    """An `svg` element."""
    missing: str = ""
    numbers: tuple[Numbers, ...] = ()
    """What the figure shows, as tables."""
    table: Table | None = None
    """What is shown below it."""


class Measured:
    """What figures and sentences need of a sweep, measured once. What cannot be is None."""

    def __init__(self, results: Results, num_samples: int) -> None:
        self.results, self.num_samples = results, num_samples
        self.faults: list[str] = []
        self.why: dict[str, str] = {}
        best = results.best_trial
        groups = results.groups
        self.gains = self._try("gain", lambda: gains(results))
        self.alike = self._try("alike", lambda: alike(results)) or []
        self.by_attribute = self._try(SECTION, lambda: of_sweep(results, self.gains)) or []
        self.gains_in_nats = None
        if self.gains is not None and {"acc", "loss"} <= set(groups.measures):
            self.gains_in_nats = self._try("nats", lambda: gains(results, measure="loss"))
        self.other_gains = {}
        latent = results.latent_trial
        for other in [] if latent is None else results.baselines(latent)[1:]:
            frame = self._try("other gain", partial(gains, results, pooled=other))
            if frame is not None and len(frame) > 1:
                self.other_gains[results.called(other)] = frame
        self.shares = self._try("shares", lambda: figures.shares(results.study))
        self.spread = self._try("spread", lambda: groups.spread(trials=self._one(best)))
        self.last = self._try("last", lambda: self._last_groups(self._one(best)[0]))
        self.latents = self._try("latents", lambda: results.latents(self._latent_trial()))
        self.calibration = self._try(
            "calibration", lambda: results.calibration(num_samples=num_samples)
        )
        self.compared = Compared.of(results, self._try)
        for frame in (self.latents, self.calibration):
            self._check_epoch(frame)

    @property
    def evidence(self) -> Evidence:
        return Evidence(
            self.gains,
            self.gains_in_nats,
            self.other_gains,
            self.calibration,
            tuple(self.compared.by_level.values())[1:],
        )

    def _check_epoch(self, frame: pd.DataFrame | None) -> None:
        """Tell where weights are of another epoch than the tables."""
        if frame is None or not len(frame):
            return
        trial, epoch = int(frame["trial"].iloc[0]), int(frame["epoch"].iloc[0])
        chosen = self.results.row(trial)[BEST_EPOCH]
        if epoch != chosen and self.results.row(trial)["status"] != Status.RUNNING:
            sentence = (
                f"the weights of trial {trial} are of epoch {epoch}, its tables of epoch "
                f"{text(chosen)}: earlier versions kept those of the lowest validation loss"
            )
            if sentence not in self.faults:
                self.faults.append(sentence)

    def _latent_trial(self) -> int:
        trial = self.results.latent_trial
        if trial is None:
            raise RunError("no trial with latents has ended")
        return trial

    def _one(self, trial: int | None) -> list[int]:
        return [self.results._number(trial)]

    def _last_groups(self, trial: int) -> pd.DataFrame:
        groups = self.results.groups
        epoch = max(groups.files_of(trial), default=0)
        return groups.read(
            trials=[trial], epochs=[epoch], level=groups.lowest_level, split=VAL, labels=True
        )

    def _try(self, what: str, measure: Callable[[], T]) -> T | None:
        try:
            return measure()
        except HlvnnError as error:
            self.why[what] = str(error)
            if isinstance(error, DataChangedError | DamagedCheckpointError):
                self.faults.append(str(error))
        except Exception as error:
            self.why[what] = f"{type(error).__name__}: {error}"
            self.faults.append(f"{what}: {self.why[what]}")
            logger.debug("report: %s", what, exc_info=True)
        return None

    def frame(self, what: str) -> pd.DataFrame:
        """Return a frame that was measured; `HlvnnError` with the reason where it was not."""
        found = {
            "gain": self.gains,
            "shares": self.shares,
            "spread": self.spread,
            "last": self.last,
            "latents": self.latents,
            "calibration": self.calibration,
        }[what]
        if found is None:
            raise HlvnnError(self.why[what])
        return found


def sections(measured: Measured) -> list[Section]:
    """Draw every figure of a sweep's report; those that cannot be drawn say why."""
    results = measured.results
    best, metric = results.best_trial, results.metric
    safe, dotted = "", ""
    if results.scheduler is not None and results.scheduler.has_rungs:
        safe = ", so that stopping the others at the rungs (dotted lines) was safe"
        dotted = "rungs as dotted lines, "
    lower = "lower" if results.mode == "min" else "higher"
    level = results.groups.lowest_level or "group"
    by = f" (trial {results.latent_trial})" if results.latent_trial is not None else ""
    drawn: list[tuple[str, str, str, str, Callable[[], Figure]]] = [
        (
            "curves",
            "Learning curves",
            (
                f"Do the good trials lead early ({lower} is better){safe}? A curve still moving "
                "at its end wants more."
            ),
            (
                f"{said(metric)} of every trial over epochs, the best and the best without latents "
                f"drawn thick, {dotted}crosses where trials were stopped."
            ),
            lambda: figures.learning_curves(
                results.table,
                results.epochs,
                metric,
                results.mode,
                rungs=results.rungs,
                best=best,
                pooled=results.pooled_trial,
            ),
        ),
        (
            "history",
            "What each trial reached",
            (
                "Where the line still falls at the end, the search was not over; where it has long "
                "been flat, more of the same brings little."
                if results.mode == "min"
                else "Where the line still rises at the end, the search was not over; where it has "
                "long been flat, more of the same brings little."
            ),
            f"{said(metric)} of every trial in their order, and the best so far as a line.",
            lambda: figures.history(
                figures.history_table(results.table, metric, results.mode), metric, results.mode
            ),
        ),
        (
            "importances",
            "Which parameters mattered",
            (
                "The longest bar explains most of the differences between trials; what has "
                "next to no bar can be left as it is. Only parameters that every trial drew are "
                "compared. Take it as a hint." + _stopped_early(results)
            ),
            "Bars: the share of the metric's variance that each parameter explains.",
            lambda: figures.importances(results.study, metric, measured.frame("shares")),
        ),
        (
            "parallel",
            "Where the good trials are",
            (
                "Follow the strongest lines, the good trials: where they bunch together on an axis "
                "is a good value, and where they spread over it the value hardly matters. At most "
                f"{MOST} parameters that every trial drew, those that explain most."
            ),
            "A line per trial through the value of each parameter, coloured by the metric.",
            lambda: figures.parallel_coordinates(results.study, metric, measured.shares),
        ),
        (
            "slices",
            "Each parameter by itself",
            (
                "A panel each: where the cloud is lowest, or the star sits at an edge, look there "
                "next. Two parameters that only matter together do not show here."
                if results.mode == "min"
                else "A panel each: where the cloud is highest, or the star sits at an edge, look "
                "there next. Two parameters that only matter together do not show here."
            ),
            "The metric of every trial against each parameter, a panel each; a star for the best.",
            lambda: figures.slices(results.study, metric),
        ),
        (
            "spread",
            f"How each {level} fares, over epochs (trial {best})",
            (
                "Does the weak end rise with the middle? A median that climbs while the 10th "
                f"percentile stays tells of a model that serves the average {level} only. The "
                "weakest with a fair number of rows are named." + _by_chance(measured.last, level)
            ),
            (
                "The distribution of the groups over epochs: median, middle half, 10th to 90th "
                "percentile, and the mean of the weakest tenth."
            ),
            lambda: figures.group_spread(
                measured.frame("spread"),
                measured.frame("last"),
                results.groups.main_measure,
            ),
        ),
        (
            "gain",
            f"What each {level} gains by latents{by}",
            (
                "Above the dashed line a group is better off with latents than in the pooled "
                "model. Look at the squares, the means: groups of few rows scatter by chance."
            ),
            (
                "Each group's gain over the pooled model against its number of rows, with the line "
                "of no gain and means of bins."
            ),
            lambda: figures.gain_by_rows(measured.frame("gain")),
        ),
        *attributes.drawn(measured),
        (
            "shrinkage",
            f"How much is known of each {level}{by}",
            (
                "Dots should rise with the rows: a group with many rows speaks for itself, one "
                "with few is held near the common prior. All at zero: the latent learned nothing."
            ),
            "The share of the prior variance that each group's rows explain, against these rows.",
            lambda: figures.shrinkage(of_level(measured.frame("latents"), results)),
        ),
        (
            "kl",
            f"What the latents hold: KL over epochs{by}",
            (
                "A latent whose curve sinks below the dotted line has collapsed: it tells nothing "
                "of its groups and can go. Grey: the latents of other trials."
            ),
            "KL of each latent of one trial over epochs, in nats a group, on a log scale.",
            lambda: figures.kl_over_epochs(
                results.epochs, measured._latent_trial(), results.latent_columns
            ),
        ),
        (
            "calibration",
            f"Are its probabilities honest? (trial {best})",
            (
                "On the dashed line, what the model calls 80 % likely comes true 80 times in 100. "
                "Below it the model is too sure of itself, above it not sure enough. (Scored anew, "
                f"with {measured.num_samples} draws of z a row, so its accuracy may differ a "
                "little from the one above.)"
            ),
            "How often predictions came true against their probability, and how many there are.",
            lambda: figures.calibration(measured.frame("calibration")),
        ),
        (
            "use",
            "How the machine was used",
            (
                "Gaps above are time in which no epoch ran: slots stood empty, or trials were "
                "starting up or ending. Below, each dot is an epoch: a fall in "
                "rows a second while more trials run means that they get in each other's way."
            ),
            "Trials at a time, and training rows a second of each trial, over minutes.",
            lambda: figures.use_over_time(results.table, results.epochs),
        ),
    ]
    return [drawn_section(measured, *one) for one in drawn]


def of_level(latents: pd.DataFrame, results: Results, level: str | None = None) -> pd.DataFrame:
    """Return what is known of the groups of one level (None = the lowest)."""
    level = level or results.groups.lowest_level
    own = latents if level is None else latents[latents["level"] == level]
    if len(latents) and not len(own):
        raise RunError(f"trial {results.latent_trial} has no latent of {level}")
    return own


def _stopped_early(results: Results) -> str:
    """Return a sentence that tells what trials that were stopped early do to a comparison."""
    placed = results.placed
    count = int((placed["status"] == Status.STOPPED).sum())
    if not count:
        return ""
    return (
        f" Trials that were stopped early ({count} of {len(placed)}) count with what they had "
        "reached by then, so what makes the first epochs fast seems to matter more than it does."
    )


def _by_chance(last: pd.DataFrame | None, level: str) -> str:
    """Return a sentence that tells how much of the groups' spread in accuracy is chance."""
    if last is None or "acc" not in last or not len(last):
        return ""
    rows = float(last["n"].median())
    right = float((last["acc"] * last["n"]).sum() / last["n"].sum())
    error = math.sqrt(right * (1 - right) / rows)
    return (
        f" A {level} has {rows:.0f} rows here (median): if all were equally easy, chance alone "
        f"would still spread their accuracies by an SD of about {error:.2f}."
    )


def drawn_section(
    measured: Measured, name: str, title: str, look: str, alt: str, draw: Callable[[], Figure]
) -> Section:
    """Return a section with its figure, or with why that could not be drawn."""
    try:
        image = svg(draw(), name, alt)
    except HlvnnError as error:
        return Section(name, title, look, alt, missing=str(error))
    except Exception as error:
        said_error = f"{type(error).__name__}: {error}"
        measured.faults.append(f"{name}: {said_error}")
        logger.debug("report: figure %s", name, exc_info=True)
        return Section(name, title, look, alt, missing=f"it could not be drawn ({said_error})")
    found = measured._try(f"numbers of {name}", lambda: numbers.of_figure(measured, name))
    return Section(name, title, look, alt, image=image, numbers=tuple(found or ()))
