"""How sure a trial is of its groups, and whether it is right to be."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hlvnn.analysis.figures import style
from hlvnn.errors import RunError

Floats = NDArray[np.float64]


def share_table(latents: pd.DataFrame) -> pd.DataFrame:
    """Return a row per latent and group: latent, gid, label, rows, share.

    latents, share: see `shrinkage`. Raises `RunError` where no latent has a posterior SD.
    """
    known = latents[latents["shrinkage"].notna()] if len(latents) else latents
    if not len(known):
        raise RunError("the trial has no latent with a posterior SD (none, or points only)")
    return known.groupby(["latent", "gid"], sort=False, as_index=False).agg(
        label=("label", "first"), rows=("rows", "first"), share=("shrinkage", "mean")
    )


def shrinkage(latents: pd.DataFrame) -> Figure:
    """Draw the share of the prior variance that each group's rows explain, against these rows.

    latents: `Results.latents()`. A dot is a group: the mean over a latent's coordinates of
    1 − (posterior SD / prior SD)². A posterior wider than its prior gives a negative share.
    """
    shares = share_table(latents)
    made, axes = style.figure()
    parts = list(shares.groupby("latent", sort=False))
    for (latent, part), colour in zip(parts, style.CYCLE * len(parts), strict=False):
        look: style.Look = {"color": colour, "markersize": 4, "alpha": 0.65, "linestyle": "none"}
        axes.plot(part["rows"], part["share"], marker="o", label=f"{latent}", **look)
    axes.axhline(1, color=style.GREY, linestyle=":", linewidth=1)
    axes.axhline(0, color=style.GREY, linestyle=":", linewidth=1)
    for height, word in ((1, "the group speaks for itself"), (0, "nothing learned of it")):
        axes.annotate(
            word, (0.995, height), xycoords=("axes fraction", "data"), ha="right", va="bottom",
            fontsize=style.SMALL, color=style.GREY,
        )  # fmt: skip
    rows = shares["rows"].to_numpy(np.float64)
    if rows.max() > 20 * max(1.0, rows.min()):
        axes.set_xscale("log")
    axes.set_ylim(min(-0.08, float(shares["share"].min()) - 0.05), 1.12)
    axes.set_xlabel("training rows of the group")
    axes.set_ylabel("share of prior variance\nthat its rows explain")
    made.legend(loc="outside upper left", fontsize=style.SMALL)
    return made


def expected_error(calibration: pd.DataFrame) -> float:
    """Return the expected calibration error: the mean over rows of |accuracy − confidence|."""
    gap = (calibration["accuracy"] - calibration["confidence"]).abs()
    return float((gap * calibration["n"]).sum() / calibration["n"].sum())


def interval(share: Floats, n: Floats) -> tuple[Floats, Floats]:
    """Return the ends of a 95 % interval for shares of n rows (Wilson 1927): within 0 and 1."""
    z = 1.96
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return np.minimum(centre - half, share), np.maximum(centre + half, share)


def calibration(frame: pd.DataFrame) -> Figure:
    """Draw whether probabilities come true; frame: `Results.calibration()`.

    Classes: accuracy against confidence, with 95 % intervals, and the rows in each bin. Real
    targets: shares of the probability integral transform, which should all be alike.
    """
    split = style.SPLITS[str(frame["split"].iloc[0])]
    if "share" in frame:
        return _transform(frame, split)
    made, (above, below) = style.figures(2, 1, (style.SIZE[0], 4.6), sharex=True)
    used = frame[frame["n"] > 0]
    share = used["accuracy"].to_numpy(np.float64)
    low, high = interval(share, used["n"].to_numpy(np.float64))
    above.plot([0, 1], [0, 1], color="black", linestyle="--", linewidth=1, label="as it should be")
    above.errorbar(
        *(used["confidence"], share, (share - low, high - share)),
        color=style.BLUE,
        marker="o",
        markersize=4,
        capsize=3,
        label="with a 95 % interval",
    )
    above.set_ylabel("share that was right")
    above.set_ylim(-0.03, 1.03)
    above.legend(fontsize=style.SMALL)
    width = frame["high"] - frame["low"]
    below.bar(frame["low"], frame["n"], width, align="edge", color=style.LIGHT, edgecolor="white")
    below.set_ylabel(f"{split} rows")
    below.set_xlabel("probability of the class that was predicted")
    below.set_xlim(0, 1)
    return made


def _transform(frame: pd.DataFrame, split: str) -> Figure:
    made, axes = style.figure()
    width = frame["high"] - frame["low"]
    look: style.Look = {"align": "edge", "color": style.LIGHT, "edgecolor": "white"}
    axes.bar(frame["low"], frame["share"], width, **look)
    even = 1 / len(frame)
    error = 2 * np.sqrt(even * (1 - even) / frame["n"].sum())
    axes.axhline(even, color="black", linestyle="--", linewidth=1, label="as it should be")
    band: style.Look = {
        "color": style.BLUE,
        "alpha": 0.2,
        "linewidth": 0,
        "label": "± two standard errors",
    }
    axes.axhspan(even - error, even + error, **band)
    axes.set_xlim(0, 1)
    axes.set_xlabel("where the value lies in its predictive distribution")
    axes.set_ylabel(f"share of {split} rows")
    axes.legend(fontsize=style.SMALL)
    return made
