"""A likelihood of each kind, with targets and predictors that fit it."""

from __future__ import annotations

import torch
from torch import Tensor

from hlvnn.likelihoods.base import Likelihood
from hlvnn.likelihoods.poisson import Poisson
from tests.helpers import generator, likelihood_class, randomise

S, B = 3, 6
CENTER, SPREAD = 5e5, 300.0
COUNTS = torch.tensor([3.0, 0, 7, 12, 1, 4], dtype=torch.float64)
TRIALS = torch.tensor([3.0, 5, 20, 12, 1, 9], dtype=torch.float64)


def targets(likelihood: Likelihood) -> Tensor:
    if likelihood.target == "class":
        return torch.tensor([0, 1, 1, 0, 1, 0])
    if isinstance(likelihood, Poisson):
        return COUNTS
    if likelihood.counts_trials:
        return torch.stack([COUNTS.minimum(TRIALS), TRIALS], dim=1)
    return CENTER + SPREAD * torch.randn(B, generator=generator(), dtype=torch.float64)


def make(name: str) -> Likelihood:
    cls = likelihood_class(name)
    likelihood = randomise(cls(2 if cls.target == "class" else None))
    likelihood.observe(targets(likelihood))
    return likelihood


def predictor(likelihood: Likelihood) -> Tensor:
    return torch.randn(S, B, likelihood.num_outputs, generator=generator(1))
