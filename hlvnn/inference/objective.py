"""The evidence lower bound: its unbiased minibatch form, and its value on the full data.

With z one draw per group and level,

    ELBO = Σ_i E_q[log p(y_i | x_i, z_g(i))] − Σ_levels Σ_g KL(q(z_g) ‖ p(z_g)),

and each row of a minibatch carries its group's share of the KL, KL_g / n_g, so that the mean over
a random batch is an unbiased estimate of −ELBO / N, at a cost that does not grow with the groups.
Where q is read off the group's rows (`amortised`) the encoder has to be right for groups of any
size. It alone also learns from the ELBO of random parts of groups (`parts_loss`). The rest must
not: a few rows are worth little of a latent, and all that the network would learn is to do without.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hlvnn.data.batches import Batch, Batches
from hlvnn.data.grouped import Split
from hlvnn.inference.chunks import rows_at_once
from hlvnn.latents.strata import is_kl_sampled, stratified
from hlvnn.marks import KL, LAWS, LIKELIHOOD, marking
from hlvnn.models.model import HierarchicalModel
from hlvnn.random import seeding

KL_RUNS = 32
"""Times that `full_elbo` estimates a KL that has no closed form."""


@dataclass(frozen=True)
class BatchLoss:
    """Means over the rows of a batch: loss = nll + β Σ kl."""

    loss: Tensor
    nll: Tensor
    kl: list[Tensor]
    """One per latent: mean over rows of KL_g / n_g."""
    gap: Tensor | None = None
    """By how much a bound that is trained on in the ELBO's place exceeds it."""


@dataclass(frozen=True)
class Elbo:
    """The full-data ELBO at β = 1, in y's units."""

    value: float
    standard_error: float
    """0 where the value is exact."""
    log_likelihood: float
    """Σ_i E_q[log p(y_i | x_i, z)]."""
    kl: dict[str, float]
    """Σ_g KL(q_g ‖ p) of each latent."""


def has_closed_form(model: HierarchicalModel) -> bool:
    """Return whether E_q[log p(y | x, z)] is exact without sampling."""
    return model.likelihood.closed_form and model.is_linear_at_output


def expected_log_likelihood(
    model: HierarchicalModel,
    batch: Batch,
    num_samples: int,
    *,
    unseen: bool = False,
    in_part: bool = False,
) -> tuple[Tensor, list[Tensor]]:
    """Return E_q[log p(y | x, z)] and each latent's KL_g / n_g for every row, [B] each.

    Exact where there is a closed form; otherwise the mean over `num_samples` draws, from
    every component of a mixture. in_part: a law that is read off its group's rows is read off a
    random part C of them, to which the row belongs, and the KL is that law's over |C|.
    """
    exact = has_closed_form(model)
    index = batch.index if in_part else None
    with marking(LAWS):
        rows = model.latents.at(batch.groups, unseen=unseen, distinct=exact, index=index)
    if exact:
        mean, variance = model.predictor_moments(batch.x, rows)
        with marking(LIKELIHOOD):
            log_prob = model.likelihood.expected_log_prob(mean, variance, batch.y)
    else:
        samples = num_samples if model.is_sampling else 1
        with marking(LAWS):
            draws, weights = stratified(model.latents, rows, samples)
        eta = model(batch.x, draws)
        with marking(LIKELIHOOD):
            log_prob = model.likelihood.log_prob(eta[0] if len(eta) == 1 else eta, batch.y)
            if len(eta) > 1:
                log_prob = log_prob.mean(0) if weights is None else (weights * log_prob).sum(0)
    with marking(KL):
        return log_prob, model.latents.kl_rows(rows)


def batch_loss(
    model: HierarchicalModel, batch: Batch, beta: float | Tensor, num_samples: int
) -> BatchLoss:
    """Return the loss of a training batch at the KL weight β."""
    return _loss(*expected_log_likelihood(model, batch, num_samples), beta)


def parts_loss(
    model: HierarchicalModel, batch: Batch, beta: float | Tensor, num_samples: int
) -> BatchLoss:
    """Return the loss of random parts of the groups of a training batch, for encoders."""
    return _loss(*expected_log_likelihood(model, batch, num_samples, in_part=True), beta)


def _loss(log_prob: Tensor, kl_rows: list[Tensor], beta: float | Tensor) -> BatchLoss:
    nll = -log_prob.mean()
    kl = [rows.mean() for rows in kl_rows]
    loss = nll
    for term in kl:
        loss = loss + beta * term
    return BatchLoss(loss, nll, kl)


@torch.no_grad()
def full_elbo(
    model: HierarchicalModel,
    train: Split,
    *,
    num_samples: int = 20,
    batch_size: int | None = None,
    seed: int = 0,
) -> Elbo:
    """Return the ELBO of the training rows at β = 1.

    Exact with a closed form or where nothing is random; otherwise an estimate from `num_samples`
    draws, with the standard error of their mean. So is a KL without a closed form (a mixture's),
    from `KL_RUNS` runs.
    batch_size: rows × draws at a time; None = what is quick.
    """
    if model.latents.law is not None:
        return _exact_elbo(model, train)
    was_training = model.training
    model.eval()
    exact = has_closed_form(model) or not model.is_sampling
    draws = 1 if exact else num_samples
    totals = torch.zeros(draws, dtype=torch.float64)
    size = rows_at_once(model, train, draws) if batch_size is None else batch_size // draws or 1
    with seeding(seed, model.device):
        for batch in Batches(train, size, device=model.device):
            rows = model.latents.at(batch.groups, unseen=False)
            if has_closed_form(model):
                mean, variance = model.predictor_moments(batch.x, rows)
                log_prob = model.likelihood.expected_log_prob(mean, variance, batch.y)[None]
            else:
                eta = model(batch.x, model.latents.sample(rows, draws))
                log_prob = model.likelihood.log_prob(eta, batch.y)
            totals += log_prob.double().sum(-1).cpu()
        with seeding(seed, model.device):
            runs = KL_RUNS if len(model.latents) and is_kl_sampled(model.latents) else 1
        divergences = torch.tensor(
            [model.latents.kl_totals() for _ in range(runs)], dtype=torch.float64
        )
    model.train(was_training)
    names = [latent.name for latent in model.latents]
    kl = dict(zip(names, divergences.mean(0).tolist(), strict=True))
    log_likelihood = float(totals.mean())
    sampled = ([] if exact else [totals]) + ([divergences.sum(1)] if runs > 1 else [])
    error = math.hypot(*(float(part.std()) / math.sqrt(len(part)) for part in sampled))
    return Elbo(log_likelihood - sum(kl.values()), error, log_likelihood, kl)


def _exact_elbo(model: HierarchicalModel, train: Split) -> Elbo:
    """Return the same in float64, of a model whose latents have an exact law: log p(y)."""
    law = model.latents.law
    twin = copy.deepcopy(model, {id(law): law}).double().eval()
    total = torch.zeros((), dtype=torch.float64)
    for batch in Batches(train, rows_at_once(model, train, 1), device=model.device):
        rows = twin.latents.at(batch.groups, unseen=False)
        mean, variance = twin.predictor_moments(batch.x.double(), rows)
        total += twin.likelihood.expected_log_prob(mean, variance, batch.y).sum().cpu()
    names = [latent.name for latent in model.latents]
    kl = dict(zip(names, twin.latents.kl_totals(), strict=True))
    return Elbo(float(total) - sum(kl.values()), 0.0, float(total), kl)
