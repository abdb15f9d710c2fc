"""The minimum of a mixed model's criterion over the entries of its covariances' factors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hlvnn.inference.mixed_model import System
from hlvnn.inference.row_sums import RowSums

if TYPE_CHECKING:
    from scipy import optimize  # slow to import, and no other fit needs it

Floats = NDArray[np.float64]

SMALLEST, LARGEST = 1e-6, 1e6
"""Bounds of a factor's diagonal, SDs over the noise's: what is there is 0, or the noise is."""
AWAY = 1e-2
"""SD over the noise's from which one that fell to 0 is tried again: 0 is always stationary."""
FIRST_STEPS, SMALL_MOVE = 6, 0.1
"""Steps of Fisher scoring before the search, and the move of a log SD that ends them."""
LEAST_TOLD = 0.03
"""Share of a variance that the rows tell, at least, for a step to be taken by it."""
FEW = 12
"""Entries up to which second derivatives are taken, by differences of the first."""
STEP = 1e-4
"""Their step, as a share of an entry (or of 1)."""
ROUGH, FINE = 1e-10, 1e-14
"""Change of the criterion, as a share of it, at which the search ends: before a last Newton step,
and where there is none."""
ROUNDING = 1e-9
"""Change of the criterion, as a share of it, that may be rounding."""


@dataclass(frozen=True)
class Found:
    """A minimum: by level the factors [W, W]; evaluations of the criterion and its gradient.

    newton_gain: what one Newton step from there would gain of log p(y), in nats.
    """

    factors: dict[int, Tensor]
    criterion: float
    newton_gain: float
    evaluations: int


class _Entries:
    """The entries that move, as one vector: per latent the diagonal, then what is below it.

    unit: about an entry's standard error, in which the minimiser counts; own: the place of the
    diagonal entry in the same row; told: the mean share of its row's variance that the data tell.
    """

    def __init__(self, sums: RowSums, full: Sequence[bool]) -> None:
        self.sums = sums
        rows, columns, levels = [], [], []
        for (level, own), whole in zip(sums.layout.at, full, strict=True):
            width = own.stop - own.start
            places = [(k, k) for k in range(width)]
            if whole:
                places += [(i, j) for i in range(width) for j in range(i)]
            rows += [own.start + i for i, _ in places]
            columns += [own.start + j for _, j in places]
            levels += [level] * len(places)
        self.row, self.column = torch.tensor(rows), torch.tensor(columns)
        self.level = torch.tensor(levels)
        self.diagonal = (self.row == self.column).numpy()
        diagonal = {(levels[k], rows[k]): k for k in np.flatnonzero(self.diagonal).tolist()}
        self.own = np.array([diagonal[at] for at in zip(levels, rows, strict=True)])
        self.number = np.array([sums.sizes[level] for level in levels])
        self.unit = self.told = np.ones(len(levels))
        self.evaluations = 0

    def start(self) -> Floats:
        """Return first values: from lme4's, each effect as large as the noise, some way on.

        By Fisher scoring of the log SDs one by one, which tells the units as well.
        """
        values = np.where(self.diagonal, 1.0, 0.0)
        for _ in range(FIRST_STEPS):
            gradient = self(values)[1]
            move = np.clip(-values * gradient / (4 * self.number * self.told**2), -1, 1)
            values = values * np.exp(move)
            self.unit = values[self.own] / (2 * self.number**0.5 * self.told)
            if np.abs(move).max() < SMALL_MOVE:
                break
        return values

    def factors(self, values: Floats) -> dict[int, Tensor]:
        """Return the factors with these entries."""
        found = {}
        for level, width in self.sums.layout.widths.items():
            own = self.level == level
            factor = torch.zeros(width, width, dtype=torch.float64)
            factor[self.row[own], self.column[own]] = torch.from_numpy(values)[own]
            found[level] = factor
        return found

    def __call__(self, values: Floats) -> tuple[float, Floats]:
        """Return the criterion and its gradient."""
        self.evaluations += 1
        system = System(self.sums, self.factors(values))
        gradients = system.gradients()
        result = torch.empty(2, len(values), dtype=torch.float64)
        for level, gradient in gradients.items():
            own = self.level == level
            result[0, own] = gradient[self.row[own], self.column[own]]
            result[1, own] = 1 - system.untold[level][self.row[own]]
        self.told = np.maximum(result[1].numpy(), LEAST_TOLD)
        return system.criterion(), result[0].numpy()


@torch.no_grad()
def minimise(sums: RowSums, full: Sequence[bool]) -> Found:
    """Return the covariances of largest likelihood, fixed effects and noise at their best.

    full: per latent whether correlations are learned, too.
    """
    from scipy import optimize

    entries = _Entries(sums, full)
    values = entries.start()
    unit = entries.unit
    lower = np.where(entries.diagonal, SMALLEST, -LARGEST)
    bounds = optimize.Bounds(lower / unit, LARGEST / unit)

    def scaled(values: Floats) -> tuple[float, Floats]:
        criterion, gradient = entries(values * unit)
        return criterion, gradient * unit

    tolerance = ROUGH if len(values) <= FEW else FINE
    while True:
        found = optimize.minimize(
            scaled,
            values / unit,
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            options={"ftol": tolerance, "gtol": 1e-6, "maxcor": 30, "maxiter": 1000},
        )
        again = _away_from_zero(entries, np.maximum(found.x * unit, lower), float(found.fun))
        if again is None:
            break
        values = again
    values, criterion, gain = _finished(scaled, found, bounds)
    return Found(
        entries.factors(np.maximum(values * unit, lower)), criterion, gain, entries.evaluations
    )


def _away_from_zero(entries: _Entries, values: Floats, criterion: float) -> Floats | None:
    """Return where to begin again: an SD is at 0, and a larger one is better; None if not so."""
    for place in np.flatnonzero(entries.diagonal & (values <= 2 * SMALLEST)):
        trial = values.copy()
        trial[place] = AWAY
        if entries(trial)[0] < criterion - ROUNDING * abs(criterion):
            return trial
    return None


def _finished(
    entries: Callable[[Floats], tuple[float, Floats]],
    found: optimize.OptimizeResult,
    bounds: optimize.Bounds,
) -> tuple[Floats, float, float]:
    """Return the minimum after a last Newton step, its criterion, and what another would gain."""
    values, gradient = found.x, found.jac
    at_bound = (values <= bounds.lb) & (gradient > 0) | (values >= bounds.ub) & (gradient < 0)
    free = np.flatnonzero(~at_bound)
    if not len(free):
        return values, float(found.fun), 0.0
    if len(free) > FEW:
        inverse = found.hess_inv.todense()[np.ix_(free, free)]
        return values, float(found.fun), float(gradient[free] @ inverse @ gradient[free]) / 4
    hessian = np.empty((len(free), len(free)))
    for column, place in enumerate(free):
        moved = values.copy()
        moved[place] += STEP * max(1.0, abs(values[place]))
        change = entries(moved)[1] - gradient
        hessian[:, column] = change[free] / (moved[place] - values[place])
    hessian = (hessian + hessian.T) / 2
    sizes, directions = np.linalg.eigh(hessian)
    sizes = np.maximum(sizes, 1e-10 * max(1e-10, float(sizes.max())))

    def gain(of: Floats) -> float:
        return float(((directions.T @ of[free]) ** 2 / sizes).sum()) / 4

    trial = values.copy()
    trial[free] -= directions @ ((directions.T @ gradient[free]) / sizes)
    trial = np.clip(trial, bounds.lb, bounds.ub)
    criterion, there = entries(trial)
    if gain(there) < gain(gradient) and criterion <= found.fun + ROUNDING * abs(found.fun):
        return trial, criterion, gain(there)
    return values, float(found.fun), gain(gradient)
