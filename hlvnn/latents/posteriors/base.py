"""What every posterior shares: a table with one row of parameters per group."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from hlvnn.data.grouped import Split
from hlvnn.latents.covariance import Covariance
from hlvnn.latents.divergence import divergence, root
from hlvnn.latents.table import table_rows


@dataclass(frozen=True)
class Sight:
    """What a natural step knows of the groups [U] in a batch.

    share: [U, 1], the part of each group's training rows that the batch holds; rows, seen: [U, 1],
    these rows, and how many of them the fit has seen so far. precision: of the prior, [Z] where it
    is diagonal, else [Z, Z]. curvature: a row's second derivative of the loss in z, on average, as
    the precision; None where the gradient of q's spread tells it. beta: weight of the KL.
    """

    share: Tensor
    rows: Tensor
    seen: Tensor
    precision: Tensor
    curvature: Tensor | None
    beta: float | Tensor
    stiffness: Tensor | None = None

    @property
    def weight(self) -> float | Tensor:
        """β as the curvature is divided by: not 0."""
        return weight_of(self.beta)


SMALLEST_BETA = 0.01
"""Least weight of the KL for which a law is as wide as it asks for."""
POSTERIOR_START = 0.3
"""First SD of a posterior that Adam moves, as a share of its prior's; one that takes natural steps
starts with its prior's own."""
LARGEST = 3.0
"""Largest move of a mean at once, in its own SDs."""
MOST_WIDENED = -0.75
"""Largest loss of precision in a step, as a share of it."""


def weight_of(beta: float | Tensor) -> float | Tensor:
    """Return β as what is divided by it has it: not 0."""
    return beta.clamp(min=SMALLEST_BETA) if isinstance(beta, Tensor) else max(beta, SMALLEST_BETA)


class Posterior(nn.Module, ABC):
    """q(z_g) for all groups of one level.

    Called with group indices [B], it returns a `torch.distributions.Distribution` with batch shape
    [B] and event shape [Z]. The parameters lie in `table`: [G, P] float, one row per group, read
    with sparse gradients, so that a step touches only the groups of its batch.

    A member gives `normal`, `num_parameters`, the first values and the law; see `mean_field.py`.
    Its KL is the closed form where one is known, else an estimate by draws; one over a whole level
    is a `LevelPosterior`.
    """

    normal: ClassVar[bool]
    """Whether q is a normal distribution, as the closed forms need."""

    random: ClassVar[bool] = True
    """Whether z varies under q (a point does not)."""

    full: ClassVar[bool] = False
    """Whether it holds every covariance of z (see `hlvnn.latents.origin`)."""

    options: ClassVar[tuple[str, ...]] = ()
    """Settings of `LatentConfig` that the constructor and `num_parameters` take as keywords."""

    strata: int = 1
    """Parts of q that `stratified` draws from one by one."""

    whitened: ClassVar[bool] = False
    """Whether q describes ε, in which the prior is N(0, I) (see `Latent.centred`)."""

    reads_rows: ClassVar[bool] = False
    """Whether q is read off the groups' own rows: the constructor takes the data's `schema`."""

    recordable: ClassVar[bool] = True
    """Whether a step does not wait for the GPU, as Cholesky factors and some draws do (see
    `hlvnn.training.cuda_graph`); nor is one recorded whose law is not normal, but for points."""

    def __init__(self, num_groups: int, width: int, scale: Tensor) -> None:
        """Start each group at mean 0 and SD `scale` ([Z] float, positive)."""
        super().__init__()
        self.num_groups = num_groups
        self.width = width
        start = self.start(width, scale)
        self.table = nn.Parameter(start.repeat(num_groups, 1))
        self.is_stepped = False  # whether a fit moves it by natural steps
        self.size: Tensor | None = None  # the table is then `in_size` 1 / size, where there is one
        self.reads: list[tuple[Tensor, Tensor]] | None = None  # groups, and what was read of them

    @staticmethod
    @abstractmethod
    def num_parameters(width: int) -> int:
        """Return P, the parameters of one group."""

    @abstractmethod
    def start(self, width: int, scale: Tensor) -> Tensor:
        """Return the first parameters of a group, [P]: mean 0 and SD `scale`."""

    @abstractmethod
    def law(self, parameters: Tensor) -> Distribution:
        """Return the distribution that `parameters` [B, P] describe."""

    def tables(self) -> list[nn.Parameter]:
        """Return the parameters with one row per group, which get sparse gradients."""
        return [self.table]

    natural: ClassVar[bool] = False
    """Whether `natural_step` moves it, in its own units; else its table is left to Adam."""

    linked: ClassVar[bool] = False
    """Whether it does so where q depends on another latent too, or is depended on (`Sight`)."""

    has_matrix: bool = False
    """Whether a natural step asks for the curvature as a matrix."""

    def natural_step(
        self, rows: Tensor, gradient: Tensor, sight: Sight, factor: float | Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the means' step [U, K·Z], `factor` of a whole one, and the other parameters then.

        rows: [U, P], the parameters now; gradient: [U, P], of the batch's sum. K is 1, but for a
        law of several parts (`strata`), each of which has a mean.
        """
        raise TypeError(f"{type(self).__name__} knows no natural step")

    def split(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the means [*, K·Z], a view, and the other parameters, of rows [*, P]."""
        return rows[..., : self.width], rows[..., self.width :]

    def joined(self, means: Tensor, others: Tensor) -> Tensor:
        """Return the parameters [*, P] that `split` splits."""
        return torch.cat([means, others], dim=-1)

    def on_average(self, rows: Tensor, means: Tensor) -> Tensor:
        """Return the average [U, Z] over a law's parts of what is of their means, [U, K·Z]."""
        return means

    def of_mean(self, gradient: Tensor) -> Tensor:
        """Return the gradient [*, Z] in a move of all of q."""
        return gradient[..., : self.width]

    def scores(
        self, rows: Tensor, gradient: Tensor, pull: Callable[[Tensor], Tensor], *, of_draws: bool
    ) -> Tensor:
        """Return rows' own gradients, of a law's K parts: [K·B, Z].

        The mean of their squares is how a row's loss bends in z. gradient: [B, P]; pull: the
        prior's part of a gradient, by a mean [*, Z]. of_draws: whether each is to be that of one
        draw of z, because it is known by how much that is noisier than the truth's; else the less
        noise the better.
        """
        raise TypeError(f"{type(self).__name__} has no parts")

    def is_fitted(self) -> bool:
        """Return whether some group is no longer at mean 0."""
        return bool(self.split(self.table.detach())[0].any())

    def covariance(self, rows: Tensor) -> Covariance:
        """Return q's covariance by its parameters [U, P]."""
        raise TypeError(f"{type(self).__name__} knows no natural step")

    def size_gradient(self, rows: Tensor, gradient: Tensor) -> Tensor:
        """Return the gradient [U, Z] in the log of the size of q's spread in each dimension."""
        raise TypeError(f"{type(self).__name__} knows no natural step")

    def in_size(self, rows: Tensor, size: Tensor) -> Tensor:
        """Return the parameters [*, P] with means times size[:Z] and spread times size[Z:]."""
        raise TypeError(f"{type(self).__name__} knows no natural step")

    @torch.no_grad()
    def set_law(self, sd: Tensor) -> None:
        """Give every group mean 0 and the SD [Z]."""
        start = self.start(self.width, sd.cpu())
        self.table.data.copy_(start.to(self.table).expand_as(self.table))
        if self.size is not None:
            self.size.fill_(1.0)

    @torch.no_grad()
    def grow(self, number: int, scale: Tensor) -> None:
        """Add `number` groups after the others, each at mean 0 and SD `scale` [Z]."""
        learned = self.table.requires_grad
        self.num_groups += number
        start = self.start(self.width, scale.cpu()).to(self.table).repeat(number, 1)
        self.table = nn.Parameter(torch.cat([self.resized(self.table), start]), learned)

    def resized(self, table: Tensor) -> Tensor:
        """Return known groups' parameters [G, P], their number having become `num_groups`."""
        return table

    def observe(self, rows: Split, level: int) -> None:
        """Take what is needed from the training rows and their groups of a level."""

    def in_part(self, index: Tensor) -> tuple[Distribution, Tensor] | None:
        """Return laws read off random parts of groups, for a training step; None where q is free.

        index: [B] int64, rows' numbers in the training set. Each gets the law [B] of a random part
        of its group that it belongs to, and that part's rows, [B] int64.
        """
        return None

    def read(self, rows: Split, group: Tensor, number: int) -> Tensor | None:
        """Return the parameters [U, P] of groups read off rows; None where q is free.

        group: [N] int64, 0..U-1, of the rows; number: U.
        """
        return None

    def refresh(self) -> None:
        """Bring up to date what is kept of every group for use without the rows."""
        if self.size is not None:
            self.table.data.copy_(self.in_size(self.table.detach(), self.size))
            self.size.fill_(1.0)

    def settle(self) -> None:
        """Leave the state of a fit by natural steps: a table of z itself, which has gradients."""
        if self.is_stepped:
            self.refresh()
            self.size = self.reads = None
            self.is_stepped = False
            self.table.requires_grad_(True)

    def forward(self, group: Tensor) -> Distribution:
        """Return q for the groups [B]."""
        if not self.is_stepped:
            return self.law(table_rows(self.table, group))
        rows = self.table.detach().index_select(0, group)
        if self.size is not None:
            rows = self.in_size(rows, self.size)
        if self.reads is not None and torch.is_grad_enabled():
            rows.requires_grad_()
            self.reads.append((group, rows))
        return self.law(rows)

    def stratified(self, law: Distribution, num_samples: int) -> tuple[Tensor, Tensor | None]:
        """Draw from every stratum of a law of this posterior, with gradients.

        Returns draws [S·K, B, Z], the K strata of a sample next to each other, and their weights
        [S·K, B], which sum to 1; None stands for equal ones. Σ weight · f(draw) is an unbiased
        estimate of E_q f, and so is its gradient.
        """
        return law.rsample(torch.Size([num_samples])), None

    def kl(self, q: Distribution, p: Distribution) -> Tensor:
        """Return KL(q ‖ p), [B]: exact, or an unbiased estimate.

        q: a law of this posterior, batch shape [B]; p: the prior's, batch shape [] or [B]. By
        default see `divergence`: a closed form, draws, or `ConfigError`.
        """
        return divergence(q, p)

    def factor(self, q: Distribution, group: Tensor) -> Tensor:
        """Return F [U, Z, K], F Fᵀ the covariance of q at the groups [U].

        F is as large as a full covariance matrix in every case, Z² numbers per row and more.
        """
        return root(q)

    def extra_repr(self) -> str:
        return f"num_groups={self.num_groups}, width={self.width}"


class LevelPosterior(Posterior):
    """A normal q over all groups of a level at once: z = m + L ε, groups one after the other.

    L is lower triangular, [G·Z, G·Z], so that groups are correlated. Called with groups it returns
    their marginals. Nothing makes it depend on another latent's draw; others may depend on all of
    its groups.

    A member gives `num_parameters` of a level with so many groups, the first values, the marginals,
    the rows of L, m and the shares of its KL; see `joint.py`.
    """

    normal = True

    @staticmethod
    @abstractmethod
    def num_parameters(width: int, num_groups: int = 1) -> int:
        """Return P, the parameters of one of G groups."""

    @abstractmethod
    def forward(self, group: Tensor) -> Distribution:
        """Return the marginals of q at the groups [B]."""

    @abstractmethod
    def rows(self, group: Tensor) -> Tensor:
        """Return the rows of L that belong to the groups [U]: [U, Z, G·Z]."""

    @abstractmethod
    def whole_mean(self) -> Tensor:
        """Return m of all groups, one after the other: [G·Z]."""

    @abstractmethod
    def kl_shares(self, group: Tensor, p: Distribution) -> Tensor:
        """Return shares [U] of KL(q ‖ Π_g p) that sum to it over all groups."""

    def law(self, parameters: Tensor) -> Distribution:
        raise TypeError(
            "a posterior over a whole level is asked for groups, not for rows of parameters"
        )

    def factor(self, q: Distribution, group: Tensor) -> Tensor:
        return self.rows(group)

    def whole(self) -> Tensor:
        """Return L: [G·Z, G·Z]."""
        return self.rows(torch.arange(self.num_groups, device=self.table.device)).flatten(0, 1)

    def of_rows(self, values: Tensor, group: Tensor) -> Tensor:
        """Return what belongs to the groups [B] of values of all groups, [S, 1 or B, G·Z].

        It is [S, B, Z].
        """
        at = group[None, :, None, None].expand(len(values), -1, 1, self.width)
        groups = values.unflatten(2, (-1, self.width))
        return groups.expand(-1, len(group), -1, -1).gather(2, at).squeeze(2)

    def log_density(self, noise: Tensor, tril: Tensor, group: Tensor) -> Tensor:
        """Return what the groups [B] give to log q of m + L noise, by the rows of L: [S, B].

        noise: [S, 1 or B, G·Z]; tril: L.
        """
        each = -0.5 * (noise.square() + math.log(2 * math.pi)) - tril.diagonal().log()
        return self.of_rows(each, group).sum(-1)
