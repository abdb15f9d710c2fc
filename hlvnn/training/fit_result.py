"""How a fit ended."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from hlvnn.training.failure import Failure
from hlvnn.training.profile import Profile


@dataclass(frozen=True)
class FitResult:
    """How a fit ended.

    elbo: the full-data ELBO at β = 1 in y's units, exact (`elbo_error` = 0) or an estimate with its
    standard error; with objective "iwae" the bound that was trained. kl: Σ_g KL of each latent;
    history: a row per evaluated epoch. doubts: sentences on variances at their boundary.
    newton_gain: the expected gain of one more Newton step, in nats, near 0 where the fit is done:
    of all that is fitted where the fit is exact, else of the learned SDs (`inference.newton`); NaN
    where none is learned. failure: of a fit that diverged in a step, what `training.failure.replay`
    takes once more. profile: of a fit with `profile`, where its time went.
    """

    elbo: float
    elbo_error: float
    kl: dict[str, float]
    epochs: int
    diverged: bool
    stopped_early: bool
    history: pd.DataFrame
    objective: str = "elbo"
    doubts: tuple[str, ...] = ()
    newton_gain: float = math.nan
    failure: Failure | None = None
    profile: Profile | None = None


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a fit. `result`: how far it came; its ELBO was not computed (NaN)."""

    def __init__(self, result: FitResult) -> None:
        super().__init__(f"interrupted after epoch {result.epochs}")
        self.result = result
