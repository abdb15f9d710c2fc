"""Training on the importance-weighted bound, with doubly reparameterised gradients.

For a block of groups that is independent of the others (a top-level group with all within it) and
S draws of its z from q, with log w = log p(y | z) + log p(z) − log q(z),

    bound = E log(1/S Σ w),     ELBO ≤ bound ≤ log p(y)   (Burda, Grosse and Salakhutdinov 2016).

Plain reparameterised gradients of it tell the parameters of q less and less as S grows: their mean
falls faster than their noise. Let w̃ = w / Σ w. In expectation the gradient is also

    network, likelihood, prior:   Σ w̃ · ∂ log w at a fixed draw,
    q:                            Σ w̃² · ∂ log w through the draw z alone,

whose share for q has no such trouble and vanishes where q is exact (Tucker, Lawson, Gu and Maddison
2019). With S = 1 it is the ELBO's gradient without its score (Roeder, Wu and Duvenaud 2017).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hlvnn.data.batches import Batch
from hlvnn.data.block_batches import BlockBatches
from hlvnn.data.grouped import Split
from hlvnn.errors import ConfigError
from hlvnn.inference.importance import block_weights, blocks_of, log_weights
from hlvnn.inference.objective import BatchLoss, Elbo, full_elbo
from hlvnn.latents.pairs import posteriors_with
from hlvnn.latents.posteriors.base import LevelPosterior
from hlvnn.models.model import HierarchicalModel

RUNS = 8
"""Times that a fitted model's bound is estimated."""


def check_bound(model: HierarchicalModel) -> None:
    """Raise `ConfigError` unless the model can be trained on the bound."""
    if len(model.latents) == 0:
        raise ConfigError(
            "--objective iwae: the model has no latents, so there is nothing to weigh; use "
            "--objective elbo"
        )
    for latent in model.latents:
        if not latent.posterior.normal:
            kind = type(latent.posterior).__name__.lower()
            reason = "the bound's gradients are known for normal laws"
            if latent.posterior.strata > 1:
                reason = "a mixture's draws have no gradient to its weights"
            elif not latent.posterior.random:
                reason = "a point has no density"
            raise ConfigError(
                f"--objective iwae: latent {latent.name} has posterior {kind}, and {reason}; use "
                f"--objective elbo, or a normal posterior ({posteriors_with(lambda q: q.normal)})"
            )


@dataclass(frozen=True)
class Bound:
    """The bound of a model on a training set, block by block.

    of_row: [N] int64, the block of each row, on the model's device; number: M; size: N.
    """

    of_row: Tensor
    number: int
    size: int

    @classmethod
    def of(cls, model: HierarchicalModel, train: Split) -> Bound:
        """Find the blocks; a posterior over a whole level ties all together."""
        of_row = blocks_of(model, train).of_row.to(model.device)
        if any(isinstance(latent.posterior, LevelPosterior) for latent in model.latents):
            of_row = torch.zeros_like(of_row)
        return cls(of_row, int(of_row.max()) + 1, len(of_row))

    def batches(
        self,
        train: Split,
        batch_size: int | None,
        generator: torch.Generator | None,
        device: torch.device,
        least: int = 1,
    ) -> BlockBatches:
        """Return the training set's minibatches of whole blocks."""
        return BlockBatches(
            train, self.of_row, batch_size, generator=generator, device=device, least=least
        )

    def full(self, model: HierarchicalModel, train: Split, num_samples: int) -> Elbo:
        """Return the bound of the whole training set, in y's units, in the ELBO's place.

        An estimate of `RUNS` runs, with its standard error; the KL beside it is that of q.
        """
        elbo = full_elbo(model, train)
        block = self.of_row.cpu()
        runs = torch.stack(
            [
                (weights.logsumexp(0) - math.log(num_samples)).sum()
                for weights in (
                    log_weights(model, train, block, num_samples, seed) for seed in range(RUNS)
                )
            ]
        )
        error = float(runs.std()) / math.sqrt(RUNS)
        return replace(elbo, value=float(runs.mean()), standard_error=error)

    def loss(self, model: HierarchicalModel, batch: Batch, num_samples: int) -> BatchLoss:
        """Return the loss of K whole blocks, −(M/K) Σ bound / N: an unbiased share of the whole.

        Its gradient, by `backward`, is the doubly reparameterised one. nll and kl are of the
        draws, and `gap` is by how much the bound exceeds the ELBO: means over the batch's rows.
        """
        found, block = self.of_row[batch.index].unique(return_inverse=True)
        rows = model.latents.at(batch.groups, unseen=False)
        draws, ratios, variables = model.latents.sample_held(rows, num_samples)
        log_prob = model.likelihood.log_prob(model(batch.x, draws), batch.y)
        log_prob = log_prob.expand(num_samples, -1)
        log_w = block_weights(model, log_prob, ratios, batch.groups, block, len(found))
        bound = log_w.logsumexp(0) - math.log(num_samples)  # its gradient has the weights w̃ …
        share = log_w.detach().softmax(0)[:, block]
        for variable in variables:  # … and what reaches q passes here, and gets them once more
            variable.register_hook(_times(share[:, : variable.shape[1]]))
        scale = self.number / (len(found) * self.size)
        kl = [-(ratio / size).mean() for ratio, size in zip(ratios, rows.sizes, strict=True)]
        gap = (bound - log_w.mean(0)).sum() / len(batch.y)
        return BatchLoss(-scale * bound.sum(), -log_prob.mean(), kl, gap)


def _times(share: Tensor) -> Callable[[Tensor], Tensor]:
    """Return a hook that multiplies a gradient [S, B, Z] by weights [S, B].

    All rows are of one block where a variable has a single row (`Held.variables`).
    """
    return lambda gradient: gradient * share.unsqueeze(-1).to(gradient.dtype)
