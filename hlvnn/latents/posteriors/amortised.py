"""A posterior that an encoder reads off the group's own rows."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from hlvnn.data.grouped import Split
from hlvnn.data.schema import Schema
from hlvnn.latents.divergence import kl_of_diagonal
from hlvnn.latents.posteriors._members import Members
from hlvnn.latents.posteriors.base import Posterior
from hlvnn.latents.table import table_rows

HIDDEN = 64
TOKEN_WIDTH = 16
ROWS_AT_ONCE = 16384
"""Rows read at a time where no gradient is wanted."""
FIRST_PRECISION = 0.1
"""What a row first adds to a group's precision, in units of the prior's."""


class Amortised(Posterior):
    """q(ε_g) ∝ p(ε) Π_i N(ε; μ(x_i, y_i), 1/λ(x_i, y_i)), a product over rows i of the group.

    One network gives every row its expert (μ, λ), so that the order of rows does not matter, more
    rows make q narrower, and no rows leave exactly the prior. ε are the coordinates in which the
    prior is N(0, I) (see `Latent.centred`). In training a group with more rows than `context` is
    read through so many of them, evenly spread, each counting for n_g / context.

    It is to serve new groups with few rows as well, so it learns from the ELBO of random parts of
    groups too (see `in_part`); whole groups alone, which have many rows, would not tell how sure a
    few may make it.

    After each epoch the groups' laws are kept in `table`: [G, 2 Z] (mean, log SD), so that a saved
    model needs no data; in training they come from the encoder. Wu and Goodman (2018), products of
    experts; Garnelo et al. (2018), encoders of sets, trained on parts of them.
    """

    normal = True
    whitened = True
    reads_rows = True
    options = ("context",)
    y_center: Tensor
    y_scale: Tensor

    def __init__(
        self, num_groups: int, width: int, scale: Tensor, *, schema: Schema, context: int = 50
    ) -> None:
        super().__init__(num_groups, width, scale)
        self.table.requires_grad_(False)
        self.context = context
        self.num_classes = schema.target.num_classes
        tokens = schema.num_tokens
        self.embedding = None if tokens is None else nn.Embedding(tokens, TOKEN_WIDTH)
        inputs = math.prod(schema.x_shape) if tokens is None else TOKEN_WIDTH
        self.encoder = nn.Sequential(
            nn.Linear(inputs + (self.num_classes or 1), HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, 2 * width),
        )
        for name, shape in (("x_center", inputs), ("x_scale", inputs), ("y_center", 1)):
            self.register_buffer(name, torch.full((shape,), float(name == "x_scale")))
        self.register_buffer("y_scale", torch.ones(1))
        self.rows: Split | None = None
        self.members = Members(torch.zeros(0, dtype=torch.int64), num_groups)

    @staticmethod
    def num_parameters(width: int, context: int = 50) -> int:
        return 2 * width

    def start(self, width: int, scale: Tensor) -> Tensor:
        return torch.zeros(2 * width)

    def law(self, parameters: Tensor) -> Distribution:
        mean, log_sd = parameters.split(self.width, dim=-1)
        return Independent(Normal(mean, log_sd.exp(), validate_args=False), 1, validate_args=False)

    def kl(self, q: Distribution, p: Distribution) -> Tensor:
        return kl_of_diagonal(q, p)

    def tables(self) -> list[nn.Parameter]:
        return []

    @torch.no_grad()
    def observe(self, rows: Split, level: int) -> None:
        """Take the training rows that the encoder reads, and the scales of what it reads."""
        self.rows = rows
        self.members = Members(rows.groups[:, level].long(), self.num_groups)
        order = self.members.order
        sample = self._read(rows, order[:: max(1, len(order) // 10_000)])[0]
        mean = sample.mean(0)
        sd = (sample - mean).square().mean(0).sqrt()
        self.get_buffer("x_center").copy_(mean)
        if self.embedding is None:
            self.get_buffer("x_scale").copy_(torch.where(sd > 1e-6, sd, 1.0))
        if self.num_classes is None:
            y = _response(rows.y)
            self.y_center.copy_(y.mean())
            self.y_scale.copy_(y.std(correction=0).clamp(min=1e-6))

    def grow(self, number: int, scale: Tensor) -> None:
        """Add groups; all keep their laws, the training rows are let go."""
        super().grow(number, scale)
        self.rows = None

    def forward(self, group: Tensor) -> Distribution:
        """Return q for the groups [B]: encoded while training, else as last kept."""
        if not self.training or self.rows is None:
            return self.law(table_rows(self.table, group))
        distinct, inverse = group.unique(return_inverse=True)
        return self.law(self._encoded(distinct)[inverse])

    def in_part(self, index: Tensor) -> tuple[Distribution, Tensor] | None:
        """Return q given random parts of groups, and their sizes (see `Posterior.in_part`).

        A part has 1 to n_g rows, log-uniformly; of a larger one `context` are read.
        """
        if not self.training or self.rows is None:
            return None
        read, sizes = self.members.parts(index.cpu(), self.context)
        return self.law(self._pooled_rows(self.rows, read, sizes)), sizes.to(index.device)

    def read(self, rows: Split, group: Tensor, number: int) -> Tensor:
        """Return the laws [U, 2 Z] of groups that these rows make up, read whole."""
        precision = torch.zeros(number, self.width, device=self.table.device)
        weighted = torch.zeros_like(precision)
        for index in torch.arange(len(rows)).split(ROWS_AT_ONCE):
            own = group[index].to(precision.device)
            sums = self._sums(self._experts(rows, index), own, number)
            precision, weighted = precision + sums[0], weighted + sums[1]
        return self._product(precision, weighted)

    @torch.no_grad()
    def refresh(self) -> None:
        """Keep every group's law in `table`."""
        if self.rows is not None:
            self.table.copy_(self.read(self.rows, self.members.group, self.num_groups))

    def pooled(self, experts: Tensor, group: Tensor, num_groups: int, weight: Tensor) -> Tensor:
        """Return the parameters [U, 2 Z] of the product of rows' experts and the prior.

        experts: [R, 2 Z], each row's μ and the unconstrained λ; group: [R] int64, 0..U-1;
        weight: [R], how many rows each stands for.
        """
        return self._product(*self._sums(experts, group, num_groups, weight))

    def _sums(
        self, experts: Tensor, group: Tensor, num_groups: int, weight: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return Σ λ and Σ λ μ over each group's experts, [U, Z] each."""
        mean, raw = experts.split(self.width, dim=-1)
        shift = math.log(math.expm1(FIRST_PRECISION))
        precision = F.softplus(raw + shift)
        if weight is not None:
            precision = precision * weight[:, None]
        zero = torch.zeros(num_groups, self.width, device=experts.device)
        return zero.index_add(0, group, precision), zero.index_add(0, group, precision * mean)

    @staticmethod
    def _product(precision: Tensor, weighted: Tensor) -> Tensor:
        """Return the law [U, 2 Z] of the prior times experts with the sums Σ λ and Σ λ μ."""
        total = 1 + precision
        return torch.cat([weighted / total, -0.5 * total.log()], dim=-1)

    def _encoded(self, groups: Tensor) -> Tensor:
        """Return the parameters [U, 2 Z] of distinct groups."""
        assert self.rows is not None
        groups = groups.cpu()
        index = self.members.spread(self.context, groups)
        return self._pooled_rows(self.rows, index, self.members.counts[groups])

    def _pooled_rows(self, rows: Split, index: Tensor, sizes: Tensor) -> Tensor:
        """Return the parameters [U, 2 Z] of sets of rows.

        index: [U, context] int64, the rows read of each, −1 for none; sizes: [U] int64, how many
        rows these stand for.
        """
        used = index >= 0
        group = torch.arange(len(index))[:, None].expand_as(index)[used]
        weight = (sizes / used.sum(1).clamp(min=1))[group]
        device = self.table.device
        experts = self._experts(rows, index[used])
        return self.pooled(experts, group.to(device), len(index), weight.to(device))

    def _experts(self, rows: Split, index: Tensor) -> Tensor:
        """Return the experts of rows, [R, 2 Z]: μ and the unconstrained λ."""
        x, y = self._read(rows, index)
        x = (x - self.get_buffer("x_center")) / self.get_buffer("x_scale")
        experts: Tensor = self.encoder(torch.cat([x, y], dim=-1))
        return experts

    def _read(self, rows: Split, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return rows as the encoder takes them: x [R, D], y [R, K]."""
        device, index = self.table.device, index.to(rows.y.device)
        x, y = rows.x.take(index).to(device), rows.y[index].to(device)
        x = x.flatten(1).float() if self.embedding is None else self.embedding(x.long()).mean(1)
        if self.num_classes is not None:
            return x, F.one_hot(y, self.num_classes).float()
        return x, ((_response(y) - self.y_center) / self.y_scale).float()[:, None]


def _response(y: Tensor) -> Tensor:
    """Return a real target [N]; of successes and trials [N, 2], their share."""
    return y if y.dim() == 1 else y[:, 0] / y[:, 1]
