"""Groups one by one, in the page: what `sweep.group(LABEL)` shows of the worst and the best."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hlvnn.analysis.figures.style import SPLITS, WORDS
from hlvnn.analysis.one_group import OneGroup, some_groups
from hlvnn.analysis.report import sketches, tables
from hlvnn.analysis.report.numbers import Numbers, shown, table
from hlvnn.analysis.report.tables import Table
from hlvnn.analysis.results import Results
from hlvnn.columns import EPOCH, PRIOR_SD
from hlvnn.records.run_folder import BEST, STATS

if TYPE_CHECKING:
    from hlvnn.analysis.report.sections import Measured

ROOM = 2_000_000
"""Bytes of all panels; what is left of the groups has none."""
TRIALS = 5
"""Trials that a panel compares, the best ones."""
CLASSES = 12
"""Classes of a confusion matrix that is shown as one; of more, the confusions are listed."""
CONFUSIONS = 20
COORDINATES = 32
LETTERS = 300
"""Of a row's input, its last ones: a text goes on from there."""
SIDE = 96
"""Pixels of a picture's longer side; a larger one is thinned."""


@dataclass(frozen=True)
class Row:
    """One of a group's worst rows; picture: PNG as a data address, or none."""

    said: str
    input: str
    picture: str


@dataclass(frozen=True)
class Panel:
    """A group in the page."""

    gid: int
    title: str
    facts: str
    rows: list[Row]
    confusion: Numbers | None
    curve: str
    posterior: str
    numbers: list[Numbers]
    notes: list[str]

    @property
    def id(self) -> str:
        return f"group-{self.gid}"

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        drawn = sum(len(row.picture) + len(row.input) for row in self.rows)
        cells = sum(30 * len(one.rows) * len(one.columns) for one in self.numbers)
        return drawn + cells + len(self.curve) + len(self.posterior) + 4000


@dataclass(frozen=True)
class Groups:
    """What a page shows of single groups: a table of the ends, and the panels it leads to."""

    table: Table
    panels: list[Panel]
    level: str
    total: int
    others: str
    """Of a group that has no panel, its name; of none, a stand-in."""


def some(measured: Measured) -> Groups | None:
    """Return the groups at the ends: by their gain, else by how they fare; None without any."""
    gains, last = measured.gains, measured.last
    results = measured.results
    has_gains = gains is not None and len(gains) > 0
    if not has_gains and (last is None or not len(last)):
        return None
    if has_gains:
        assert gains is not None
        every, level, gids = gains, str(gains.attrs["level"]), tables.ends(gains)
    else:
        assert last is not None
        every, level = last, str(results.groups.lowest_level)
        gids = tables.ends_of(last, results.groups.main_measure)
    made = measured._try("groups one by one", lambda: list(panels(results, level, gids))) or []
    links = {one.gid: one.id for one in made}
    table = (
        tables.some_groups(every, gids, links)
        if has_gains
        else tables.groups_of_best(results, every, gids, links)
    )
    rest = every[~every["gid"].isin(links)]["label"]
    return Groups(table, made, level, len(every), str(rest.iloc[0]) if len(rest) else "LABEL")


def panels(results: Results, level: str, gids: Sequence[int]) -> Iterator[Panel]:
    """Yield a panel for each group, while there is room; of the best trial.

    gids: numbers of groups of the level, the ones that matter most first.
    """
    among = [int(trial) for trial in results.placed["trial"].head(TRIALS)]
    best, pooled = results.best_trial, results.pooled_trial
    among += [trial for trial in (best, pooled) if trial is not None]
    room = ROOM
    for one in some_groups(results, level, gids, among=set(among)):
        made = panel(one)
        room -= made.size
        if room < 0:
            return
        yield made


def panel(one: OneGroup) -> Panel:
    """Return a group's panel."""
    own = one.curve[one.curve["split"] == one.split]
    return Panel(
        gid=one.gid,
        title=f"{one.level} {one.label}",
        facts=_facts(one),
        rows=list(_rows(one)),
        confusion=_confusion(one),
        curve=sketches.curve(one, own) if len(own) else "",
        posterior=sketches.posterior(one, COORDINATES) if len(one.posterior) else "",
        numbers=list(_tables(one, own)),
        notes=list(one.notes),
    )


def _facts(one: OneGroup) -> str:
    rows = f"{len(one.rows)} {SPLITS[one.split]} rows"
    said = f"Trial {one.trial}; {rows}" if len(one.rows) else f"Trial {one.trial}"
    if len(one.confusion):
        right = int((one.rows["y"] == one.rows["prediction"]).sum())
        said += f", {right} of them predicted rightly"
    if len(one.rows):
        said += f"; {float(one.rows['loss'].mean()):.3f} nats a row"
    return said + "."


def _rows(one: OneGroup) -> Iterator[Row]:
    for place, row in enumerate(one.worst.itertuples()):
        said = f"{shown(row.y)} as {shown(row.prediction)}, {row.loss:.2f} nats"
        whole = str(getattr(row, "input", ""))
        text = whole if len(whole) <= LETTERS else "…" + whole[-LETTERS:]
        picture = "" if one.pictures is None else png(one.pictures[place])
        yield Row(said, text, picture)


def png(picture: NDArray[Any]) -> str:
    """Return a picture [H, W] or [H, W, C] as a data address; black is the most where grey."""
    from matplotlib.image import imsave

    step = -(-max(picture.shape[:2]) // SIDE)
    small = np.asarray(picture, float)[::step, ::step]
    low, high = float(small.min()), float(small.max())
    buffer = io.BytesIO()
    if small.ndim == 2:
        imsave(buffer, small, cmap="gray_r", format="png")
    else:
        scaled = small if low >= 0 and high <= 1 else (small - low) / ((high - low) or 1.0)
        imsave(buffer, scaled[..., :4], format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _confusion(one: OneGroup) -> Numbers | None:
    """Return the matrix, or where that is large the confusions, the most frequent first."""
    counts = one.confusion
    if not len(counts):
        return None
    if max(counts.shape) <= CLASSES:
        frame = counts.rename_axis(index=None, columns=None).reset_index(names="true \\ predicted")
        rows = [[shown(cell) for cell in row] for row in frame.itertuples(index=False)]
        return Numbers("Confusion matrix", [str(name) for name in frame], rows)
    missed = one.rows[one.rows["y"] != one.rows["prediction"]]
    wrong = missed.groupby(["y", "prediction"], as_index=False).agg(rows=("loss", "size"))
    wrong = wrong.sort_values("rows", ascending=False, kind="stable")
    caption = f"Confusions ({int(wrong['rows'].sum())} of {len(one.rows)} rows)"
    if len(wrong) > CONFUSIONS:
        caption += f": the {CONFUSIONS} most frequent of {len(wrong)} pairs"
    rows = [[shown(cell) for cell in row] for row in wrong.head(CONFUSIONS).itertuples(index=False)]
    return Numbers(caption, ["true", "predicted", "rows"], rows)


def _tables(one: OneGroup, own: pd.DataFrame) -> Iterator[Numbers]:
    if len(own):
        frame = own[[EPOCH, "n", one.measure]]
        if len(one.everyone):
            others = one.everyone[[EPOCH, "p50", "p10", "p90"]]
            frame = frame.merge(others, on=EPOCH, how="left")
            frame = frame.rename(columns={"p50": "median group", "p10": "p10", "p90": "p90"})
        file = f"{STATS}/ of trial {one.trial}"
        yield table(frame, f"{WORDS[one.measure]} over epochs", "by epoch", file)
    if len(one.posterior):
        frame = one.posterior[
            ["latent", "coordinate", "mean", "sd", "prior_mean", PRIOR_SD, "shrinkage"]
        ].head(COORDINATES)
        file = f"{BEST} of trial {one.trial} (`sweep.latents()`)"
        yield table(frame, "Posterior and prior", "by latent", file)
    at = one.trials[one.trials["split"] == one.split]
    if len(at):
        frame = at[["trial", "structure", EPOCH, "n", one.measure]]
        yield table(frame, "In the best trials", "by number", f"{STATS}/ of each")
