"""The small figures of a group's panel, as SVG written by hand: there may be dozens on a page."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from markupsafe import escape

from hlvnn.analysis.figures.style import BLUE, GREY, ORANGE, WORDS
from hlvnn.analysis.figures.svg import painted
from hlvnn.analysis.one_group import OneGroup
from hlvnn.columns import EPOCH, PRIOR_SD

WIDTH, HEIGHT = 320, 170
LEFT, RIGHT, TOP, BOTTOM = 46, 8, 10, 34
"""Room for the labels, in units of the page's pixels at most."""
FEW_TICKS = 8


class Sketch:
    """Axes from (low x, low y) to (high x, high y), to which marks are added."""

    def __init__(self, xs: Iterable[float], ys: Iterable[float]) -> None:
        self.x, self.y = _range(xs), _range(ys)
        self.parts: list[str] = []

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return where a point is in the picture."""
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return (
            round(LEFT + across * (WIDTH - LEFT - RIGHT), 1),
            round(HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM), 1),
        )

    def line(self, xs: Iterable[float], ys: Iterable[float], colour: str, look: str = "") -> None:
        """Add a line through points; those that are not finite are left out."""
        points = [self.at(x, y) for x, y in zip(xs, ys, strict=True) if np.isfinite(y)]
        joined = " ".join(f"{x},{y}" for x, y in points)
        style = painted(f"fill:none;stroke:{colour.lower()};stroke-width:2;{look}")
        self.parts.append(f'<polyline points="{joined}" style="{style}"/>')

    def area(self, xs: Iterable[float], low: Iterable[float], high: Iterable[float]) -> None:
        """Fill what is between two lines."""
        xs = list(xs)
        there = [self.at(x, y) for x, y in zip(xs, high, strict=True)]
        back = [self.at(x, y) for x, y in zip(xs, low, strict=True)][::-1]
        joined = " ".join(f"{x},{y}" for x, y in there + back)
        style = painted(f"fill:{GREY.lower()};fill-opacity:.25")
        self.parts.append(f'<polygon points="{joined}" style="{style}"/>')

    def dot(self, x: float, y: float, colour: str) -> None:
        """Add a dot."""
        across, down = self.at(x, y)
        style = painted(f"fill:{colour.lower()}")
        self.parts.append(f'<circle cx="{across}" cy="{down}" r="3" style="{style}"/>')

    def text(self, x: float, y: float, words: object, anchor: str = "middle") -> None:
        """Add words at a place of the picture."""
        said = escape(str(words))
        self.parts.append(f'<text x="{x}" y="{y}" text-anchor="{anchor}">{said}</text>')

    def drawn(self, alt: str, x: str) -> str:
        """Return the picture, with its axes; x: what is on the horizontal one."""
        left, right = LEFT, WIDTH - RIGHT
        bottom = HEIGHT - BOTTOM
        for value in self.y:
            self.text(left - 4, self.at(self.x[0], value)[1] + 4, f"{value:.3g}", "end")
        self.text((left + right) / 2, HEIGHT - 4, x)
        axes = f'<path d="M{left} {TOP}V{bottom}H{right}" style="fill:none;stroke:currentColor"/>'
        return (
            f'<svg class="sketch" role="img" aria-label="{escape(alt)}" '
            f'viewBox="0 0 {WIDTH} {HEIGHT}">{axes}{"".join(self.parts)}</svg>'
        )


def _range(values: Iterable[float]) -> tuple[float, float]:
    known = np.array([one for one in values if np.isfinite(one)], float)
    if not len(known):
        return 0.0, 1.0
    low, high = float(known.min()), float(known.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def curve(one: OneGroup, own: pd.DataFrame) -> str:
    """Draw a group's measure over epochs, before all groups' median and 10 to 90 %."""
    xs, ys = own[EPOCH].tolist(), own[one.measure].tolist()
    others = one.everyone
    bands = [others[name].tolist() for name in ("p10", "p50", "p90")] if len(others) else []
    sketch = Sketch(
        [*xs, *(others[EPOCH] if bands else ())], [*ys, *(v for band in bands for v in band)]
    )
    if bands:
        at = others[EPOCH].tolist()
        sketch.area(at, bands[0], bands[2])
        sketch.line(at, bands[1], GREY)
    sketch.line(xs, ys, ORANGE)
    for x, y in zip(xs, ys, strict=True):
        if len(xs) <= FEW_TICKS and np.isfinite(y):
            sketch.dot(x, y, ORANGE)
    for value in dict.fromkeys(sketch.x):
        sketch.text(sketch.at(value, 0)[0], HEIGHT - BOTTOM + 14, f"{value:.3g}")
    alt = f"{WORDS[one.measure]} of {one.label} over epochs, with the median group behind it"
    return sketch.drawn(alt, "epoch")


def posterior(one: OneGroup, most: int) -> str:
    """Draw a group's posterior, mean ± SD, on its prior ± SD, a place for each coordinate."""
    table = one.posterior.head(most)
    centre = table["prior_mean"].fillna(0.0).to_numpy(float)
    prior = table[PRIOR_SD].fillna(0.0).to_numpy(float)
    mean, sd = table["mean"].to_numpy(float), table["sd"].fillna(0.0).to_numpy(float)
    ends = np.concatenate([centre - prior, centre + prior, mean - sd, mean + sd])
    sketch = Sketch([-0.5, len(table) - 0.5], ends)
    for k in range(len(table)):
        low, high = centre[k] - prior[k], centre[k] + prior[k]
        sketch.area([k - 0.3, k + 0.3], [low, low], [high, high])
        sketch.line([k, k], [mean[k] - sd[k], mean[k] + sd[k]], BLUE)
        sketch.dot(k, mean[k], BLUE)
        if len(table) <= FEW_TICKS:
            name = str(table["coordinate"].iloc[k])
            sketch.text(sketch.at(k, 0)[0], HEIGHT - BOTTOM + 14, name[:7])
    more = f", the first {most} of {len(one.posterior)}" if len(one.posterior) > most else ""
    alt = f"Posterior mean and SD of {one.label} on the prior's SD, a place for each coordinate"
    return sketch.drawn(alt, f"coordinate of the latents{more}")
