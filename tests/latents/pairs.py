"""Posteriors, priors, and which pairs of them a latent may have."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution

from hlvnn.latents.divergence import cholesky
from hlvnn.latents.pairs import refusal
from hlvnn.latents.posteriors.base import Posterior
from hlvnn.latents.priors.base import Prior
from tests.helpers import POSTERIORS, PRIORS, posterior_class, prior_class

GROUPS, WIDTH = 5, 3
SCALE = torch.tensor([0.2, 0.5, 1.5])
PROPER = [name for name in PRIORS if prior_class(name).proper]
PAIRS = [(q, p) for q in POSTERIORS for p in PRIORS]
ALLOWED = [(q, p) for q, p in PAIRS if refusal(posterior_class(q), prior_class(p)) is None]


def posterior(name: str, scale: Tensor = SCALE, **options: int) -> Posterior:
    return posterior_class(name)(GROUPS, len(scale), scale, **options)


def prior(name: str, scale: Tensor = SCALE) -> Prior:
    return prior_class(name)(len(scale), scale)


def at_prior(name: str, p: Distribution) -> Posterior:
    """Return a posterior that equals a normal prior in every group, as far as it can."""
    q = posterior(name, p.stddev.detach())
    parts = [torch.zeros(WIDTH), p.stddev.log()]
    if name == "full_rank":
        tril = cholesky(p)
        row, column = torch.tril_indices(WIDTH, WIDTH, -1)
        parts = [torch.zeros(WIDTH), tril.diagonal().log(), tril[row, column]]
    elif name == "low_rank":
        parts.append(torch.zeros(q.table.shape[1] - 2 * WIDTH))
    elif name == "mixture":
        unequal = torch.tensor([0.3, -0.4])
        parts = [unequal, torch.zeros(2 * WIDTH), p.stddev.log().repeat(2)]
    elif name != "mean_field":  # joint and point start where they should be
        return q
    q.load_state_dict({"table": torch.cat(parts).detach().repeat(GROUPS, 1)})
    return q
