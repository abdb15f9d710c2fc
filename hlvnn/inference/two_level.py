"""A two-level model of measured groups: a linear mixed model of one random intercept, by REML.

    y_i = x_i β + u_g(i) + e_i,    u_g ~ N(0, ω²),    e_i ~ N(0, σ²/w_i)

at weights w that are known (rows behind a mean). It is the exact mixed model of `mixed_model` with
rows scaled by √w. ω is not fixed at its best value, at which groups' intervals would be too short:
it is averaged over, by its REML likelihood under a flat prior on ω/σ (Gelman 2006), σ² and β at
their best for each. Source: Rubin (1981); Patterson and Thompson (1971) for REML.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from hlvnn.inference.mixed_model import System
from hlvnn.inference.row_sums import RowSums, summed
from hlvnn.latents.exact_law import Layout

Floats = NDArray[np.float64]

COARSE, FINE = 24, 40
"""Values of ω/σ at which the likelihood is taken to find where it is, and then to average."""
NEGLIGIBLE = 12.0
"""Fall of the log likelihood from its maximum beyond which a value plays no part."""
LIKELY = 1.92
"""Fall of the log likelihood within which a value is in its interval: half of χ²(1) at 95 %."""
INTERVAL = (0.025, 0.975)


@dataclass(frozen=True)
class TwoLevel:
    """What was found. mean: β₀ with its standard error; sd: of the groups' true values.

    sd is τ, τ² = ω² − the variance that is known to be none of theirs (`excess`), with an interval;
    it begins at 0 where the likelihood cannot tell it from that. noise: σ. groups: [G], each one's
    true value β₀ + u_g, shrunk, and spread: [G], its standard error. degrees: of freedom of σ².
    """

    mean: float
    error: float
    sd: float
    sd_low: float
    sd_high: float
    noise: float
    groups: Floats
    spread: Floats
    degrees: int


@dataclass(frozen=True)
class _Point:
    """The model at one value of ω/σ."""

    ratio: float
    log_likelihood: float
    variance: float
    mean: float
    error: float
    groups: Floats
    spread: Floats


def two_level(
    y: Floats,
    x: Floats,
    weight: Floats,
    group: Sequence[int] | NDArray[np.int64],
    number: int,
    excess: float = 0.0,
) -> TwoLevel:
    """Fit the model: y: [N]; x: [N, P], its first column 1; weight: [N]; group: [N], of `number`.

    excess: the part of ω² that is known to be none of the groups' own. Needs more rows than groups
    and columns of x together, some groups with two rows at least: else ω and σ cannot be told
    apart, which is a `ValueError`.
    """
    places = np.asarray(group, dtype=np.int64)
    if len(np.unique(places)) < 2 or len(y) <= len(np.unique(places)) + x.shape[1] - 1:
        raise ValueError("groups are not measured twice: what is theirs and what is chance is one")
    sums = _sums(y, x, weight, places, number)
    own = np.bincount(places, weights=weight, minlength=number)
    unit = 1 / math.sqrt(float(np.median(own[own > 0])))
    share = (np.arange(COARSE) + 0.5) / COARSE
    points = _along(sums, unit, share, excess)
    share = _region(share, _likelihoods(points), FINE)
    points = _along(sums, unit, share, excess)
    likelihoods = _likelihoods(points)
    density = np.exp(likelihoods - likelihoods.max()) / (1 - share) ** 2
    density /= density.sum()
    best = points[int(likelihoods.argmax())]
    least = _at(sums, unit * 1e-4, excess)
    return _averaged(points, density, best, least, excess, len(y) - x.shape[1])


def _along(sums: RowSums, unit: float, share: Floats, excess: float) -> list[_Point]:
    """Return the model at ratios of unit · share/(1 − share)."""
    return [_at(sums, float(unit * one / (1 - one)), excess) for one in share]


def _likelihoods(points: Sequence[_Point]) -> Floats:
    return np.array([point.log_likelihood for point in points], dtype=np.float64)


def _sums(y: Floats, x: Floats, weight: Floats, group: NDArray[np.int64], number: int) -> RowSums:
    root = torch.from_numpy(np.sqrt(weight))
    fixed = torch.from_numpy(np.column_stack([x, y])) * root[:, None]
    part = fixed, {0: root[:, None]}, {0: torch.from_numpy(np.array(group))}
    layout = Layout(((0, slice(0, 1)),), ((0,),), {0: 1})
    return summed([part], layout, {0: number}, 0)


def _region(share: Floats, likelihoods: Floats, count: int) -> Floats:
    """Return `count` values where the likelihood is not negligible, ends included."""
    step = share[1] - share[0]
    there = share[likelihoods > likelihoods.max() - NEGLIGIBLE]
    low, high = there.min() - step, there.max() + step
    edges = np.linspace(max(0.0, low), min(1.0, high), count + 1)
    return np.asarray((edges[1:] + edges[:-1]) / 2, dtype=np.float64)


@torch.no_grad()
def _at(sums: RowSums, ratio: float, excess: float) -> _Point:
    system = System(sums, {0: torch.tensor([[ratio]], dtype=torch.float64)})
    gram = system.left[:-1, :-1]
    degrees = sums.number - len(gram)
    beta = torch.linalg.solve(gram, system.left[:-1, -1])
    variance = system.squares(beta) / degrees
    told = system.log_det + float(torch.logdet(gram)) + degrees * math.log(variance)
    whole = ratio**2 * variance  # ω²
    kept = max(0.0, whole - excess) / whole  # the groups' own share of it
    b = system.modes(beta)[1][:, 0]
    root, fixed = system.own[:, 0, 0], system.fixed[:, 0, :-1]  # [G], [G, P]
    reach = -kept * ratio * fixed / root[:, None]
    reach[:, 0] += 1
    inverse = torch.linalg.inv(gram)
    of_beta = torch.einsum("gp,pq,gq->g", reach, inverse, reach)
    spread = variance * ((kept * ratio / root) ** 2 + of_beta) + kept * min(excess, whole)
    return _Point(
        ratio,
        -0.5 * told,
        variance,
        float(beta[0]),
        math.sqrt(variance * float(inverse[0, 0])),
        (beta[0] + kept * ratio * b).numpy(),
        spread.clamp(min=0).sqrt().numpy(),
    )


def _averaged(
    points: list[_Point],
    density: Floats,
    best: _Point,
    least: _Point,
    excess: float,
    degrees: int,
) -> TwoLevel:
    """Average over ω/σ: means, and variances with what the means differ by."""
    mean = float(sum(d * p.mean for d, p in zip(density, points, strict=True)))
    groups = np.sum([d * p.groups for d, p in zip(density, points, strict=True)], axis=0)
    error, spread = 0.0, np.zeros_like(groups)
    for d, p in zip(density, points, strict=True):
        error += d * (p.error**2 + (p.mean - mean) ** 2)
        spread += d * (p.spread**2 + (p.groups - groups) ** 2)
    sds = np.array([math.sqrt(max(0.0, p.ratio**2 * p.variance - excess)) for p in points])
    below = np.cumsum(density)
    ends = np.minimum(np.searchsorted(below, np.array(INTERVAL)), len(sds) - 1)
    low, high = (float(one) for one in sds[ends])
    may_be_nothing = least.log_likelihood > best.log_likelihood - LIKELY
    sd = math.sqrt(max(0.0, best.ratio**2 * best.variance - excess))
    return TwoLevel(
        mean,
        math.sqrt(error),
        0.0 if least.log_likelihood >= best.log_likelihood else sd,
        0.0 if may_be_nothing else low,
        high,
        math.sqrt(best.variance),
        groups,
        np.sqrt(spread),
        degrees,
    )
