"""The fit of a generalised linear mixed model: its ELBO's maximum, found all at once.

Where latents enter a linear predictor at the output alone, E_q[log p(y | x, z)] of a class or a
count is one integral a row, and the ELBO a smooth function without noise. L-BFGS maximises it over
fixed effects, posteriors and priors together, in float64, each scaled by its curvature; the
criterion stops it, and no number of epochs. Under variances that are learned a posterior is told
in units of its prior's SDs, so that one which falls to 0 takes its groups along.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hlvnn.data.batches import Batches
from hlvnn.data.grouped import Split
from hlvnn.inference.chunks import rows_at_once
from hlvnn.inference.objective import expected_log_likelihood
from hlvnn.latents.latent import Latent
from hlvnn.latents.priors._variances import LearnedVariances
from hlvnn.latents.table import keeping_gradients_dense
from hlvnn.models.model import HierarchicalModel
from hlvnn.training.exact import ExactFit, fit_exactly

GAIN = 1e-6
"""Nats that one more Newton step may gain, by the scales, where L-BFGS stops."""
SMALLEST = 1e-6
"""SD to which one that vanishes is held: float32 tells no smaller ones' squares from 0."""
ROUNDS, EVALUATIONS = 8, 250
"""Scales are taken anew, where L-BFGS has not come so far after so many evaluations."""
RIDGE = 1e-8
"""Of the fixed effects' curvature, where columns say the same."""


@dataclass(frozen=True)
class FitAtOnce:
    """Such a fit: its ELBO in y's units, and how its maximum was found.

    newton_gain: what one more Newton step would gain of it, in nats, by the curvature at the start.
    """

    log_likelihood: float
    newton_gain: float
    evaluations: int
    stopped: str
    """Why L-BFGS stopped before it was done; empty where it was done."""

    @property
    def told(self) -> str:
        """What it says of itself, in a line."""
        end = f" (L-BFGS stopped early: {self.stopped})" if self.stopped else ""
        return (
            "fitted all at once, as a generalised linear mixed model: its ELBO's maximum is "
            f"{self.log_likelihood:.4f}, {self.evaluations} evaluations{end}; learning rate, batch "
            "size and epochs play no part"
        )


def fit_mixed_model(model: HierarchicalModel, train: Split) -> ExactFit | FitAtOnce:
    """Fit a mixed model to its maximum: of the likelihood where that is known, else of the ELBO."""
    return (fit_exactly if model.likelihood.is_normal else fit_at_once)(model, train)


def fit_at_once(model: HierarchicalModel, train: Split) -> FitAtOnce:
    """Set a model's parameters to the maximum of its ELBO."""
    from scipy import optimize  # slow to import, and no other fit needs it

    objective = _Objective(model, train)
    evaluations, gain, value = 0, math.inf, math.nan
    for _ in range(ROUNDS):
        objective.scale()
        found = optimize.minimize(
            objective,
            np.zeros(objective.size),
            jac=True,
            method="L-BFGS-B",
            options={
                "maxcor": 30,
                "maxfun": EVALUATIONS,
                "maxiter": EVALUATIONS,
                "ftol": 0.0,
                "gtol": math.sqrt(2 * GAIN / objective.size),
            },
        )
        evaluations += int(found.nfev)
        value, gradient = objective(found.x)
        gain = 0.5 * float(np.square(gradient).sum())
        if gain <= GAIN:
            break
    objective.hold()
    model.load_state_dict(objective.twin.state_dict())
    model.latents.refresh()
    return FitAtOnce(-value, gain, evaluations, "" if gain <= GAIN else str(found.message))


class _Objective:
    """Minus the ELBO in float64, of scaled moves [n] since `scale`; with its gradient."""

    def __init__(self, model: HierarchicalModel, train: Split) -> None:
        self.twin = copy.deepcopy(model).double().eval()
        size = rows_at_once(model, train, 1)
        self.batches = [
            batch._replace(x=batch.x.double())
            for batch in Batches(train, size, device=model.device)
        ]
        output = cast(Any, self.twin.backbone).output
        self.fixed = [output.weight, output.bias]
        taken = {id(p) for p in self.fixed}
        self.others = [p for p in self.twin.parameters() if p.requires_grad and id(p) not in taken]
        self.size = sum(p.numel() for p in self.parameters)
        latents = self.twin.latents
        self.relative = [
            x for x in latents if isinstance(x.prior, LearnedVariances) and x.posterior.natural
        ]
        self.is_begun = False

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is moved: the fixed effects' matrix and bias, then all else."""
        return [*self.fixed, *self.others]

    def scale(self) -> None:
        """Begin anew where the parameters are, each in units of its curvature there."""
        self.root, curvature = self._fixed_root()
        self.scales = self._scales(curvature)
        self.start = [p.detach().clone() for p in self.parameters]
        self.start_sds = [x.prior().stddev.detach().clone() for x in self.relative]
        self.is_begun = True

    @torch.no_grad()
    def hold(self) -> None:
        """Hold SDs that vanish, groups with them."""
        for latent in self.relative:
            size = (SMALLEST / latent.prior().stddev).clamp(min=1.0)
            latent.prior.resize(size)
            table = latent.posterior.table
            table.copy_(latent.posterior.in_size(table, size.repeat(2)))

    def _fixed_root(self) -> tuple[Tensor, float]:
        """Return L, L Lᵀ the fixed effects' curvature here, and a row's, on average."""
        total, curvature, rows = torch.zeros((), dtype=torch.float64), 0.0, 0
        for batch in self.batches:
            with torch.no_grad():
                design = cast(Any, self.twin.backbone).design(batch.x)
                own = self.twin.latents.at(batch.groups, unseen=False)
                mean, variance = self.twin.predictor_moments(batch.x, own)
            mean.requires_grad_()
            value = self.twin.likelihood.expected_log_prob(mean, variance, batch.y).sum()
            (score,) = torch.autograd.grad(value, mean, create_graph=True)
            (bend,) = torch.autograd.grad(score.sum(), mean)
            weight = (-bend).clamp(min=0)
            full = torch.cat([design, torch.ones_like(design[:, :1])], dim=1)
            total = total.to(full.device) + full.mT @ (weight * full)
            curvature, rows = curvature + float(weight.sum()), rows + len(batch.y)
        ridge = RIDGE * total.diagonal().mean() + torch.finfo(torch.float64).tiny
        eye = torch.eye(len(total), dtype=total.dtype, device=total.device)
        return torch.linalg.cholesky(total + ridge * eye), curvature / rows

    @torch.no_grad()
    def _scales(self, curvature: float) -> list[Tensor]:
        """Return the others' scales; posteriors begin as wide as their rows leave them."""
        scales = {id(p): torch.ones_like(p) for p in self.others}
        for latent in self.twin.latents:
            q = latent.posterior
            counts = self.twin.latents.counts(latent.level).to(torch.float64).unsqueeze(1)
            precision = latent.prior().variance.reciprocal() + curvature * counts
            for parameter in latent.prior.parameters():
                scales[id(parameter)].fill_(1 / math.sqrt(2 * max(1, len(counts))))
            if id(q.table) not in scales:
                continue
            if not self.is_begun:
                starts = [q.start(latent.width, one.cpu()) for one in precision.rsqrt()]
                q.table.copy_(torch.stack(starts))
            scale = scales[id(q.table)].fill_(math.sqrt(0.5))
            q.split(scale)[0].copy_(precision.rsqrt())
        return [scales[id(p)] for p in self.others]

    @torch.no_grad()
    def _set(self, moves: Tensor) -> None:
        width = len(self.root)
        fixed = torch.linalg.solve_triangular(self.root.mT, moves[:width, None], upper=True)[:, 0]
        weight, bias, *rest = self.start
        self.fixed[0].copy_(weight + fixed[:-1])
        self.fixed[1].copy_(bias + fixed[-1:])
        parts = moves[width:].split([p.numel() for p in self.others])
        moved = zip(self.others, rest, self.scales, parts, strict=True)
        for parameter, start, scale, part in moved:
            parameter.copy_(start + scale * part.view_as(parameter))
        for latent, sd in zip(self.relative, self.start_sds, strict=True):
            table = latent.posterior.table
            table.copy_(latent.posterior.in_size(table, (latent.prior().stddev / sd).repeat(2)))

    def __call__(self, moves: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Return minus the ELBO, in nats, and its gradient."""
        self._set(torch.from_numpy(moves).to(self.root))
        for parameter in self.parameters:
            parameter.grad = None
        total = 0.0
        with keeping_gradients_dense():
            for batch in self.batches:
                log_prob, kl = expected_log_likelihood(self.twin, batch, 1)
                loss = torch.stack([part.sum() for part in kl]).sum() - log_prob.sum()
                loss.backward()
                total += float(loss.detach())
        given = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        gradients = {id(p): own for p, own in zip(self.parameters, given, strict=True)}
        for latent, sd in zip(self.relative, self.start_sds, strict=True):
            self._follow(latent, latent.prior().stddev.detach() / sd, gradients)
        fixed = torch.cat([gradients[id(p)].flatten() for p in self.fixed])
        scaled = torch.linalg.solve_triangular(self.root, fixed[:, None], upper=False)[:, 0]
        others = [
            (gradients[id(p)] * scale).flatten()
            for p, scale in zip(self.others, self.scales, strict=True)
        ]
        return total, torch.cat([scaled, *others]).cpu().numpy()

    @torch.no_grad()
    def _follow(self, latent: Latent, size: Tensor, gradients: dict[int, Tensor]) -> None:
        """Make of gradients in q's parameters and log τ those in their ratios to τ, and log τ."""
        q, prior = latent.posterior, cast(LearnedVariances, latent.prior)
        own = gradients[id(q.table)]
        along = q.split(q.table)[0] * q.split(own)[0] + q.size_gradient(q.table, own)
        gradients[id(prior.log_sd)] = gradients[id(prior.log_sd)] + along.sum(0)
        own = own.clone()
        q.split(own)[0].mul_(size)
        gradients[id(q.table)] = own
