"""Steps of latents of which one's law moves with the draw of another."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hlvnn.latents.covariance import diagonal, times
from hlvnn.latents.latent import Latent
from hlvnn.latents.table import is_dense
from hlvnn.training.latent_steps import LEAST_SHARE, LatentSteps
from hlvnn.training.pace import TINY, Running


class LinkedSteps(LatentSteps):
    """The steps of a latent that depends on another one's draw, or on whose draw others depend.

    Under q(z_c | u) = N(m_c + Λ_c u, S_c), u = z_p − m_p, all are one normal law, of which a
    natural step is one in the coordinates u and z_c − Λ_c u. A move of an upper group takes along
    what depends on it, by Λ_c, so that its gradient and curvature are its own and, through Λ_c,
    those of all below it. Λ_c has its closed form, S_c (T⁻¹ C − n H), where C is I for a nested
    prior and else 0, and H a row's second derivative in z_c and z_p; n H_c being S_c⁻¹ − T⁻¹, it is
    S_c T⁻¹ (C + R) − R, R = H_c⁻¹ H.

    Sizes are those of z less its prior's mean: what is nested in a group moves with it.

    upper: the steps of the latent that it depends on; `below`: those that depend on it.
    """

    def __init__(
        self,
        latent: Latent,
        counts: Tensor,
        per_epoch: int,
        together: int,
        upper: LinkedSteps | None,
        *,
        exact: bool,
    ) -> None:
        super().__init__(latent, counts, per_epoch, together, exact=exact)
        self.q.size = None  # sizes are of deviations
        self.upper = upper
        self.below: list[LinkedSteps] = []
        self.all_curvature = Running(self.first, together)  # where all that is nested moves too
        self.direct = Running(self.first, together)
        self.across = Running(self.first, together)  # of z where all moves, and of u
        if upper is None:
            return
        upper.below.append(self)
        shape = latent.width, upper.latent.width
        self.cross = Running(self.first.new_zeros(shape), together)
        self.above = Running(self.first.new_zeros(shape), together)  # of z here, and of u above
        is_nested = latent.parent_name == upper.latent.name
        self.follows = float(is_nested) * torch.eye(*shape, device=counts.device)
        self.is_dependence_learned = latent.slopes is not None and latent.slopes.requires_grad
        if latent.slopes is not None:
            latent.slopes.requires_grad_(False)

    def release(self) -> None:
        super().release()
        if self.latent.slopes is not None:
            self.latent.slopes.requires_grad_(self.is_dependence_learned)

    @torch.no_grad()
    def keep(self, size: float) -> None:
        """Take what the loss' gradients tell: all reads are of the same rows."""
        read = [(*one, one[1].grad) for one in self.q.reads or [] if one[1].grad is not None]
        self.q.reads = None
        if read:
            group, leaf, _ = read[0]
            gradient = torch.stack([part for *_, part in read]).sum(0)
            self.kept.append((group, leaf.detach(), gradient * size))

    # ------------------------------------------------------------ the laws of all groups

    def _means(self) -> Tensor:
        return self.q.table.data[:, : self.latent.width]

    def _prior_means(self) -> Tensor | float:
        """Return the prior's mean of every group, [G, Z]."""
        if self.upper is None:
            return 0.0
        return self.upper._means()[self.latent.within] @ self.follows.mT

    def _dependence(self) -> Tensor:
        """Return Λ of every group, [G, Z, reach]."""
        if self.latent.slopes is None:
            return torch.zeros_like(self.follows).expand(len(self.counts), -1, -1)
        return self.latent.slopes.data.unflatten(1, self.follows.shape)

    def around(self) -> Tensor:
        means = super().around()
        if self.upper is None:
            return means
        return means - self.upper._means()[self.latent.within[self.found]] @ self.follows.mT

    # ------------------------------------------------------------ what a batch tells

    @torch.no_grad()
    def look(self, beta: float | Tensor, excess: float | Tensor) -> None:
        super().look(beta, excess)
        self.added: Tensor | None = None
        self.data, self.row_data = self.total[:, : self.latent.width] - self.pulled, self.own
        self.alone = self.own
        self.apart = self.around()

    @torch.no_grad()
    def rise(self) -> None:
        """Give the groups above what these here read off the batch; after all below did."""
        if (upper := self.upper) is None:
            return
        self.place = torch.searchsorted(upper.found, self.latent.within[self.found])
        along = self._dependence()[self.found]
        total = self.total[:, : self.latent.width]

        def add(to: Tensor, values: Tensor) -> None:
            to.index_add_(0, self.place, values)

        nested = self.pulled @ self.follows  # of which the upper's own gradient holds −1 times
        rows_nested = (self.pulled / (self.share * self.n))[self.inverse] @ self.follows
        upper.own = upper.own + rows_nested
        upper.alone = upper.alone + rows_nested
        self.cross.add(self.own.mT @ upper.own / (len(self.own) * self.excess))
        upper.own += apply(along.mT[self.inverse], self.own)
        upper.row_data = upper.row_data + rows_nested + self.row_data @ self.follows
        add(upper.data, nested + self.data @ self.follows)
        raised = torch.zeros_like(upper.pulled)
        add(raised, apply(along.mT, total))
        upper.total[:, : upper.latent.width] += raised
        add(upper.pulled, apply((along - self.follows).mT, self.pulled))
        added = self._added()
        upper.added = added if upper.added is None else upper.added + added

    @torch.no_grad()
    def gauge(self) -> None:
        """Take in how the rows' loss bends; after all have risen."""
        parts = {
            self.direct: self.alone.square(),
            self.across: self.row_data * self.own,
            self.all_curvature: self.row_data.square(),
        }
        for running, part in parts.items():
            running.add(part.mean(0) / self.excess)
        if self.upper is not None:
            each = self.row_data.mT @ self.upper.own
            self.above.add(each / (len(self.own) * self.excess))

    def _added(self) -> Tensor:
        """Return what the KL of all from here down adds to the precision of the upper groups' u.

        [G, Z], of its diagonal, or [G, Z, Z].
        """
        assert self.upper is not None
        along = self._dependence()
        apart = along - self.follows
        precision = self.precision.diag() if self.precision.dim() == 1 else self.precision
        each = apart.mT @ (precision @ apart)
        if self.added is not None:
            own = torch.diag_embed(self.added) if self.added.dim() == 2 else self.added
            each = each + along.mT @ own @ along
        each = each * (self.counts > 0)[:, None, None]
        each = each if self.upper.has_matrix else diagonal(each)
        total = each.new_zeros(len(self.upper.counts), *each.shape[1:])
        return total.index_add_(0, self.latent.within, each)

    def stiffness(self) -> Tensor | None:
        return None if self.added is None else self.added[self.found]

    def _stiff(self, step: Tensor) -> Tensor:
        stiff, own = super()._stiff(step), self.stiffness()
        if own is None:
            return stiff
        return stiff + (step * own if own.dim() == 2 else apply(own, step))

    # ------------------------------------------------------------ moves

    @torch.no_grad()
    def foresee(self, beta: float | Tensor, damping: float | Tensor) -> None:
        """Find to where all rows weigh the same on the ways of all (see `move`); highest first."""
        law = self.q.joined(self.now[:, : self.latent.width], self.others)
        covariance = self.q.covariance(law)
        self.covariance, self.variance = covariance.values, covariance.variance()
        self.many = self.share * self.n
        if self.exact:  # the gradient of the spread knows how the loss bends, not only how steep
            now = self.q.covariance(self.now).precision()
            wanted = now * (
                1 + self.q.size_gradient(self.now, self.total) / self.share.clamp(min=LEAST_SHARE)
            )
            bent = wanted - beta * self._stiff(torch.ones_like(self.step))
            h = self.n * diagonal(self.curvature.mean, 1)
            self.many = self.many * (bent / h.clamp(min=TINY)).clamp(min=0)
        self.change = self._between(self.factor * damping) / self.factor * self.step
        self.changed_apart = self.change
        if self.upper is not None:
            above = self.upper.change[self.place]
            self.change = self.change + apply(self._dependence()[self.found], above)
            self.changed_apart = self.change - above @ self.follows.mT
        self.moved = self.many * self.direct.mean * self.change

    @torch.no_grad()
    def foretell(self) -> None:
        """Find how the rows' gradient changes there; lowest first."""
        if self.upper is None:
            return
        crossed = self.many * (self.upper.change[self.place] @ self.cross.mean.mT)
        self.moved = self.moved + crossed
        above = self.moved @ self.follows + (self.many * self.change) @ self.cross.mean
        self.upper.moved.index_add_(0, self.place, above)

    @torch.no_grad()
    def follow(self, damping: float | Tensor) -> None:
        """Go along with the moves of the groups above, and renew Λ; before the own move.

        All groups go along, those that are not in the batch too: a group that came after its next
        batch would hold back the one above.
        """
        self.went = torch.zeros_like(self._means())
        if self.upper is not None:
            self.went = apply(self._dependence(), self.upper.went[self.latent.within])
            self.lift = self.went[self.found]
            self._means().add_(self.went)  # those of the batch are written anew
            self._renew()
        self.went.index_add_(0, self.found, self.step * damping)

    def _renew(self) -> None:
        if self.latent.slopes is None:
            return
        covariance, precision, curvature = (
            part.diag_embed() if part.dim() == batch else part
            for part, batch in (
                (self.covariance, 2),
                (self.precision, 1),
                (self.curvature.mean + TINY, 1),
            )
        )
        ratio = torch.linalg.solve_ex(curvature, self.cross.mean)[0]  # H_c⁻¹ H
        of_prior = covariance @ precision
        along = of_prior @ (self.follows + ratio) - ratio
        if is_dense():  # groups that are not in the batch stay
            along = torch.where(self.share.unsqueeze(-1) > 0, along, self._dependence())
        self.latent.slopes.data.index_copy_(0, self.found, along.flatten(1))

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
        """Take a Newton step in the size of z less its prior's mean, with its prior; and of means.

        See `LatentSteps._resize`. All that is nested in a group moves with it.
        """
        mean = self.apart + self.changed_apart
        share, prior = self.share, diagonal(self.precision, 1)
        of_noise = self.across.mean * self.variance
        if self.upper is not None:
            apart = self._dependence()[self.found] - self.follows
            of_noise = of_noise + apply(apart * self.above.mean, self.upper.variance[self.place])
        curvature = self.many * self.all_curvature.mean
        pull = beta * share * times(self.precision, mean)
        of_rows = mean * (self.data + self.moved)
        of_data = of_rows + self.many * of_noise
        of_means = of_rows + mean * pull
        self.bend.add((curvature * (mean.square() + self.variance)).sum(0) / size)
        self.mean_bend.add(((curvature + beta * share * prior) * mean.square()).sum(0) / size)
        together, means = self._size_steps(part / size, floor, of_data, of_means)
        self._scale(torch.exp(-together - means), torch.exp(-together))
        self.latent.prior.resize(torch.exp(-together))

    def _scale(self, of_means: Tensor, of_spread: Tensor) -> None:
        """Multiply z less its prior's mean by a size [Z]; all that is nested moves with it."""
        latent = self.latent
        shift = (of_means - 1) * (self._means() - self._prior_means())
        ones = torch.ones_like(of_means)
        self.q.table.data.copy_(self.q.in_size(self.q.table.data, torch.cat([ones, of_spread])))
        self._shift(shift)
        if self.upper is not None and latent.slopes is not None:
            apart = (self._dependence() - self.follows) * of_spread[:, None]
            latent.slopes.data.copy_((self.follows + apart).flatten(1))
        for one in self.below:
            if one.latent.slopes is not None:
                apart = (one._dependence() - one.follows) / of_spread
                one.latent.slopes.data.copy_((one.follows + apart).flatten(1))

    def _shift(self, means: Tensor) -> None:
        """Add to the means of every group, [G, Z], and of all that is nested in it."""
        self._means().add_(means)
        self.now[:, : self.latent.width] += means[self.found]
        for one in self.below:
            one._shift(means[one.latent.within] @ one.follows.mT)

    def recentre(self, bias: Tensor) -> None:
        """Leave means as they are: those of the groups above are another latent's."""

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {n: getattr(self, n).state_dict() for n in self._running()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        for name in self._running():
            getattr(self, name).load_state_dict(state[name])

    def _running(self) -> tuple[str, ...]:
        own = ("all_curvature", "direct", "across")
        return own if self.upper is None else (*own, "cross", "above")


def apply(matrices: Tensor, values: Tensor) -> Tensor:
    """Return matrices [U, M, Z] times values [U, Z]: [U, M]."""
    return (matrices @ values.unsqueeze(-1)).squeeze(-1)
