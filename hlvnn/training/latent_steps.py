"""The steps of one latent: its groups' laws, their size, its prior's start."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hlvnn.latents.covariance import diagonal, times
from hlvnn.latents.divergence import precision_of
from hlvnn.latents.latent import Latent
from hlvnn.latents.posteriors.base import Sight, weight_of
from hlvnn.latents.table import is_dense
from hlvnn.training.pace import TINY, Pace, Running
from hlvnn.training.starting import Starting

LARGEST_SIZE_STEP = 0.02
"""Largest step of the log of a size for each batch that is taken in."""
LARGEST_OF_WHOLE = 0.5
"""The same where a batch is all rows."""
RUNNING = ("curvature", "bend", "mean_bend")
"""Running means of a latent that a checkpoint keeps."""
SMALL_TABLE = 1 << 15
"""Numbers of a table up to which it is itself resized, for want of a size beside it."""
LEAST_SHARE = 1e-3
"""Least share of a group's rows in a batch; below it what follows from it does not change."""


class LatentSteps(Starting):
    """The steps of one latent with a natural posterior and an independent, normal prior.

    counts: [G] int64, training rows of the groups. together: batches that are one to them. exact:
    whether the gradient of q's spread is without noise. whole: whether laws are read group by
    group, of batches of all rows.

    `keep` takes what the loss of a batch told; all that was kept is one batch to what follows.
    Between `look` and `move` it holds what that tells: `found` [U] int64, its groups; `now`
    [U, P], their parameters; `total` [U, P], the gradient of the batch's sum; `steps` [U, K·Z],
    where the means would go, `factor` of a whole step, and `step` [U, Z], where that takes the law;
    `others`, its other parameters then; `own` [B, Z], each row's gradient without the KL (rows at
    `inverse`).
    """

    def __init__(
        self, latent: Latent, counts: Tensor, per_epoch: int, together: int, *, exact: bool
    ) -> None:
        self.latent, self.q, self.counts = latent, latent.posterior, counts
        self.is_one_batch, self.exact = per_epoch == 1, exact
        self.largest = LARGEST_SIZE_STEP
        self.whole = exact and self.is_one_batch
        width = latent.width
        zero = torch.zeros(width, device=counts.device)
        self.kept: list[tuple[Tensor, Tensor, Tensor]] = []
        self.kept_rows: list[Tensor] = []
        self.is_fitted = self.q.is_fitted()
        self.seen = counts.clone() if self.is_fitted else torch.zeros_like(counts)
        self.has_matrix = self.q.has_matrix or latent.prior.full
        like = zero.new_zeros(width, width) if self.has_matrix else zero
        self.curvature = Running(like, together)
        self.bend, self.mean_bend = Running(zero, together), Running(zero, together)
        self.rows, self.groups = float(counts.sum()), float((counts > 0).sum())
        self.first = zero.clone()  # SD at which a latent that starts small began
        self.allowed = zero.new_full((), torch.inf)  # τ² h at which its noise costs what it may
        self.size = torch.ones(2 * width, device=counts.device)
        if self.q.table.numel() > SMALL_TABLE:
            self.q.size = self.size
        self.q.is_stepped = True
        self.q.table.requires_grad_(False)

    def release(self) -> None:
        """Leave the posterior as it was taken: a table of z itself, which has gradients."""
        self.q.settle()

    def watch(self, groups: Tensor) -> None:
        """Keep in `Posterior.reads` what the next loss reads of the groups of its rows [B, L]."""
        self.q.reads = []
        self.kept_rows.append(groups[:, self.latent.level].long())

    def forget(self) -> None:
        """Forget what was kept."""
        self.kept, self.kept_rows = [], []

    @torch.no_grad()
    def keep(self, size: float) -> None:
        """Take what the loss' gradients tell, `size` times as large as of a batch's mean."""
        for group, leaf in self.q.reads or []:
            if leaf.grad is not None:
                self.kept.append((group, leaf.detach(), leaf.grad * size))
        self.q.reads = None

    @torch.no_grad()
    def look(self, beta: float | Tensor, excess: float | Tensor) -> None:
        """Read off what was kept, and forget it.

        excess: the squared score over the curvature, on average.
        """
        self.batches = len(self.kept_rows)
        group, values, gradient = map(_together, zip(*self.kept, strict=True))
        rows = _together(tuple(self.kept_rows))
        self.forget()
        if is_dense():  # as a recorded step needs it: all groups, most with nothing to tell
            self.found = torch.arange(len(self.counts), device=group.device)
            self.inverse = group
            self.now = self._sized(self.q.table.detach().clone(), self.size)
        else:
            self.found, self.inverse = group.unique(return_inverse=True)
            self.now = values.new_empty(len(self.found), values.shape[1])
            self.now.index_copy_(0, self.inverse, values)
        self.total = torch.zeros_like(self.now).index_add_(0, self.inverse, gradient)
        n = self.counts[self.found].clamp(min=1)
        at = rows if is_dense() else torch.searchsorted(self.found, rows)
        held = torch.zeros_like(n).index_add_(0, at, torch.ones_like(at))
        self.seen.index_add_(0, self.found, held)
        self.n = n.unsqueeze(1).to(self.now)
        self.share = held.unsqueeze(1) / self.n
        self.precision = precision_of(self.latent.prior())
        pulled = beta * times(self.precision, self.around())
        self.pulled, self.excess = self.share * pulled, excess
        self.lift: float | Tensor = 0.0  # what a latent above takes along
        if self.whole:
            return
        self.own = self.q.of_mean(gradient) - (pulled / self.n)[self.inverse]
        self.scores: Tensor | None = None
        if self.q.strata > 1:
            each = self.counts[group].unsqueeze(1)

            def pull(z: Tensor) -> Tensor:
                return beta * (times(self.precision, z) / each)

            known = isinstance(excess, Tensor)
            self.scores = self.q.scores(values, gradient, pull, of_draws=known)

    def around(self) -> Tensor:
        """Return the means of the groups `found` less their prior's, [U, Z]."""
        return self._mean(self.now)

    def stiffness(self) -> Tensor | None:
        """Return what others' KL adds to the precision of the groups `found` (see `Sight`)."""
        return None

    def _stiff(self, step: Tensor) -> Tensor:
        """Return the precision of the groups' prior, with what others add, times steps [U, Z]."""
        return times(self.precision, step)

    @torch.no_grad()
    def decide(self, beta: float | Tensor, pace: Pace) -> None:
        """Find `step`, and what the spread becomes, by what `look` and links read off."""
        if not self.whole:
            scores = self.own if self.scores is None else self.scores
            square = (
                scores.mT @ scores / len(scores) if self.has_matrix else scores.square().mean(0)
            )
            self.curvature.add(square / self.excess)
        seen = self.seen[self.found].unsqueeze(1).to(self.now)
        sight = Sight(
            self.share,
            self.n,
            torch.minimum(seen, self.n),
            self.precision,
            None if self.exact else self.curvature.mean,
            beta,
            self.stiffness(),
        )
        self.factor = pace.finding if self.latent.starts_small else pace.means
        self.steps, self.others = self.q.natural_step(self.now, self.total, sight, self.factor)
        self.step = self.q.on_average(self.now, self.steps)

    def bends(self, beta: float | Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return how the batch's loss bends along `step`, a natural step times `factor`.

        The prior's part; the data's, by what q knows; and by each row's own gradient: the sum over
        dimensions, each alone, and what they make together, [B], before it is squared.
        """
        prior = (self.share * self.step * self._stiff(self.step)).sum() * beta
        all_ = -self.factor * (self.share * self.step * self.q.of_mean(self.total)).sum()
        each = self.own * self.step[self.inverse]
        return prior, (all_ - prior).clamp(min=0), each.square().sum(), each.sum(1)

    @torch.no_grad()
    def move(
        self,
        size: float,
        beta: float | Tensor,
        pace: Pace,
        damping: float | Tensor,
        *,
        resized: float,
        telling: bool,
    ) -> Tensor | float:
        """Move the groups; where the prior is learned their size with it, by `resized` of a step.

        size: rows of the batch. Returns, if `telling`, what the moves change of the batch's mean
        squared residual, in noise variances.
        """
        q, (means, others) = self.q, self.q.split(self.now)
        moved = q.joined(means + self.steps * damping + self.lift, self.others)
        kept_rows = self._sized(moved, 1 / self.size)
        if is_dense():  # groups that are not in the batch stay
            kept_rows = torch.where(self.share > 0, kept_rows, q.table.data)
        q.table.data.index_copy_(0, self.found, kept_rows)
        resizing = resized > 0 and self.is_learning
        if not (resizing or telling):
            return 0.0
        # A law holds each row with the weight of its last pass, which has faded since and is
        # renewed by this step: where all rows weigh the same lies between before and after.
        factor = self.factor * damping
        between, of_spread = self._between(factor), self._between(1.0)
        lag, step = between / factor, self.step * damping
        gradient = q.of_mean(self.total)
        of_data = gradient - self.pulled
        bent = -factor * step * gradient - beta * step * self._stiff(step)
        shift = (2 * lag * of_data * step + lag.square() * self.share * bent).sum() / size
        if resizing:
            law = q.joined(
                means + lag * (self.steps * damping), others.lerp(self.others, of_spread)
            )
            gradient = gradient * (1 - self.share * between)
            left = 1 - self.share * of_spread
            part = resized * pace.priors * damping
            self._resize(size, beta, part, pace.floor, law, gradient, left)
        return shift

    def _mean(self, rows: Tensor) -> Tensor:
        return self.q.on_average(rows, self.q.split(rows)[0])

    def _sized(self, rows: Tensor, size: Tensor) -> Tensor:
        return rows if self.q.size is None else self.q.in_size(rows, size)

    def _between(self, factor: float | Tensor) -> Tensor:
        """Return how far on a step's way all rows weigh the same, times `factor`: [U, 1]."""
        share = self.share.clamp(min=LEAST_SHARE)
        kept = (1 - factor * share).clamp(min=0) ** (1 / share)
        return 1 - factor * kept / (1 - kept)

    def _resize(
        self,
        size: float,
        beta: float | Tensor,
        part: float | Tensor,
        floor: float | Tensor,
        law: Tensor,
        gradient: Tensor,
        left: Tensor,
    ) -> None:
        """Take Newton steps in the size of z with its prior, of its means, and of its SDs.

        part: how much of a whole step. floor: see `Pace`. law: [U, P], at which they are taken;
        gradient: [U, Z], of its means; left: [U, 1], what is left there of its spread's gradient.
        """
        q, share, mean = self.q, self.share, self._mean(law)
        covariance = q.covariance(law)
        variance = covariance.variance()
        prior, weight = diagonal(self.precision, 1), weight_of(beta)
        of_means = mean * gradient
        of_data = of_means - beta * share * mean * times(self.precision, mean)
        if self.exact:
            before = q.covariance(self.now)
            of_spread = q.size_gradient(self.now, self.total)
            of_noise = of_spread - beta * share * (before.trace(self.precision) - 1)
            curvature = weight * share * (covariance.precision() - prior).clamp(min=0)
            of_data = of_data + of_noise * variance / before.variance()
            spreads = 0.5 / weight * (left * of_spread).sum(0) * self.rows / self.groups
        else:  # what draws tell of the spread is noise, and its mean is known
            curvature = share * self.n * diagonal(self.curvature.mean, 1)
            of_data = of_data + curvature * variance
            spreads = torch.zeros_like(self.first)
        rate = part / size
        self.bend.add((curvature * (mean.square() + variance)).sum(0) / size)
        self.mean_bend.add(((curvature + beta * share * prior) * mean.square()).sum(0) / size)
        together, means = self._size_steps(rate, floor, of_data, of_means)
        spreads = self._limited(rate * spreads)
        change = torch.exp(-torch.cat([together + means, together + spreads]))
        if q.size is None:
            q.table.data.copy_(q.in_size(q.table.data, change))
        else:
            self.size.mul_(change)
        self.latent.prior.resize(torch.exp(-together))

    def _size_steps(
        self, rate: float | Tensor, floor: float | Tensor, of_data: Tensor, of_means: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return Newton steps [Z] of the logs of the sizes of z with its prior, and of means alone.

        of_data, of_means: [U, Z], the groups' gradients; `bend` and `mean_bend` are up to date.
        """
        together = self._limited(rate * of_data.sum(0) / self.bend.mean.clamp(min=TINY))
        means = self._limited(rate * of_means.sum(0) / self.mean_bend.mean.clamp(min=TINY))
        room = self.latent.prior().stddev.log() - self.least_sd(floor).clamp(min=TINY).log()
        return torch.minimum(together, room.clamp(min=0)), means

    def _limited(self, change: Tensor) -> Tensor:
        most = LARGEST_OF_WHOLE if self.is_one_batch else self.largest * self.batches
        return change.clamp(-most, most)

    @torch.no_grad()
    def advance(self, rate: float | Tensor, floor: float | Tensor, beta: float | Tensor) -> None:
        """Take `rate` of an EM step of the prior, which stays at `floor` of a small start.

        The gradient holds the KL `beta` times; one less than 1 slows the prior, as it does q.
        """
        prior = self.latent.prior
        many = beta.clamp(min=1.0) if isinstance(beta, Tensor) else max(beta, 1.0)
        prior.advance(rate / many, self.rows / self.groups)
        if self.is_learning:
            prior.resize((self.least_sd(floor) / prior().stddev).clamp(min=1.0))

    @torch.no_grad()
    def recentre(self, bias: Tensor) -> None:
        """Move what all groups have in common to the output's `bias`, where that is the same.

        It is the prior's mean, at its maximum; the network would find it by its own rate alone.
        """
        matrix = self.latent.in_output_bias()
        if matrix is None:
            return
        matrix = matrix.to(bias)
        table, counted = self.q.table.data, (self.counts > 0).to(bias)
        shift = (counted @ self._mean(table)) / self.groups * (matrix != 0).any(0)
        bias.add_(matrix @ (shift * self.size[: self.latent.width]))
        means = self.q.split(table)[0].unflatten(1, (-1, self.latent.width))
        means.sub_((counted.unsqueeze(1) * shift).unsqueeze(1))

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        running = {name: getattr(self, name).state_dict() for name in RUNNING}
        return {"seen": self.seen, "first": self.first, "allowed": self.allowed, **running}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what a checkpoint kept."""
        self.seen.copy_(state["seen"])
        self.first.copy_(state["first"])
        self.allowed.copy_(state.get("allowed", self.allowed))
        if self.first.any():
            self.latent.prior_start.copy_(self.first)
        for name in RUNNING:
            getattr(self, name).load_state_dict(state[name])


def _together(parts: tuple[Tensor, ...]) -> Tensor:
    """Return the rows of all parts, of which there is mostly one."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)
