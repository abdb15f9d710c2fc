"""Steps of the groups' posteriors, of their priors and of the noise, each in its own units.

A posterior moves by natural gradients: its mean by its own covariance times the gradient of the
batch's sum. A group's mean so takes a whole step for each time that all its rows were seen,
whatever the network's learning rate; while they are seen first the covariance is that of the rows
so far, and the steps are Bayes' rule, row after row. Later passes take smaller steps, so that a
mean is one over passes and not the last rows'.

A prior moves by EM, and by Newton steps in the size of z with z/τ held: together PX-EM (Liu, Rubin
and Wu 1998), which does not stick where rows tell little of a group. Newton steps in the size of
all means, and of all SDs, make up for the groups that a batch does not hold.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from hlvnn.inference.objective import has_closed_form
from hlvnn.latents.latent import Latent
from hlvnn.latents.latent_set import LatentSet
from hlvnn.latents.posteriors.base import POSTERIOR_START
from hlvnn.models.model import HierarchicalModel
from hlvnn.training.latent_steps import LARGEST_SIZE_STEP, LatentSteps
from hlvnn.training.links import LinkedSteps
from hlvnn.training.pace import PASSES, Pace, Running

TOGETHER = 8
"""Batches that are one to the groups, at most, for the time that their steps take."""
LEAST_MOVES = 10
"""Moves of the groups in an epoch, at least, if it has as many batches."""
EM_STEPS = 10.0
"""Steps of a prior and of the noise in an epoch, at most one at a time."""
SIZE_STEPS = 15.0
"""Newton steps of a latent's size in an epoch, at most one at a time."""
WAY_OF_SMALL, LARGEST_OF_SHORT = 5.0, 0.1
"""Way that the log of the size of a latent which starts small can go in a fit, at least; steps of
short fits are larger for it, up to so much a batch."""
LARGEST_NOISE_STEP = 0.5
"""Largest step of the log of the noise's SD."""
TINY = 1e-30
"""Added to what is divided by."""


def natural(latents: LatentSet, per_epoch: int) -> list[Latent]:
    """Return the latents that take natural steps; the others are left to Adam.

    Their posteriors know them and are not frozen. What depends on another, or is depended on, takes
    them with it or not at all, and not where a batch is all rows.
    """
    found = [
        latent
        for latent in latents
        if latent.posterior.natural
        and latent.posterior.table.requires_grad
        and latent.centred
        and latent.prior.normal
        and not latent.dense
    ]
    upper = {name for latent in latents for name in (latent.given_name, latent.parent_name)}
    linked = {x.name for x in latents if x.given_name or x.parent_name or x.name in upper}
    found = [x for x in found if x.posterior.linked or x.name not in linked]
    while True:
        names = {latent.name for latent in found}
        left = {x.name for x in latents if x.name not in names}
        above = {n for x in latents if x.name in left for n in (x.given_name, x.parent_name)}
        kept = [
            latent
            for latent in found
            if latent.name not in above
            and not {latent.given_name, latent.parent_name} & left
            and (per_epoch > 1 or not (latent.given_name or latent.parent_name))
        ]
        if len(kept) == len(found):
            return found
        found = kept


class GroupSteps:
    """All steps of a fit that do not go by the network's learning rate.

    warm_steps: how long latents that start small wait at z = 0, of `total` steps of the fit. bound:
    whether an importance-weighted bound is maximised in the ELBO's place: all is left to Adam then.

    In a long epoch the groups move after every few batches, while the network takes a step for
    each: a group is in few of them, and what many small ones cost is mostly Python. On a GPU, where
    steps are recorded, each batch counts.
    """

    def __init__(
        self,
        model: HierarchicalModel,
        per_epoch: int,
        warm_steps: float,
        total: float = math.inf,
        *,
        bound: bool,
    ) -> None:
        self.latents, self.per_epoch = model.latents, per_epoch
        self.count = 0
        together = min(TOGETHER, max(1, per_epoch // LEAST_MOVES))
        self.together = together if model.device.type == "cpu" else 1
        self._forget()
        exact = has_closed_form(model)
        self.passes = 1.0 if exact and per_epoch == 1 else PASSES
        self.natural = natural(model.latents, per_epoch)
        if bound:
            self.natural = []
        self._leave_to_adam()
        self.steps = self._steps(exact=exact)
        self.linked = [one for one in self.steps if isinstance(one, LinkedSteps)]
        small = [] if per_epoch == 1 or warm_steps < 1 else self.steps
        self.waiting = [one for one in small if one.may_wait]
        for one in self.waiting:
            one.wait()
            one.largest = max(LARGEST_SIZE_STEP, min(LARGEST_OF_SHORT, WAY_OF_SMALL / total))
        self._hold()
        self.coupling = Running(torch.zeros((), device=model.device), self.together)
        # full batches of closed forms read no rows: what is coupled at most
        self.coupled = sum(1 if x.posterior.full else x.width for x in self.natural)
        self.latents.by_row = len(self.steps) > 1 and not any(one.whole for one in self.steps)
        self.bias = model.backbone.output_bias()
        self.noise = [] if bound else model.likelihood.log_sds()

    def _steps(self, *, exact: bool) -> list[LatentSteps]:
        """Return the steps of all latents that take natural ones, in their order."""
        names = [x.given_name or x.parent_name for x in self.natural]
        found: dict[str, LatentSteps] = {}
        for latent, upper in zip(self.natural, names, strict=True):
            what = latent, self.latents.counts(latent.level), self.per_epoch, self.together
            if upper is None and latent.name not in names:
                found[latent.name] = LatentSteps(*what, exact=exact)
                continue
            above = None if upper is None else found[upper]
            assert above is None or isinstance(above, LinkedSteps)
            found[latent.name] = LinkedSteps(*what, above, exact=exact)
        return list(found.values())

    def _forget(self) -> None:
        self.batches, self.rows = 0, 0.0  # since the groups moved last

    @torch.no_grad()
    def _leave_to_adam(self) -> None:
        """Start posteriors that Adam moves as narrow as it needs, where they are not fitted yet."""
        for latent in self.latents:
            q = latent.posterior
            moved = q.natural and q.table.requires_grad and latent.centred and latent.prior.normal
            fitted = any(latent is one for one in self.natural) or q.is_fitted()
            if moved and not fitted:
                q.set_law(POSTERIOR_START * latent.prior().stddev)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters that are moved here, but tables."""
        return [p for x in self.natural for p in x.prior.advanced()] + self.noise

    def _hold(self) -> None:
        waiting = [one.latent for one in self.waiting]
        self.latents.held = {i for i, x in enumerate(self.latents) if any(x is y for y in waiting)}

    @property
    def is_warming_large(self) -> bool:
        """Whether some latent takes part from the beginning."""
        return len(self.waiting) < len(self.latents)

    def start(self) -> None:
        """Let those latents begin that have waited at z = 0."""
        for one in self.steps:
            one.forget()
        for parameter in self.parameters:
            parameter.grad = None
        self._forget()
        for one in self.waiting:
            one.begin(1 / len(self.waiting))
        self.coupling.forget()  # it was that of latents at nothing
        self.waiting = []
        self._hold()

    def release(self) -> None:
        """Leave the model as it was taken: tables of z itself, which have gradients."""
        for one in self.steps:
            one.release()
        self.latents.held, self.latents.by_row = set(), False

    def watch(self, groups: Tensor) -> None:
        """Keep what the next loss reads of the groups of its rows, [B, L]."""
        for one in self.steps:
            one.watch(groups)

    @torch.no_grad()
    def move(self, size: float, beta: float | Tensor, pace: Pace, *, warming: bool) -> None:
        """Take in the loss' gradients, and move everything when it is time to.

        size: by what they are multiplied to be the batch's sum. warming: whether priors, and with
        them the noise, are held.
        """
        for one in self.steps:
            one.keep(size)
        self.count, self.batches, self.rows = self.count + 1, self.batches + 1, self.rows + size
        place = self.count % self.per_epoch
        if place % self.together == 0:  # 0 at an epoch's end: nothing is left for the next
            self._move(beta, pace, warming=warming)
            for parameter in self.parameters:
                parameter.grad = None
            self._forget()

    def _move(self, beta: float | Tensor, pace: Pace, *, warming: bool) -> None:
        for parameter in self.parameters:
            if self.batches > 1 and parameter.grad is not None:
                parameter.grad /= self.batches
        noise = [parameter.grad for parameter in self.noise]
        excess: float | Tensor = 1.0
        if noise and noise[0] is not None:  # the squared score over the curvature
            excess = (1 - noise[0]).clamp(min=1e-3)
        damping = self._look(beta, excess, pace)
        shift: float | Tensor = 0.0
        part = self.batches / self.per_epoch
        resized = 0.0 if warming else min(1.0, SIZE_STEPS * part)
        moving = [one for one in self.steps if one not in self.waiting]
        for one in moving:
            if isinstance(one, LinkedSteps):
                one.follow(damping)
            how = (beta, pace, damping)
            shift = shift + one.move(self.rows, *how, resized=resized, telling=bool(noise))
        if warming and self.is_warming_large:
            return
        rate = min(1.0, EM_STEPS * part)
        for one in moving:
            one.advance(rate * pace.priors, pace.floor, beta)
        for parameter, gradient in zip(self.noise, noise, strict=True):
            if gradient is not None:
                step = 0.5 * rate * pace.noise * (gradient - shift)
                parameter.sub_(step.clamp(-LARGEST_NOISE_STEP, LARGEST_NOISE_STEP))

    def _look(self, beta: float | Tensor, excess: float | Tensor, pace: Pace) -> float | Tensor:
        """Have all find their steps; return by what they are damped."""
        for one in self.steps:
            one.look(beta, excess)
        for linked in reversed(self.linked):
            linked.rise()
        for linked in self.linked:
            linked.gauge()
        with self.latents.source.lending(not all(x.is_drawn_by_noise for x in self.natural)):
            for one in self.steps:  # a mixture's steps draw
                one.decide(beta, pace)
        damping = self._damping(beta)
        for linked in self.linked:
            linked.foresee(beta, damping)
        for linked in reversed(self.linked):
            linked.foretell()
        return damping

    def recentre(self) -> None:
        """Leave what all groups have in common to the output's bias, where there is one."""
        if self.bias is None or not self.bias.requires_grad:
            return
        for one in self.steps:
            if one not in self.waiting:
                one.recentre(self.bias)

    def _damping(self, beta: float | Tensor) -> float | Tensor:
        """Return what keeps the latents' steps, taken together, from going too far.

        Each dimension's is right alone. Along the step that all take together the loss may bend
        more than the sum of what each knows: by how much is measured.
        """
        if self.coupled <= 1:
            return 1.0
        if any(one.whole for one in self.steps):
            return 1 / self.coupled
        bends = zip(*(one.bends(beta) for one in self.steps), strict=True)
        prior, data, squares, along = (torch.stack(parts).sum(0) for parts in bends)
        together = data * along.square().sum() / (squares + TINY)
        self.coupling.add((prior + together) / (prior + data + TINY))
        return 1 / self.coupling.mean.clamp(min=1.0)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {
            "coupling": self.coupling.state_dict(),
            "latents": [one.state_dict() for one in self.steps],
            "waiting": bool(self.waiting),
            "count": self.count,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what a checkpoint kept."""
        self.coupling.load_state_dict(state["coupling"])
        self.count = state["count"]
        for one, saved in zip(self.steps, state["latents"], strict=True):
            one.load_state_dict(saved)
        if not state["waiting"]:
            self.waiting = []
            self._hold()
