"""A posterior that an encoder reads off the group's own rows."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from hlvnn.data.grouped import Split
from hlvnn.data.schema import Schema
from hlvnn.latents.posteriors.base import Posterior

HIDDEN = 64
TOKEN_WIDTH = 16
FIRST_PRECISION = 0.1
"""What a row first adds to a group's precision, in units of the prior's."""


class Amortised(Posterior):
    """q(ε_g) ∝ p(ε) Π_i N(ε; μ(x_i, y_i), 1/λ(x_i, y_i)), a product over rows i of the group.

    One network gives every row its expert (μ, λ), so that the order of rows does not matter, more
    rows make q narrower, and no rows leave exactly the prior. ε are the coordinates in which the
    prior is N(0, I) (see `Latent.centred`). A group with more rows than `context` is read through
    so many of them, evenly spread, each counting for n_g / context.

    After each epoch the groups' laws are kept in `table`: [G, 2 Z] (mean, log SD), so that a saved
    model needs no data; in training they come from the encoder. Wu and Goodman (2018), products of
    experts; Garnelo et al. (2018), encoders of sets.
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
        self.index = self.counts = torch.zeros(0, dtype=torch.int64)

    @staticmethod
    def num_parameters(width: int, context: int = 50) -> int:
        return 2 * width

    def start(self, width: int, scale: Tensor) -> Tensor:
        return torch.zeros(2 * width)

    def law(self, parameters: Tensor) -> Distribution:
        mean, log_sd = parameters.split(self.width, dim=-1)
        return Independent(Normal(mean, log_sd.exp(), validate_args=False), 1, validate_args=False)

    def tables(self) -> list[nn.Parameter]:
        return []

    def observe(self, rows: Split, level: int) -> None:
        """Take the training rows that the encoder reads, and the scales of what it reads."""
        self.rows = rows
        group = rows.groups[:, level].long()
        order = group.argsort(stable=True)
        self.counts = counts = torch.bincount(group, minlength=self.num_groups)
        first = counts.cumsum(0) - counts
        place = torch.arange(self.context)
        spread = (place * (counts[:, None] / self.context).clamp(min=1)).long()  # [G, context]
        self.index = torch.where(
            spread < counts[:, None], order[(first[:, None] + spread).clamp(max=len(order) - 1)], -1
        )
        sample = self._read(order[:: max(1, len(order) // 10_000)])[0]
        mean = sample.mean(0)
        sd = (sample - mean).square().mean(0).sqrt()
        self.get_buffer("x_center").copy_(mean)
        if self.embedding is None:
            self.get_buffer("x_scale").copy_(torch.where(sd > 1e-6, sd, 1.0))
        if self.num_classes is None:
            y = _response(rows.y)
            self.y_center.copy_(y.mean())
            self.y_scale.copy_(y.std(correction=0).clamp(min=1e-6))

    def forward(self, group: Tensor) -> Distribution:
        """Return q for the groups [B]: encoded while training, else as last kept."""
        if not self.training or self.rows is None:
            return self.law(F.embedding(group, self.table))
        distinct, inverse = group.unique(return_inverse=True)
        return self.law(self._encoded(distinct)[inverse])

    @torch.no_grad()
    def refresh(self, chunk: int = 1024) -> None:
        """Keep every group's law in `table`."""
        if self.rows is not None:
            groups = torch.arange(self.num_groups)
            parts = [self._encoded(part) for part in groups.split(chunk)]
            self.table.copy_(torch.cat(parts))

    def pooled(self, experts: Tensor, group: Tensor, num_groups: int, weight: Tensor) -> Tensor:
        """Return the parameters [U, 2 Z] of the product of rows' experts and the prior.

        experts: [R, 2 Z], each row's μ and the unconstrained λ; group: [R] int64, 0..U-1;
        weight: [R], how many rows each stands for.
        """
        mean, raw = experts.split(self.width, dim=-1)
        shift = math.log(math.expm1(FIRST_PRECISION))
        precision = F.softplus(raw + shift) * weight[:, None]
        zero = torch.zeros(num_groups, self.width, device=experts.device)
        total = 1 + zero.index_add(0, group, precision)
        mean = zero.index_add(0, group, precision * mean) / total
        return torch.cat([mean, -0.5 * total.log()], dim=-1)

    def _encoded(self, groups: Tensor) -> Tensor:
        """Return the parameters [U, 2 Z] of distinct groups."""
        assert self.rows is not None
        index = self.index[groups.cpu()]  # [U, context]
        used = index >= 0
        group = torch.arange(len(index))[:, None].expand_as(index)[used]
        counts = used.sum(1)
        weight = (self.counts[groups.cpu()] / counts.clamp(min=1))[group]
        x, y = self._read(index[used])
        x = (x - self.get_buffer("x_center")) / self.get_buffer("x_scale")
        experts = self.encoder(torch.cat([x, y], dim=-1))
        device = self.table.device
        return self.pooled(experts, group.to(device), len(index), weight.to(device))

    def _read(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return rows as the encoder takes them: x [R, D], y [R, K]."""
        assert self.rows is not None
        device = self.table.device
        x, y = self.rows.x.take(index).to(device), self.rows.y[index].to(device)
        x = x.flatten(1).float() if self.embedding is None else self.embedding(x.long()).mean(1)
        if self.num_classes is not None:
            return x, F.one_hot(y, self.num_classes).float()
        return x, ((_response(y) - self.y_center) / self.y_scale).float()[:, None]


def _response(y: Tensor) -> Tensor:
    """Return a real target [N]; of successes and trials [N, 2], their share."""
    return y if y.dim() == 1 else y[:, 0] / y[:, 1]
