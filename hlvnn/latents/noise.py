"""What a draw of a law is made of: standard normal noise from a stream that is not torch's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
)

from hlvnn.latents.delta import Delta
from hlvnn.latents.divergence import is_normal
from hlvnn.random import Noise


class Source:
    """Where a set of latents draws from: a stream of its own, or torch's, which is the default.

    All draws: of posteriors and priors, in KLs and of parts of groups. So a training step of a
    model without latents and one of a model with them take the same from torch's own stream.
    """

    def __init__(self) -> None:
        self.noise: Noise | None = None

    @contextmanager
    def using(self, noise: Noise | None) -> Iterator[None]:
        """Draw from a stream inside the block; None is torch's own."""
        before, self.noise = self.noise, noise
        try:
            yield
        finally:
            self.noise = before

    @contextmanager
    def lending(self, is_needed: bool = True) -> Iterator[None]:
        """Let what draws from torch's own stream inside the block draw from this one."""
        if self.noise is None or not is_needed:
            yield
            return
        noise = self.noise
        with self.using(None), noise.lending():  # so draws within draws are of one stream
            yield


def drawn(law: Distribution, size: torch.Size, noise: Noise | None) -> Tensor:
    """Draw from a law over [Z], with gradients where it has them: [*size, B, Z].

    noise: the stream that it draws from; None is torch's own. A law that is neither normal nor a
    point draws from torch's own stream, which is lent `noise` for it.
    """
    if noise is None or isinstance(law, Delta):
        return _torchs(law, size)
    if is_normal(law):
        shape = size + law.batch_shape + (noise_width(law),)
        return from_noise(law, noise.normal(shape, law.mean))
    with noise.lending():
        return _torchs(law, size)


def noise_width(law: Distribution) -> int:
    """Return K, the standard normal numbers that one draw of a normal law is made of."""
    (width,) = law.event_shape
    if isinstance(law, LowRankMultivariateNormal):
        return int(width + law.cov_factor.shape[-1])
    return int(width)


def from_noise(law: Distribution, noise: Tensor) -> Tensor:
    """Return the draw [*, Z] of a normal law that standard normal `noise` [*, K] makes.

    It is the mean plus F · noise, F Fᵀ the covariance: the SDs, the Cholesky factor, or [diag(d),
    U]. Raises `TypeError` for another law.
    """
    if isinstance(law, Independent):
        return law.mean + noise * law.base_dist.stddev
    if isinstance(law, MultivariateNormal):
        return law.mean + (law.scale_tril @ noise.unsqueeze(-1)).squeeze(-1)
    if isinstance(law, LowRankMultivariateNormal):
        width = law.mean.shape[-1]
        own, along = noise[..., :width], noise[..., width:]
        shared = (law.cov_factor @ along.unsqueeze(-1)).squeeze(-1)
        return law.mean + shared + law.cov_diag.sqrt() * own
    raise TypeError(f"not a normal distribution: {law}")


def _torchs(law: Distribution, size: torch.Size) -> Tensor:
    return law.rsample(size) if law.has_rsample else law.sample(size)
