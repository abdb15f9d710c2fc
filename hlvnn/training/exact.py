"""Which models are fitted all at once, and the exact fit: a mixed model's maximum likelihood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from hlvnn.config import TrainConfig
from hlvnn.data.grouped import Split
from hlvnn.inference.exact_laws import law_of
from hlvnn.inference.mixed_model import System
from hlvnn.inference.row_sums import largest_of, layout_of, row_sums
from hlvnn.latents.latent import Latent
from hlvnn.latents.placements.base import LinearPlacement
from hlvnn.latents.priors.base import Prior
from hlvnn.models.model import HierarchicalModel
from hlvnn.training.minimising import Found, minimise

MOST_COLUMNS = 4000
"""Coordinates of all levels but the largest, of which a dense Cholesky factor is taken."""
MOST_ROWS = 300_000
"""Rows of a generalised mixed model, whose each evaluation takes an integral a row."""
MOST_BYTES = 2**31
"""What the largest level's blocks may take."""


def is_mixed_model(model: HierarchicalModel) -> bool:
    """Return whether it is a linear mixed model, or a generalised one (of a class or a count).

    Not where somebody asked for posteriors.
    """
    likelihood = model.likelihood
    return (
        model.backbone.is_linear
        and (likelihood.is_normal or (likelihood.closed_form and likelihood.num_outputs == 1))
        and len(model.latents) > 0
        and not any(latent.asked for latent in model.latents)
    )


def why_not_exact(model: HierarchicalModel, config: TrainConfig) -> str | None:
    """Return why a mixed model (see `is_mixed_model`) is not fitted at once, None where it is."""
    settings = {
        "--objective": (config.objective, "elbo"),
        "--kl-weight": (config.kl_weight, 1.0),
        "--kl-annealing": (config.kl_annealing, 0.0),
        "--weight-decay": (config.weight_decay, 0.0),
        "--augment": (config.augment, 0.0),
    }
    for flag, (value, needed) in settings.items():
        if value != needed:
            return f"{flag} {value} is not {needed}"
    for latent in model.latents:
        counts = model.latents.counts(latent.level)
        if (reason := _why_not(latent)) is not None:
            return f"latent {latent.name} {reason}"
        many = len(counts) * latent.width >= int(counts.sum())
        if latent.prior.full and many and model.likelihood.is_normal:
            return (
                f"latent {latent.name} has as many coordinates in all groups as there are rows, "
                "so that under a full covariance the likelihood may have no maximum"
            )
    if not all(parameter.requires_grad for parameter in _set(model)):
        return "some of its parameters are held (requires_grad is off)"
    if not model.likelihood.is_normal:
        return _why_too_large(model)
    largest, columns = largest_of(model)
    if columns > MOST_COLUMNS:
        return (
            f"its levels but the largest have {columns:,} coordinates together, more than "
            f"{MOST_COLUMNS:,}"
        )
    width = layout_of(model).widths[largest]
    size = 8 * 5 * width**2 * len(model.latents.counts(largest))
    if size > MOST_BYTES:
        return f"its largest level's {width} coordinates a group would take {size:,} bytes"
    return None


def _why_too_large(model: HierarchicalModel) -> str | None:
    """Return why a generalised mixed model is too large to be fitted at once."""
    rows = int(model.latents.counts(model.latents[0].level).sum())
    columns = sum(p.numel() for p in model.backbone.parameters())
    if rows > MOST_ROWS or columns > MOST_COLUMNS:
        return (
            f"{rows:,} rows and {columns:,} fixed effects are more than {MOST_ROWS:,} or "
            f"{MOST_COLUMNS:,}"
        )
    return None


def told_by_minibatches(model: HierarchicalModel, config: TrainConfig) -> str:
    """Return what a mixed model says that is not fitted at once."""
    other = "exactly" if model.likelihood.is_normal else "all at once"
    return f"fitted by minibatches and not {other}: {why_not_exact(model, config)}"


def _why_not(latent: Latent) -> str | None:
    if not latent.prior.learned or type(latent.prior).take is Prior.take:
        return f"has prior {type(latent.prior).__name__}, whose covariance is not learned"
    for placement in latent.entries():
        if not isinstance(placement, LinearPlacement) or list(placement.parameters()):
            return f"passes trained loadings ({type(placement).__name__})"
    return None


def _set(model: HierarchicalModel) -> list[Tensor]:
    """Return the parameters that an exact fit sets, the posteriors' left out."""
    priors = [p for latent in model.latents for p in latent.prior.parameters()]
    return [*model.backbone.parameters(), *model.likelihood.parameters(), *priors]


@dataclass(frozen=True)
class ExactFit:
    """An exact fit: its log likelihood in y's units, and how its minimum was found."""

    log_likelihood: float
    found: Found

    @property
    def newton_gain(self) -> float:
        """What one more Newton step would gain of log p(y), in nats."""
        return self.found.newton_gain

    @property
    def told(self) -> str:
        """What it says of itself, in a line."""
        return (
            f"fitted exactly, as a linear mixed model by maximum likelihood: −2 log p(y) = "
            f"{-2 * self.log_likelihood:.4f}, {self.found.evaluations} evaluations; learning "
            "rate, batch size and epochs play no part (a posterior that is named is fitted by "
            "its ELBO)"
        )


def fit_exactly(model: HierarchicalModel, train: Split) -> ExactFit:
    """Set a model's parameters to the maximum of its likelihood, and its latents' law to the exact.

    The law is that at the parameters as they are kept, in float32, so that its ELBO is log p(y).
    """
    sums = row_sums(model, train)
    found = minimise(sums, [latent.prior.full for latent in model.latents])
    system = System(sums, found.factors)
    beta, variance = system.effects()
    _set_parameters(model, found.factors, beta, variance)
    law, log_likelihood = law_of(model, sums)
    model.latents.law = law.to(model.device)
    if (under := model.latents.under_law) is not None:
        under.write_marginals()
    return ExactFit(log_likelihood, found)


@torch.no_grad()
def _set_parameters(
    model: HierarchicalModel, factors: dict[int, Tensor], beta: Tensor, variance: float
) -> None:
    cast(Any, model.backbone).output.bias.copy_(beta[:1])
    cast(Any, model.backbone).output.weight.copy_(beta[None, 1:])
    cast(Any, model.likelihood).log_noise.fill_(
        0.5 * torch.tensor(variance, dtype=torch.float64).log()
    )
    for (level, own), latent in zip(layout_of(model).at, model.latents, strict=True):
        latent.prior.take(factors[level][own, own].to(model.device) * variance**0.5)
