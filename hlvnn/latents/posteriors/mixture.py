"""Mixture-of-normals posterior, for groups whose rows allow several different explanations."""

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

from hlvnn.latents.divergence import kl_of_diagonal
from hlvnn.latents.posteriors.base import Posterior

BETWEEN = 0.8
"""Share of the first variance that lies between the components: equal ones would stay equal.

Two that lie close may settle on one mode: of two modes 1.5 prior SDs either side of 0 some groups
found both from a share of 0.5, and all from 0.8. Where there is one mode it makes no difference.
"""
DRAWS = 8
"""Draws from each component for the part of the KL that has no closed form."""


class Mixture(Posterior):
    """q(z_g) = Σ_k w_gk N(m_gk, diag(s_gk²)), K components.

    Draws have no gradient of their own (which component?). The ELBO takes E_q f as
    Σ_k w_k E_{q_k} f instead, with draws from every component: see `stratified`, and
    Roeder, Wu and Duvenaud (2017).

    Parameters of a group: the weights' logits [K], m [K·Z], log s [K·Z], component by component.
    """

    normal = False
    recordable = False
    options = ("components",)

    def __init__(self, num_groups: int, width: int, scale: Tensor, *, components: int = 2) -> None:
        self.components = components
        super().__init__(num_groups, width, scale)
        self.strata = components

    @staticmethod
    def num_parameters(width: int, components: int = 2) -> int:
        return components * (1 + 2 * width)

    def start(self, width: int, scale: Tensor) -> Tensor:
        number = self.components
        row, column = torch.arange(1.0, number + 1), torch.arange(1.0, width + 1)
        pattern = torch.cos(torch.outer(row, column).double())
        pattern = pattern - pattern.mean(0)
        pattern = pattern / pattern.square().mean(0).sqrt()  # mean 0 and variance 1 over components
        means = BETWEEN**0.5 * scale * pattern.to(scale.dtype)
        sds = ((1 - BETWEEN) ** 0.5 * scale).expand(number, width)
        return torch.cat([torch.zeros(number), means.flatten(), sds.log().flatten()])

    def law(self, parameters: Tensor) -> Distribution:
        k, z = self.components, self.width
        logits, means, log_sds = parameters.split([k, k * z, k * z], dim=-1)
        normals = Normal(
            means.unflatten(-1, (k, z)), log_sds.unflatten(-1, (k, z)).exp(), validate_args=False
        )
        return MixtureSameFamily(
            Categorical(logits=logits, validate_args=False),
            Independent(normals, 1, validate_args=False),
            validate_args=False,
        )

    def stratified(self, law: Distribution, num_samples: int) -> tuple[Tensor, Tensor | None]:
        """Draw `num_samples` times from every component, see `Posterior.stratified`."""
        assert isinstance(law, MixtureSameFamily)
        z = law.component_distribution.rsample(torch.Size([num_samples]))  # [S, B, K, Z]
        weights = law.mixture_distribution.probs.mT / num_samples  # [K, B]
        return z.transpose(1, 2).flatten(0, 1), weights.repeat(num_samples, 1)

    def kl(self, q: Distribution, p: Distribution) -> Tensor:
        """Return Σ_k w_k (KL(q_k ‖ p) + E_{q_k}[log q − log q_k]), the second part by draws.

        That part is minus the information between z and its component: from −log K, and then
        without noise, where the components lie apart, to 0 where they are the same. It takes
        DRAWS · K² · Z numbers per row. p: batch shape [].
        """
        assert isinstance(q, MixtureSameFamily)
        parts = q.component_distribution
        weights = q.mixture_distribution.probs  # [B, K]
        z = parts.rsample(torch.Size([DRAWS]))  # [S, B, K, Z]
        log_q = q.log_prob(z.movedim(2, 1)).movedim(1, 2)  # [S, B, K]
        shared = (log_q - parts.log_prob(z)).mean(0)
        of_parts = kl_of_diagonal(parts, p)
        return (weights * (of_parts + shared)).sum(-1)

    def factor(self, q: Distribution, group: Tensor) -> Tensor:
        """Return [√w_k diag(s_k), √w_k (m_k − m)] for all k: within the components and between."""
        assert isinstance(q, MixtureSameFamily)
        share = q.mixture_distribution.probs.sqrt()[..., None, None]  # [*, K, 1, 1]
        parts = q.component_distribution
        within = share * torch.diag_embed(parts.stddev)  # [*, K, Z, Z]
        between = share * (parts.mean - q.mean.unsqueeze(-2)).unsqueeze(-1)  # [*, K, Z, 1]
        return torch.cat([within, between], dim=-1).transpose(-3, -2).flatten(-2)
